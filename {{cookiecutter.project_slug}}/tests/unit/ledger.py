"""A ledger in memory."""


class MemoryLedger:
    """``lambda_shim.contract.Ledger`` for tests: claims never run out by themselves."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, float]] = {}
        self.completed: set[str] = set()

    def claim(self, key: str, token: str, lease: float) -> tuple[str, float]:
        if key in self.completed:
            return "completed", 0.0
        holder, remaining = self.held.get(key, (token, 0.0))
        if holder != token:
            return "held", remaining
        self.held[key] = token, lease
        return "claimed", 0.0

    def complete(self, key: str, token: str) -> bool:
        if self.held.get(key, ("", 0.0))[0] != token:
            return False
        del self.held[key]
        self.completed.add(key)
        return True

    def release(self, key: str, token: str) -> bool:
        if self.held.get(key, ("", 0.0))[0] != token:
            return False
        del self.held[key]
        return True
