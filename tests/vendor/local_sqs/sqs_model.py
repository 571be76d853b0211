"""SQS as its documentation describes it, in plain Python: what the queue is compared with.

The model knows nothing of Redis. Where SQS leaves a choice (which messages a receive takes, and in which
order), it is told what the queue has chosen and checks that SQS could have chosen it. Time is a number that
only `pass_time` changes; all times are seconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import takewhile

DEDUPLICATION_SECONDS = 300


@dataclass(eq=False)
class Sent:
    """A message in a queue."""

    id: str
    body: str
    group: str | None
    enqueued: float
    visible_from: float
    receives: int = 0
    first_receive: float | None = None
    receipt: str | None = None
    source: "SQSQueue | None" = None  # the queue that dead-lettered it


@dataclass(eq=False)
class SQSQueue:
    """A queue of the model; its messages stand in the order in which they were enqueued."""

    visibility: float
    retention: float
    fifo: bool = False
    delay: float = 0
    max_receives: int | None = None
    dead_letters: "SQSQueue | None" = None
    messages: list[Sent] = field(default_factory=list)
    duplicates: dict[str, tuple[str, float]] = field(default_factory=dict)

    # What is where

    def live(self, now: float) -> list[Sent]:
        """The messages within their retention."""
        return [m for m in self.messages if m.enqueued + self.retention > now]

    def in_flight(self, now: float) -> list[Sent]:
        return [m for m in self.live(now) if m.receives and m.visible_from > now]

    def delayed(self, now: float) -> list[Sent]:
        return [m for m in self.live(now) if not m.receives and m.visible_from > now]

    def waiting(self, now: float) -> list[Sent]:
        """All but those in flight and delayed: SQS's ApproximateNumberOfMessages."""
        return [m for m in self.live(now) if m.visible_from <= now]

    def groups(self, now: float) -> dict[str | None, list[Sent]]:
        """What a receive may come upon, each group in order. In a standard queue each message is by itself;
        a FIFO group shows nothing while one of its messages is in flight, nor past a delayed one."""
        if not self.fifo:
            return {m.id: [m] for m in self.waiting(now)}
        blocked = {m.group for m in self.in_flight(now)}
        found: dict[str | None, list[Sent]] = {}
        for message in self.live(now):
            if message.group not in blocked:
                found.setdefault(message.group, []).append(message)
        return {
            group: list(takewhile(lambda m: m.visible_from <= now, messages))
            for group, messages in found.items()
        }

    def exhausted(self, message: Sent) -> bool:
        """Whether the next receive would exceed maxReceiveCount."""
        return self.max_receives is not None and message.receives >= self.max_receives

    # What happens

    def duplicate_of(self, body: str, deduplication_id: str | None, now: float) -> str | None:
        """The id that SendMessage to a FIFO queue answers with for a duplicate."""
        key = deduplication_id or sha256(body.encode()).hexdigest()
        original, until = self.duplicates.get(key, ("", 0.0))
        return original if now < until else None

    def send(
        self,
        id_: str,
        body: str,
        now: float,
        *,
        delay: float | None = None,
        group: str | None = None,
        deduplication_id: str | None = None,
    ) -> None:
        """A message that is no duplicate has been sent and got this id."""
        visible = now + (self.delay if delay is None else delay)
        self.messages.append(Sent(id_, body, group, now, visible))
        if self.fifo:
            key = deduplication_id or sha256(body.encode()).hexdigest()
            self.duplicates[key] = (id_, now + DEDUPLICATION_SECONDS)

    def receive(
        self, most: int, taken: Sequence[str], letters: Iterable[str], now: float, hidden: float
    ) -> list[Sent]:
        """The queue has taken messages of these ids, in this order, and dead-lettered `letters` meanwhile.

        Gives the messages taken. AssertionError when SQS could not have done that.
        """
        groups = self.groups(now)
        able = {m.id: m for each in groups.values() for m in each if not self.exhausted(m)}
        assert set(taken) <= able.keys(), "received what may not be received"
        assert len(set(taken)) == len(taken), "received twice at once"
        assert len(taken) == min(most, len(able)), "received too few"
        spent = {m.id: m for each in groups.values() for m in each if self.exhausted(m)}
        assert set(letters) <= spent.keys(), "dead-lettered too early"
        if len(taken) < most:
            assert set(letters) == spent.keys(), "not dead-lettered in time"
        if self.fifo:
            self._check_order(groups, taken, set(letters))
        for letter in letters:
            self._dead_letter(spent[letter], now)
        for id_ in taken:
            message = able[id_]
            message.receives += 1
            message.first_receive = now if message.first_receive is None else message.first_receive
            message.visible_from = now + hidden
        return [able[id_] for id_ in taken]

    def _check_order(
        self, groups: dict[str | None, list[Sent]], taken: Sequence[str], letters: set[str]
    ) -> None:
        unfinished = 0
        for messages in groups.values():
            mine = [id_ for id_ in taken if any(m.id == id_ for m in messages)]
            able = [m.id for m in messages if not self.exhausted(m)]
            assert mine == able[: len(mine)], "a group out of order"
            if mine:
                unfinished += len(mine) < len(able)
                before = takewhile(lambda m, last=mine[-1]: m.id != last, messages)  # type: ignore[misc]
                assert all(m.id in letters for m in before if self.exhausted(m)), "overtaken"
        assert unfinished <= 1, "more groups in a batch than need be"

    def _dead_letter(self, message: Sent, now: float) -> None:
        assert self.dead_letters is not None
        self.messages.remove(message)
        self.dead_letters.messages.append(message)
        message.source, message.visible_from = self, now
        if self.fifo:
            message.enqueued = now  # a standard queue's keeps its own

    def can_delete(self, message: Sent, receipt: str, now: float) -> bool:
        """The newest receipt handle deletes; a FIFO queue's expires with the visibility timeout."""
        if message not in self.messages or message.receipt != receipt:
            return False
        return not self.fifo or message.visible_from > now

    def can_change_visibility(self, message: Sent, receipt: str, now: float) -> bool:
        """MessageNotInflight otherwise."""
        return (
            message in self.messages and message.receipt == receipt and message.visible_from > now
        )

    def redrivable(self, now: float) -> list[Sent]:
        """What StartMessageMoveTask moves when it is given no destination."""
        movable: list[Sent] = []
        for messages in self.groups(now).values():
            movable += takewhile(lambda m: m.source is not None, messages)
        return movable

    def redrive(self, message: Sent, new_id: str, now: float) -> None:
        """Return a message to its source as a new one."""
        assert message.source is not None
        self.messages.remove(message)
        message.source.messages.append(Sent(new_id, message.body, message.group, now, now))
