"""The queue driven at random beside a model of SQS (`sqs_model.py`): they must agree at every step.

A failure prints the steps that lead to it, shortened as far as they go, and can be replayed by the
`@reproduce_failure` line that Hypothesis prints with it. MODEL_EXAMPLES: how many runs, 40 by default.
"""

import json
import os
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from local_sqs import Client, Entry, Message, Queue, advance_clock

from .sqs_model import Sent, SQSQueue

MINUTE = (
    60  # every time is a multiple of it, so that the milliseconds of a real clock do not matter
)
VISIBILITY = 2 * MINUTE
RETENTION = 15 * MINUTE
EVERYTHING = 10_000


class Machine(RuleBasedStateMachine):
    """What both kinds of queue have in common."""

    client: ClassVar[Client]
    fifo = False

    @initialize(most=st.integers(1, 3))
    def create(self, most):
        self.client.execute("FLUSHDB")
        suffix = ".fifo" if self.fifo else ""
        self.now = 0.0
        self.start = int(self.client.execute("TIME")[0])
        self.bodies = 0
        self.receipts: list[tuple[Sent, str]] = []
        self.work = Queue(self.client, f"work{suffix}")
        self.dead = Queue(self.client, f"dead{suffix}")
        self.dead_model = SQSQueue(30.0, 2 * RETENTION, self.fifo)
        self.model = SQSQueue(
            VISIBILITY,
            RETENTION,
            self.fifo,
            max_receives=most,
            dead_letters=self.dead_model,
        )
        self.configure()
        self.dead.create(
            retention=2 * RETENTION, fifo=self.fifo, content_based_deduplication=self.fifo
        )

    def configure(self):
        self.work.create(
            visibility_timeout=VISIBILITY,
            max_receive_count=self.model.max_receives,
            dead_letter_queue=self.dead.name,
            retention=RETENTION,
            delay=self.model.delay,
            fifo=self.fifo,
            content_based_deduplication=self.fifo,
        )

    def new_body(self):
        self.bodies += 1
        return f"body {self.bodies}"

    def new_messages(self, queue: Queue, model: SQSQueue) -> list[Message]:
        """What the queue has and the model does not know yet."""
        known = {message.id for message in model.messages}
        return [message for message in queue.peek(EVERYTHING) if message.id not in known]

    # Rules

    @rule(delay=st.sampled_from([0, MINUTE]))
    def set_delay(self, delay):
        self.model.delay = delay
        self.configure()

    @rule(
        most=st.integers(1, 10),
        hidden=st.sampled_from([None, None, 0, MINUTE, 5 * MINUTE]),
        keep=st.sets(st.integers(0, 9)),
    )
    def consume(self, most, hidden, keep):
        """Receive, and delete all but those at the places to keep."""
        for place, message in enumerate(self.receive(most, hidden)):
            if place not in keep:
                self.delete_by(*next(r for r in reversed(self.receipts) if r[1] == message.receipt))

    @rule(most=st.integers(1, 10), again=st.booleans())
    def fail(self, most, again):
        """Receive, and give it all back at once; somebody else may receive then."""
        self.receive(most, 0)
        if again:
            self.receive(most, None)

    def receive(self, most, hidden):
        received = self.work.receive(most, visibility_timeout=hidden)
        letters = self.new_messages(self.dead, self.dead_model)
        taken = self.model.receive(
            most,
            [message.id for message in received],
            [letter.id for letter in letters],
            self.now,
            VISIBILITY if hidden is None else hidden,
        )
        for message, expected in zip(received, taken, strict=True):
            expected.receipt = message.receipt
            self.receipts.append((expected, message.receipt))
            assert message.body == expected.body
            assert message.group_id == expected.group
            assert message.receive_count == expected.receives
            self.check_times(message, expected)
        for letter in letters:
            assert letter.dead_letter_source == self.work.name
            self.check_enqueued(letter, self.dead_model)
        return received

    def check_enqueued(self, message: Message, model: SQSQueue):
        (expected,) = (m.enqueued for m in model.messages if m.id == message.id)
        assert abs(message.sent_timestamp / 1000 - self.start - expected) < MINUTE / 2

    def check_times(self, message: Message, expected: Sent):
        self.check_enqueued(message, self.model)
        assert expected.first_receive is not None
        between = (message.first_receive_timestamp - message.sent_timestamp) / 1000
        assert abs(between - (expected.first_receive - expected.enqueued)) < MINUTE / 2

    # How many receipts ago, mostly one of the last few, which may still be of use. Not as many as there are:
    # which group of several comes first is the queue's choice, so that a replay may have received another number.
    receipts_ago = st.integers(1, 4) | st.integers(1, 30)

    def receipt(self, ago):
        return self.receipts[-min(ago, len(self.receipts))]

    @precondition(lambda self: self.receipts)
    @rule(ago=receipts_ago)
    def delete(self, ago):
        self.delete_by(*self.receipt(ago))

    def delete_by(self, expected, receipt):
        deleted = self.work.delete(receipt)
        if expected in self.model.live(self.now):
            assert deleted == self.model.can_delete(expected, receipt, self.now)
        if deleted:
            self.model.messages.remove(expected)

    @precondition(lambda self: self.receipts)
    @rule(ago=receipts_ago, seconds=st.sampled_from([0, MINUTE, 4 * MINUTE]))
    def change_visibility(self, ago, seconds):
        expected, receipt = self.receipt(ago)
        changed = self.work.change_visibility(receipt, seconds)
        if expected in self.model.live(self.now):
            assert changed == self.model.can_change_visibility(expected, receipt, self.now)
        if changed:
            expected.visible_from = self.now + seconds

    @invariant()
    def a_superseded_handle_does_nothing(self):
        """No message is taken from who received it last by the handle of who received it before."""
        live = self.model.live(self.now)
        old = [(m, receipt) for m, receipt in self.receipts if m in live and m.receipt != receipt]
        assert not any(self.work.delete_batch(receipt for _, receipt in old))
        taken = [receipt for message, receipt in old if message.visible_from > self.now]
        for receipt in taken[-3:]:
            assert not self.work.change_visibility(receipt, 0)

    @rule(minutes=st.sampled_from([1, 1, 1, 2, 2, 3, 4, 5, 20]))
    def pass_time(self, minutes):
        advance_clock(self.client, minutes * MINUTE)
        self.now += minutes * MINUTE

    @rule(most=st.sampled_from([None, None, 1, 3]))
    def redrive(self, most):
        movable = self.dead_model.redrivable(self.now)
        moved = self.dead.redrive(max_messages=most)
        assert moved == min(len(movable), len(movable) if most is None else most)
        kept = {message.id for message in self.dead.peek(EVERYTHING)}
        gone = [message for message in movable if message.id not in kept]
        assert len(gone) == moved
        for message in self.new_messages(self.work, self.model):
            (first, *_) = (m for m in gone if (m.body, m.group) == (message.body, message.group_id))
            gone.remove(first)
            assert message.receive_count == 0
            assert message.id not in {m.id for m in movable}
            self.dead_model.redrive(first, message.id, self.now)
            self.check_enqueued(message, self.model)
        assert gone == []

    @rule(really=st.integers(1, 5))
    def purge(self, really):
        if really > 1:  # seldom, so that other things can happen
            return
        self.work.stats()  # drops what is past its retention
        assert self.work.purge() == len(self.model.live(self.now))
        self.model.messages.clear()
        self.model.duplicates.clear()

    @rule()
    def look(self):
        for queue, model in ((self.work, self.model), (self.dead, self.dead_model)):
            stats = queue.stats()
            assert stats.ready == len(model.waiting(self.now))
            assert stats.in_flight == len(model.in_flight(self.now))
            assert stats.delayed == len(model.delayed(self.now))
            live = model.live(self.now)
            age = self.now - min((m.enqueued for m in live), default=self.now)
            assert abs(stats.oldest_age_seconds - age) < MINUTE / 2
            shown = [message.id for message in queue.peek(EVERYTHING)]
            hidden = model.in_flight(self.now)
            expected = [m.id for m in live if m not in hidden]
            assert shown == expected if self.fifo else sorted(shown) == sorted(expected)


class Standard(Machine):
    """A standard queue."""

    @rule(delay=st.sampled_from([None, None, 0, MINUTE, 3 * MINUTE]))
    def send(self, delay):
        body = self.new_body()
        self.model.send(self.work.send(body, delay=delay), body, self.now, delay=delay)

    @rule(number=st.integers(1, 10))
    def send_batch(self, number):
        bodies = [self.new_body() for _ in range(number)]
        ids, failed = self.work.send_batch(bodies)
        assert failed == []
        for id_, body in zip(ids, bodies, strict=True):
            assert id_ is not None
            self.model.send(id_, body, self.now)

    @rule(number=st.integers(1, 5))
    def push(self, number):
        bodies = [self.new_body() for _ in range(number)]
        self.client.execute("RPUSH", self.work.name, *bodies)
        found = {m.body: m.id for m in self.new_messages(self.work, self.model)}
        assert sorted(found) == sorted(bodies)
        for body in bodies:
            self.model.send(found[body], body, self.now)


class Fifo(Machine):
    """A FIFO queue with content-based deduplication."""

    fifo = True

    def expect_send(self, id_, body, group, deduplication_id):
        original = self.model.duplicate_of(body, deduplication_id, self.now)
        if original is not None:
            assert id_ == original
        else:
            assert id_ not in {m.id for m in self.model.messages}
            self.model.send(id_, body, self.now, group=group, deduplication_id=deduplication_id)

    groups = st.sampled_from("ab")
    contents = st.integers(1, 8).map("body {}".format)  # few, so that there are duplicates
    deduplication_ids = st.sampled_from([None, None, "d1", "d2"])

    @rule(body=contents, group=groups, deduplication_id=deduplication_ids)
    def send(self, body, group, deduplication_id):
        id_ = self.work.send(body, group_id=group, deduplication_id=deduplication_id)
        self.expect_send(id_, body, group, deduplication_id)

    @rule(entries=st.lists(st.builds(Entry, contents, group_id=groups), min_size=1, max_size=10))
    def send_batch(self, entries):
        ids, failed = self.work.send_batch(entries)
        assert failed == []
        for id_, entry in zip(ids, entries, strict=True):
            self.expect_send(id_, entry.body, entry.group_id, None)

    @rule(body=contents, group=st.sampled_from(["a", "b", None]))
    def push(self, body, group):
        envelope = {"body": body} if group is None else {"body": body, "group_id": group}
        text = body if group is None else json.dumps({"$message": envelope})
        self.client.execute("RPUSH", self.work.name, text)
        new = self.new_messages(self.work, self.model)
        assert [m.body for m in new] == (
            [] if self.model.duplicate_of(body, None, self.now) else [body]
        )
        for message in new:
            self.model.send(message.id, body, self.now, group=group or "default")


@pytest.mark.parametrize("machine", [Standard, Fifo], ids=["standard", "FIFO"])
def test_the_queue_and_the_model_agree(client, machine):
    connected = type(machine.__name__, (machine,), {"client": client})
    run_state_machine_as_test(
        connected,
        settings=settings(
            max_examples=int(os.environ.get("MODEL_EXAMPLES", "40")),
            stateful_step_count=60,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
