"""Waiting for a queue without taking anything from it."""

import select

from .client import Client


class Waiter:
    """A connection of its own that blocks until a queue's inbox is not empty.

    `BLMOVE inbox inbox LEFT LEFT` puts back what it takes in the same step, so it looks without
    touching: nothing can be lost with the waiter. The queue's scripts keep the inbox non-empty while a
    message may be received (`lua/queue.lua`, invariant 2).
    """

    def __init__(self, client: Client, inbox: str) -> None:
        self._client = client.twin()
        self._inbox = inbox
        self._descriptor = -1

    def arm(self) -> int:
        """Start to wait unless waiting; gives the descriptor that becomes readable.

        Raises ConnectionLost.
        """
        if self._descriptor < 0:
            self._descriptor = self._client.post(
                "BLMOVE", self._inbox, self._inbox, "LEFT", "LEFT", 0
            )
        return self._descriptor

    def consume(self) -> None:
        """Take the answer once the descriptor is readable. Raises ConnectionLost."""
        self._descriptor = -1
        self._client.collect()

    def wait(self, seconds: float) -> bool:
        """Block for at most `seconds`; whether the inbox was seen non-empty. Raises ConnectionLost."""
        poller = select.poll()
        poller.register(self.arm(), select.POLLIN)
        if poller.poll(max(0.0, seconds) * 1000):
            self.consume()
            return True
        return False

    def fileno(self) -> int:
        """The connection's descriptor, -1 when there is none."""
        return self._client.fileno()

    def close(self) -> None:
        self._descriptor = -1
        self._client.close()
