"""SQS events, a lambda context and a wiring, as small as the tests need them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from lambda_shim.messages import decoder
from lambda_shim.records import DeadLetterRecord
from lambda_shim.sqs import Entry, Refused

MAX_RECEIVE_COUNT = 3


class Order(msgspec.Struct, tag="order", tag_field="type"):
    id: str
    does: str = "nothing"

    @property
    def business_id(self) -> str:
        return f"order-{self.id}"


decode = decoder(Order)


def record(
    body: str, number: int = 0, attempt: int = 1, group: str | None = None
) -> dict[str, Any]:
    """One record of an SQS event, with every field that AWS documents."""
    attributes = {
        "ApproximateReceiveCount": str(attempt),
        "SentTimestamp": "1761955200000",
        "SenderId": "AIDAEXAMPLE",
        "ApproximateFirstReceiveTimestamp": "1761955200001",
    }
    queue = "orders"
    if group is not None:
        queue = "orders.fifo"
        attributes |= {
            "MessageGroupId": group,
            "MessageDeduplicationId": str(number),
            "SequenceNumber": str(number),
        }
    return {
        "messageId": f"m{number}",
        "receiptHandle": f"r{number}",
        "body": body,
        "attributes": attributes,
        "messageAttributes": {},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:eu-central-1:000000000000:{queue}",
        "awsRegion": "eu-central-1",
    }


def order(does: str, number: int = 0, attempt: int = 1, group: str | None = None) -> dict[str, Any]:
    """A record with an order that does something."""
    body = msgspec.json.encode(Order(id=str(number), does=does)).decode()
    return record(body, number, attempt, group)


def event(*records: dict[str, Any]) -> dict[str, Any]:
    return {"Records": list(records)}


class LambdaContext:
    """What awslambdaric passes, with a deadline that is real."""

    function_name = "orders-worker"
    function_version = "7"
    aws_request_id = "request-1"

    def __init__(self, seconds: float | None = None) -> None:
        self.deadline = None if seconds is None else time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int | None:
        return None if self.deadline is None else int((self.deadline - time.monotonic()) * 1000)


class MemoryLedger:
    """A ledger in memory whose claims do not run out."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.leases: list[float] = []
        self.completed: set[str] = set()

    def claim(self, key: str, token: str, lease: float) -> tuple[str, float]:
        self.leases.append(lease)
        if key in self.completed:
            return "completed", 0.0
        if self.held.setdefault(key, token) != token:
            return "held", 7.0
        return "claimed", 0.0

    def complete(self, key: str, token: str) -> bool:
        if self.held.get(key) != token:
            return False
        self.completed.add(key)
        return True

    def release(self, key: str, token: str) -> bool:
        return self.held.pop(key, None) is not None


class FailureQueue:
    """Remembers what was sent to it."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.fails: Exception | None = None
        self.refuses = False

    def send_entries(self, entries: Sequence[Entry]) -> list[Refused]:
        if self.fails is not None:
            raise self.fails
        if self.refuses:
            return [Refused(0, False, "InternalError", "try again")]
        self.bodies += [entry.body for entry in entries]
        return []


class Stores:
    """Wiring, record store and queue in one; remembers what it was asked."""

    max_receive_count = MAX_RECEIVE_COUNT
    ports = None

    def __init__(self) -> None:
        self.parked: list[DeadLetterRecord] = []
        self.visibility: list[tuple[str, float]] = []
        self.ledger = MemoryLedger()
        self.refuses = False
        self.failure_queue: FailureQueue | None = None

    @property
    def records(self) -> Stores:
        return self

    @property
    def queue(self) -> Stores:
        return self

    def put(self, record: DeadLetterRecord) -> None:
        if self.refuses:
            raise OSError("store unavailable")
        self.parked.append(record)

    def change_visibility(self, receipt: str, seconds: float) -> None:
        if self.refuses:
            raise OSError("queue unavailable")
        self.visibility.append((receipt, seconds))
