"""A Redis queue with the semantics of SQS.

Anybody may send with `redis-cli RPUSH <name> '<body>'`; everything else is one Lua script an operation
(`lua/`), so that no message is ever in a client's hands alone. The data model and its invariants stand
at the head of `lua/queue.lua`.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from os import urandom
from typing import Any

import msgspec

from . import limits
from .client import Argument, Client, ConnectionLost, Script, split_url
from .message import (
    Details,
    Entry,
    Failed,
    Message,
    MessageAttribute,
    Stats,
    from_reply,
    new_ids,
)
from .waiter import Waiter

try:  # hashlib loads OpenSSL, for one function that the interpreter has built in
    from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]  # before Python 3.12
    except ImportError:
        from hashlib import sha256

_CREATE = Script("create", "queue")
_CHANGE_VISIBILITY = Script("change_visibility", "clock", "queue")
_PURGE = Script("purge", "queue")


class _Scripts(msgspec.Struct, frozen=True):
    """What the two kinds of queue do differently."""

    send: Script
    receive: Script
    delete: Script
    stats: Script
    peek: Script
    redrive: Script


_LOOK = ("clock", "queue", "inbox", "standard")
_STANDARD = _Scripts(
    send=Script("send", "clock", "queue"),
    receive=Script("receive", "clock", "queue", "faults", "inbox", "standard"),
    delete=Script("delete", "queue", "faults"),
    stats=Script("stats", *_LOOK),
    peek=Script("peek", *_LOOK),
    redrive=Script("redrive", *_LOOK),
)
_FIFO_LOOK = ("clock", "queue", "faults", "inbox", "sha256", "fifo")
_FIFO = _Scripts(
    send=Script("fifo_send", *_FIFO_LOOK),
    receive=Script("fifo_receive", *_FIFO_LOOK),
    delete=Script("fifo_delete", *_FIFO_LOOK),
    stats=Script("fifo_stats", *_FIFO_LOOK),
    peek=Script("fifo_peek", *_FIFO_LOOK),
    redrive=Script("fifo_redrive", *_FIFO_LOOK),
)


class Received(msgspec.Struct, frozen=True):
    """What one look at the queue gave: messages, how many more may be received now, for how many
    seconds nothing can become visible without waking a `Waiter`, whether each deletion asked for along
    with it was carried out, and for how many seconds an environment is to be slow (`faults.py`)."""

    messages: list[Message]
    left: int
    quiet_for: float
    deleted: list[bool]
    slow: float = 0.0


class Queue:
    """A queue, or the dead-letter queue of another: they differ in nothing but their use."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name
        self.fifo = limits.is_fifo(name)
        self._scripts = _FIFO if self.fifo else _STANDARD
        self._waiter: Waiter | None = None

    @classmethod
    def open(cls, url: str, *, retry_for: float = 5.0) -> "Queue":
        """The queue at `redis://host:port/name`. Raises ValueError when no name is given."""
        name = split_url(url)[2]
        if not name:
            raise ValueError(f"expected redis://host:port/name, got {url!r}")
        return cls(Client.from_url(url, retry_for=retry_for), name)

    def close(self) -> None:
        """Drop the connections; the next call opens new ones."""
        if self._waiter is not None:
            self._waiter.close()
        self.client.close()

    def __enter__(self) -> "Queue":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def create(
        self,
        *,
        visibility_timeout: float = 30.0,
        max_receive_count: int | None = None,
        dead_letter_queue: str | None = None,
        retention: float = 345_600.0,
        delay: float = 0.0,
        fifo: bool = False,
        content_based_deduplication: bool = False,
    ) -> None:
        """Set the queue's attributes for every client of it; messages in it stay. Times in seconds.

        A FIFO queue's name, and no other, ends in `.fifo`; so does its dead-letter queue's.
        `content_based_deduplication`: a message without a deduplication id gets the SHA-256 of its body.
        Raises ValueError where SQS's CreateQueue would refuse the value.
        """
        if fifo != self.fifo:
            raise ValueError(f"a FIFO queue's name and no other ends in .fifo, got {self.name!r}")
        if content_based_deduplication and not fifo:
            raise ValueError("content_based_deduplication is for FIFO queues")
        _between("visibility_timeout", visibility_timeout, 0, limits.MAXIMUM_VISIBILITY_SECONDS)
        _between("retention", retention, 60, 1_209_600)
        _between("delay", delay, 0, limits.MAXIMUM_DELAY_SECONDS)
        if (max_receive_count is None) != (dead_letter_queue is None):
            raise ValueError("max_receive_count and dead_letter_queue need each other")
        if max_receive_count is not None:
            _between("max_receive_count", max_receive_count, 1, 1000)
        if dead_letter_queue == self.name:
            raise ValueError("a queue cannot be its own dead-letter queue")
        if dead_letter_queue and limits.is_fifo(dead_letter_queue) != fifo:
            raise ValueError("the dead-letter queue of a FIFO queue, and no other, must be FIFO")
        self.client.run(
            _CREATE,
            self.name,
            *("visibility_timeout", _milliseconds(visibility_timeout)),
            *("retention", _milliseconds(retention)),
            *("delay", _milliseconds(delay)),
            *("max_receive_count", max_receive_count or ""),
            *("dead_letter_queue", dead_letter_queue or ""),
            *("content_based_deduplication", int(content_based_deduplication) or ""),
        )

    def send(
        self,
        body: str,
        *,
        delay: float | None = None,
        attributes: Mapping[str, str | MessageAttribute] | None = None,
        group_id: str | None = None,
        deduplication_id: str | None = None,
        trace_header: str | None = None,
    ) -> str:
        """Send one message; gives its id. `delay`: seconds, None for the queue's own. `trace_header`: see
        Entry.

        A FIFO queue accepts a duplicate (the same deduplication id within 5 minutes), gives the id of the
        original and enqueues nothing. Raises limits.Refused (a ValueError) where SQS would refuse the
        message.
        """
        entry = Entry(body, delay, attributes, group_id, deduplication_id, trace_header)
        (identifier,), failed = self._send([entry], alone=True)
        for refused in failed:
            raise limits.Refused(refused.code, refused.message)
        assert identifier is not None
        return identifier

    def send_batch(self, entries: Iterable[Entry | str]) -> tuple[list[str | None], list[Failed]]:
        """Send up to ten messages of 1 MiB together; plain strings are bodies.

        Gives the ids in the order of the entries (None for a refused one) and the refused entries.
        Raises limits.Refused where SQS refuses the batch as a whole.
        """
        batch = [Entry(entry) if isinstance(entry, str) else entry for entry in entries]
        if not batch:
            raise limits.Refused("EmptyBatchRequest", "the batch has no entries")
        if len(batch) > limits.MAXIMUM_BATCH_ENTRIES:
            raise limits.Refused(
                "TooManyEntriesInBatchRequest", f"{len(batch)} entries; 10 at most"
            )
        return self._send(batch)

    def _send(
        self, batch: list[Entry], *, alone: bool = False
    ) -> tuple[list[str | None], list[Failed]]:
        total = 0
        ids: list[str | None] = []
        failed: list[Failed] = []
        arguments: list[Argument] = []
        arguments_of = _fifo_arguments if self.fifo else _arguments
        for index, (entry, identifier) in enumerate(zip(batch, new_ids(len(batch)), strict=True)):
            attributes = limits.attributes_of(entry)
            try:
                total += limits.check(entry, attributes, fifo=self.fifo)
            except limits.Refused as refusal:
                if alone:
                    raise
                total += limits.size(entry, attributes)
                ids.append(None)
                failed.append(Failed(index, refusal.code, str(refusal)))
                continue
            ids.append(identifier)
            arguments += arguments_of(identifier, entry, attributes)
        if total > limits.MAXIMUM_MESSAGE_BYTES:
            raise limits.Refused(
                "BatchRequestTooLong", f"batch of {total} bytes; 1,048,576 at most"
            )
        if arguments:
            if self.fifo:
                self._take_answers(self._send_fifo(arguments), ids, failed)
            else:
                self.client.run(self._scripts.send, self.name, *arguments)
        return ids, failed

    def _send_fifo(self, arguments: list[Argument]) -> list[Any]:
        before: Argument = ""
        while True:
            answers = self.client.run(self._scripts.send, self.name, before, *arguments)
            if isinstance(answers, list):
                return answers
            before = answers  # so much was pushed earlier and has not been adopted yet

    @staticmethod
    def _take_answers(answers: list[Any], ids: list[str | None], failed: list[Failed]) -> None:
        """Put the ids that a FIFO queue has answered in place of those that were offered."""
        offered = [index for index, identifier in enumerate(ids) if identifier is not None]
        for index, answer in zip(offered, answers, strict=True):
            if answer == 0:
                ids[index] = None
                reason = (
                    "a FIFO queue without ContentBasedDeduplication needs MessageDeduplicationId"
                )
                failed.append(Failed(index, "InvalidParameterValue", reason))
            else:
                ids[index] = answer[0].decode()
        failed.sort(key=lambda refused: refused.index)

    def receive(
        self, max_messages: int = 10, wait: float = 0.0, *, visibility_timeout: float | None = None
    ) -> list[Message]:
        """Take up to `max_messages` for the visibility timeout: 1-10,000, for a FIFO queue 1-10 (SQS
        itself stops at 10 for both).

        Blocks for up to `wait` seconds until at least one is there. `visibility_timeout`: seconds, None
        for the queue's own. Raises ValueError, ConnectionLost.
        """
        _between("max_messages", max_messages, 1, 10 if self.fifo else 10_000)
        deadline = time.monotonic() + wait
        while True:
            received = self.look(max_messages, visibility_timeout=visibility_timeout)
            left = deadline - time.monotonic()
            if received.messages or left <= 0:
                return received.messages
            if self._waiter is None:
                self._waiter = Waiter(self.client, self.name)
            try:
                self._waiter.wait(min(left, received.quiet_for))
            except ConnectionLost:
                self._waiter.close()  # the next look reconnects, or gives up

    def look(
        self,
        max_messages: int,
        *,
        visibility_timeout: float | None = None,
        done: Iterable[str] = (),
    ) -> Received:
        """One RECEIVE without waiting, after deleting the receipts in `done` in the same round trip."""
        hidden: Argument = ""
        if visibility_timeout is not None:
            longest = limits.MAXIMUM_VISIBILITY_SECONDS
            _between("visibility_timeout", visibility_timeout, 0, longest)
            hidden = _milliseconds(visibility_timeout)
        seed = urandom(12).hex()
        arguments = (max_messages, seed, hidden)
        calls: list[tuple[Script, str, Sequence[Argument]]] = [
            (self._scripts.receive, self.name, arguments)
        ]
        if receipts := tuple(done):
            calls.insert(0, (self._scripts.delete, self.name, _halves(receipts)))
        *deleted, (wait, left, slow, *taken) = self.client.run_all(*calls)
        return Received(
            from_reply(*taken),
            left,
            max(wait, 0) / 1000,
            [answer == 1 for answer in deleted[0]] if deleted else [],
            slow / 1000,
        )

    def delete(self, receipt: str) -> bool:
        """Delete a message; False when the receipt handle is no longer the newest."""
        return self.delete_batch([receipt])[0]

    def delete_batch(self, receipts: Iterable[str]) -> list[bool]:
        """Delete several messages; for each whether its receipt handle was still the newest."""
        arguments = _halves(receipts)
        if not arguments:
            return []
        return [
            answer == 1 for answer in self.client.run(self._scripts.delete, self.name, *arguments)
        ]

    def change_visibility(self, receipt: str, seconds: float) -> bool:
        """Let an in-flight message return `seconds` from now; False when it is not ours any more.

        Raises ValueError unless 0 <= seconds <= 43,200.
        """
        _between("seconds", seconds, 0, limits.MAXIMUM_VISIBILITY_SECONDS)
        id_, seed = _halves([receipt])
        timeout = _milliseconds(seconds)
        return bool(self.client.run(_CHANGE_VISIBILITY, self.name, id_, seed, timeout))

    def stats(self) -> Stats:
        """Counts and age as a receiver would meet them now."""
        ready, in_flight, delayed, age = self.client.run(
            self._scripts.stats, self.name, urandom(12).hex()
        )
        return Stats(ready, in_flight, delayed, age / 1000)

    def peek(self, n: int = 10) -> list[Message]:
        """The next `n` messages, delayed ones last, without receiving them (SQS cannot do this)."""
        reply = self.client.run(self._scripts.peek, self.name, n, urandom(12).hex())
        return from_reply(*reply, peeked=True)

    def redrive(
        self,
        destination: str | None = None,
        *,
        max_messages: int | None = None,
        rate: int | None = None,
    ) -> int:
        """Move the messages of this dead-letter queue back, as SQS's StartMessageMoveTask does, and wait for
        it; gives how many were moved.

        Each goes to the queue that dead-lettered it, or all to `destination`; it gets a new id, a new
        enqueue time and a new receive count. `rate`: messages a second, 1-500, None for as fast as can be.
        What is in flight or delayed stays, and so does what is dead-lettered meanwhile. Raises
        limits.Refused when this is no queue's dead-letter queue, or when it is being redriven already;
        ValueError for another rate or a destination of the other kind.
        """
        if rate is not None:
            _between("rate", rate, 1, 500)
        if destination is not None and limits.is_fifo(destination) != self.fifo:
            raise ValueError("a FIFO queue's messages move to a FIFO queue, and no others do")
        # Should this process be killed, its claim lapses.
        claim, lapses = f"{self.name}:redrive", 10_000  # ms
        if not self.client.execute("SET", claim, urandom(12).hex(), "NX", "PX", lapses):
            raise limits.Refused("UnsupportedOperation", f"{self.name} is being redriven already")
        try:
            most = self.stats().ready
            if max_messages is not None:
                most = min(most, max_messages)
            return self._redrive(destination or "", most, rate, (claim, lapses))
        finally:
            self.client.execute("DEL", claim)

    def _redrive(self, to: str, most: int, rate: int | None, claim: tuple[str, int]) -> int:
        total = 0
        started = time.monotonic()
        while True:
            at_once = min(500 if rate is None else max(1, rate // 10), most - total)
            self.client.execute("PEXPIRE", *claim)
            seed = urandom(12).hex()
            moved: int = self.client.run(self._scripts.redrive, self.name, seed, at_once, to)
            if moved < 0:
                reason = f"{self.name} is not the dead-letter queue of any queue"
                raise limits.Refused("InvalidParameterValue", reason)
            total += moved
            if moved < at_once or total == most:
                return total
            if rate is not None:
                time.sleep(max(0.0, started + total / rate - time.monotonic()))

    def purge(self) -> int:
        """Remove every message; gives how many there were."""
        removed: int = self.client.run(_PURGE, self.name)
        return removed


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _halves(receipts: Iterable[str]) -> list[str]:
    """The ids, then the seeds."""
    ids: list[str] = []
    seeds: list[str] = []
    for receipt in receipts:
        id_, _, seed = receipt.rpartition(".")
        ids.append(id_)
        seeds.append(seed)
    return ids + seeds


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value!r}")


def _arguments(
    identifier: str, entry: Entry, attributes: dict[str, MessageAttribute]
) -> tuple[Argument, ...]:
    detailed = attributes or entry.group_id is not None or entry.trace_header is not None
    if not detailed and entry.delay is None:
        return identifier, entry.body, ""
    delay = "-" if entry.delay is None else _milliseconds(entry.delay)
    known = ""
    if detailed:
        details = Details(attributes, entry.group_id, trace_header=entry.trace_header)
        known = msgspec.json.encode(details).decode()
    return identifier, entry.body, f"{delay} {known}"


def _fifo_arguments(
    identifier: str, entry: Entry, attributes: dict[str, MessageAttribute]
) -> tuple[Argument, ...]:
    group, known = entry.group_id or "", entry.deduplication_id
    deduplication_id = known or sha256(entry.body.encode()).hexdigest()
    details = Details(attributes, group, deduplication_id, trace_header=entry.trace_header)
    packed = msgspec.json.encode(details)
    return identifier, entry.body, group, deduplication_id, "" if known else "1", packed
