"""Which effects are under way or done, by business id."""

import os
import signal
from typing import Literal

from .client import Client, Script, split_url

_CLAIM = Script("ledger_claim", "clock", "crash")
_COMPLETE = Script("ledger_complete", "clock", "crash")
_RELEASE = Script("ledger_release")

Claim = Literal["claimed", "completed", "held"]


class RedisLedger:
    """Claim a key, do its effect, complete it; who finds it completed skips the effect.

    Keys are `<prefix>:<key>` in Redis. Times follow the queue's clock (`advance_clock`).
    """

    def __init__(self, client: Client, prefix: str, *, remember: float = 1_209_600.0) -> None:
        """`remember`: seconds for which a completed key is known; default 14 days, the longest that
        SQS can keep a message and so bring back a duplicate."""
        self._client = client
        self._prefix = prefix
        self._remember = round(remember * 1000)

    @classmethod
    def open(cls, url: str, *, remember: float = 1_209_600.0) -> "RedisLedger":
        """The ledger at `redis://host:port/prefix`. Raises ValueError when no prefix is given."""
        prefix = split_url(url)[2]
        if not prefix:
            raise ValueError(f"expected redis://host:port/prefix, got {url!r}")
        return cls(Client.from_url(url), prefix, remember=remember)

    def close(self) -> None:
        self._client.close()

    def claim(self, key: str, token: str, lease: float) -> tuple[Claim, float]:
        """Claim `key` for `lease` seconds.

        Gives ("claimed", 0.0), also to a token that claims its own again; ("completed", 0.0); or
        ("held", seconds until the other token's lease ends). Atomic.
        """
        milliseconds = max(1, round(lease * 1000))
        state, left = self._client.run(
            _CLAIM, self._entry(key), token, milliseconds, self._remember
        )
        if left < 0:
            _crash()
        claim: Claim = state.decode()
        return claim, left / 1000

    def complete(self, key: str, token: str) -> bool:
        """Record that the effect is done; False when another token has taken the key meanwhile."""
        done: int = self._client.run(_COMPLETE, self._entry(key), token, self._remember)
        if done < 0:
            _crash()
        return done == 1

    def release(self, key: str, token: str) -> bool:
        """Give up a claim now; False when the token does not hold one."""
        return bool(self._client.run(_RELEASE, self._entry(key), token))

    def _entry(self, key: str) -> str:
        return f"{self._prefix}:{key}"


def _crash() -> None:
    """End this process as suddenly as a machine can: a fault that a test has asked for (`faults.py`)."""
    os.kill(os.getpid(), signal.SIGKILL)
