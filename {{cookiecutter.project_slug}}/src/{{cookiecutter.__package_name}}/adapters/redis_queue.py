"""The local ends of the queue and the ledger. Never used on AWS."""

from collections.abc import Sequence

from lambda_shim.contract import Ledger
from lambda_shim.sqs import Refused
from local_sqs.ledger import RedisLedger
from local_sqs.queue import Queue


class RedisQueue:
    """``redis://127.0.0.1:7001/statements``: the local queue, seen as the shims see SQS."""

    def __init__(self, url: str) -> None:
        self._queue = Queue.open(url)

    def send_entries(self, bodies: Sequence[str]) -> list[Refused]:
        self._queue.send_batch(list(bodies))
        return []

    def change_visibility(self, receipt: str, seconds: float) -> None:
        self._queue.change_visibility(receipt, seconds)


def open_ledger(url: str) -> Ledger:
    """The ledger in the Redis of this URL; the path is its keys' prefix."""
    return RedisLedger.open(url)
