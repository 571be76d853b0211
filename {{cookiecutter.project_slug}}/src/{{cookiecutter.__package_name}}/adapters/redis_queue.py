"""The local queue as the shims see SQS. Never used on AWS."""

from collections.abc import Sequence

import local_sqs
from lambda_shim.sqs import Entry, Refused
from local_sqs.queue import Queue


class RedisQueue:
    """``redis://127.0.0.1:7001/statements``: the local queue, seen as the shims see SQS."""

    def __init__(self, url: str) -> None:
        self._queue = Queue.open(url)

    def send_entries(self, entries: Sequence[Entry]) -> list[Refused]:
        _, failed = self._queue.send_batch([_local(entry) for entry in entries])
        # The local queue is never short of capacity: what it refuses, SQS refuses as well.
        return [Refused(f.index, True, f.code, f.message) for f in failed]

    def change_visibility(self, receipt: str, seconds: float) -> None:
        self._queue.change_visibility(receipt, seconds)


def _local(entry: Entry) -> local_sqs.Entry:
    attributes = {
        name: local_sqs.MessageAttribute(
            value["dataType"], value.get("stringValue"), value.get("binaryValue")
        )
        for name, value in (entry.attributes or {}).items()
    }
    return local_sqs.Entry(
        entry.body,
        attributes=attributes,
        group_id=entry.group_id,
        deduplication_id=entry.deduplication_id,
    )
