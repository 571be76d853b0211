"""A Redis queue with the semantics of SQS.

Anybody may send with `redis-cli RPUSH <name> '<body>'`; everything else is one Lua script an operation
(`lua/`), so that no message is ever in a client's hands alone. The data model and its invariants stand
at the head of `lua/queue.lua`.
"""

import time
from collections.abc import Iterable, Mapping
from os import urandom

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
    from_columns,
    new_id,
    new_ids,
)
from .waiter import Waiter

_CREATE = Script("create", "queue")
_SEND = Script("send", "clock", "queue")
_RECEIVE = Script("receive", "clock", "queue", "settle")
_DELETE = Script("delete", "queue")
_CHANGE_VISIBILITY = Script("change_visibility", "clock", "queue")
_STATS = Script("stats", "clock", "queue", "settle")
_PEEK = Script("peek", "clock", "queue", "settle")
_PURGE = Script("purge", "queue")


class Received(msgspec.Struct, frozen=True):
    """What one look at the queue gave: messages, how many more may be received now, for how many
    seconds nothing can become visible without waking a `Waiter`, and whether each deletion asked for
    along with it was carried out."""

    messages: list[Message]
    left: int
    quiet_for: float
    deleted: list[bool]


class Queue:
    """A queue, or the dead-letter queue of another: they differ in nothing but their use."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name
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
    ) -> None:
        """Set the queue's attributes for every client of it; messages in it stay. Times in seconds.

        Raises ValueError where SQS's CreateQueue would refuse the value.
        """
        _between("visibility_timeout", visibility_timeout, 0, limits.MAXIMUM_VISIBILITY_SECONDS)
        _between("retention", retention, 60, 1_209_600)
        _between("delay", delay, 0, limits.MAXIMUM_DELAY_SECONDS)
        if (max_receive_count is None) != (dead_letter_queue is None):
            raise ValueError("max_receive_count and dead_letter_queue need each other")
        if max_receive_count is not None:
            _between("max_receive_count", max_receive_count, 1, 1000)
        if dead_letter_queue == self.name:
            raise ValueError("a queue cannot be its own dead-letter queue")
        self.client.run(
            _CREATE,
            self.name,
            *("visibility_timeout", _milliseconds(visibility_timeout)),
            *("retention", _milliseconds(retention)),
            *("delay", _milliseconds(delay)),
            *("max_receive_count", max_receive_count or ""),
            *("dead_letter_queue", dead_letter_queue or ""),
        )

    def send(
        self,
        body: str,
        *,
        delay: float | None = None,
        attributes: Mapping[str, str | MessageAttribute] | None = None,
        group_id: str | None = None,
        deduplication_id: str | None = None,
    ) -> str:
        """Send one message; gives its id. `delay`: seconds, None for the queue's own.

        Raises limits.Refused (a ValueError) where SQS would refuse the message.
        """
        entry = Entry(body, delay, attributes, group_id, deduplication_id)
        known = limits.attributes_of(entry)
        limits.check(entry, known)
        identifier = new_id()
        self.client.run(_SEND, self.name, *_arguments(identifier, entry, known))
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
        total = 0
        ids: list[str | None] = []
        failed: list[Failed] = []
        arguments: list[Argument] = []
        new = new_ids(len(batch))
        for index, (entry, identifier) in enumerate(zip(batch, new, strict=True)):
            attributes = limits.attributes_of(entry)
            try:
                total += limits.check(entry, attributes)
            except limits.Refused as refusal:
                total += limits.size(entry, attributes)
                ids.append(None)
                failed.append(Failed(index, refusal.code, str(refusal)))
                continue
            ids.append(identifier)
            arguments += _arguments(identifier, entry, attributes)
        if total > limits.MAXIMUM_MESSAGE_BYTES:
            raise limits.Refused(
                "BatchRequestTooLong", f"batch of {total} bytes; 1,048,576 at most"
            )
        if arguments:
            self.client.run(_SEND, self.name, *arguments)
        return ids, failed

    def receive(
        self, max_messages: int = 10, wait: float = 0.0, *, visibility_timeout: float | None = None
    ) -> list[Message]:
        """Take up to `max_messages` (1-10,000; SQS itself stops at 10) for the visibility timeout.

        Blocks for up to `wait` seconds until at least one is there. `visibility_timeout`: seconds, None
        for the queue's own. Raises ValueError, ConnectionLost.
        """
        _between("max_messages", max_messages, 1, 10_000)
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
        hidden = "" if visibility_timeout is None else _milliseconds(visibility_timeout)
        seed = urandom(12).hex()
        arguments = (max_messages, seed, hidden)
        calls: list[tuple[Script, str, tuple[Argument, ...]]] = [(_RECEIVE, self.name, arguments)]
        if receipts := tuple(done):
            calls.insert(0, (_DELETE, self.name, _halves(receipts)))
        *deleted, (wait, left, *taken) = self.client.run_all(*calls)
        return Received(
            from_columns(taken, seed),
            left,
            max(wait, 0) / 1000,
            [answer == 1 for answer in deleted[0]] if deleted else [],
        )

    def delete(self, receipt: str) -> bool:
        """Delete a message; False when the receipt handle is no longer the newest."""
        return self.delete_batch([receipt])[0]

    def delete_batch(self, receipts: Iterable[str]) -> list[bool]:
        """Delete several messages; for each whether its receipt handle was still the newest."""
        arguments = _halves(receipts)
        if not arguments:
            return []
        return [answer == 1 for answer in self.client.run(_DELETE, self.name, *arguments)]

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
        ready, in_flight, delayed, age = self.client.run(_STATS, self.name, urandom(12).hex())
        return Stats(ready, in_flight, delayed, age / 1000)

    def peek(self, n: int = 10) -> list[Message]:
        """The next `n` messages, delayed ones last, without receiving them (SQS cannot do this)."""
        reply = self.client.run(_PEEK, self.name, n, urandom(12).hex())
        return from_columns(reply, "")

    def purge(self) -> int:
        """Remove every message; gives how many there were."""
        removed: int = self.client.run(_PURGE, self.name)
        return removed


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _halves(receipts: Iterable[str]) -> tuple[str, ...]:
    halves: list[str] = []
    for receipt in receipts:
        id_, _, seed = receipt.rpartition(".")
        halves += (id_, seed)
    return tuple(halves)


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value!r}")


def _arguments(
    identifier: str, entry: Entry, attributes: dict[str, MessageAttribute]
) -> tuple[Argument, ...]:
    details: Argument = ""
    if attributes or entry.group_id or entry.deduplication_id:
        details = msgspec.json.encode(
            Details(attributes, entry.group_id or None, entry.deduplication_id or None)
        )
    delay = "" if entry.delay is None else _milliseconds(entry.delay)
    return identifier, entry.body, delay, details
