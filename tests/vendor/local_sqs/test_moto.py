"""The queue beside moto's SQS server: the same operations, the same outcome, where moto is right.

`test_where_moto_is_wrong_…` name what the comparison leaves out because moto does not do as SQS documents;
each shows both behaviours, so that it fails the day moto mends its own.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from local_sqs import Client, Message, Queue, advance_clock
from moto.core.utils import unix_time, unix_time_millis
from moto.server import ThreadedMotoServer

from .conftest import on_one_server

MINUTE = 60
ROOM = 10  # messages at most in a queue, so that a receive takes all it may and has no choice


class MotoClock:
    """moto's time, moved on as `advance_clock` moves the queue's."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.offset = 0.0
        patch.setattr("moto.sqs.models.unix_time", lambda: unix_time() + self.offset)
        patch.setattr(
            "moto.sqs.models.unix_time_millis", lambda: unix_time_millis() + self.offset * 1000
        )


@pytest.fixture(scope="module")
def moto_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def sqs(moto_server):
    return boto3.client(
        "sqs",
        endpoint_url=moto_server,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture
def moto_clock(monkeypatch):
    return MotoClock(monkeypatch)


_names = iter(range(1_000_000))


def _moto_queue(sqs: Any, *, fifo: bool = False, most: int | None = None) -> tuple[str, str]:
    """URLs of a queue as `_our_queue` makes it, and of its dead-letter queue, in moto."""
    suffix = f"{next(_names)}" + (".fifo" if fifo else "")
    kind = {"FifoQueue": "true", "ContentBasedDeduplication": "true"} if fifo else {}
    dead = sqs.create_queue(QueueName=f"dead-{suffix}", Attributes=kind)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]
    attributes = {"VisibilityTimeout": str(2 * MINUTE), **kind}
    if most is not None:
        policy = f'{{"deadLetterTargetArn": "{arn["QueueArn"]}", "maxReceiveCount": {most}}}'
        attributes["RedrivePolicy"] = policy
    return sqs.create_queue(QueueName=f"work-{suffix}", Attributes=attributes)["QueueUrl"], dead


def _our_queue(client: Client, *, fifo: bool = False, most: int | None = None) -> Queue:
    client.execute("FLUSHDB")
    suffix = ".fifo" if fifo else ""
    queue = Queue(client, f"work{suffix}")
    queue.create(
        visibility_timeout=2 * MINUTE,
        fifo=fifo,
        content_based_deduplication=fifo,
        max_receive_count=most,
        dead_letter_queue=None if most is None else f"dead{suffix}",
    )
    return queue


class Beside(RuleBasedStateMachine):
    """A queue with a dead-letter queue."""

    client: ClassVar[Client]
    sqs: ClassVar[Any]
    moto_clock: ClassVar[MotoClock]
    fifo = False

    @initialize(most=st.integers(1, 3))
    def create(self, most):
        self.ours = _our_queue(self.client, fifo=self.fifo, most=most)
        self.theirs, self.their_dead = _moto_queue(self.sqs, fifo=self.fifo, most=most)
        self.our_dead = Queue(self.client, "dead.fifo" if self.fifo else "dead")
        self.number = 0
        self.now = 0
        self.group_of: dict[
            str, str | None
        ] = {}  # of each body that is there, dead-lettered or not
        # body -> both receipt handles, and until when the message is in flight
        self.held: dict[str, tuple[str, str, int]] = {}
        self.some_returned = False  # since the last receive
        self.purged = -MINUTE

    def send_to_both(self, group=None, delay=None):
        self.number += 1
        body = f"body {self.number}"
        self.group_of[body] = group
        self.ours.send(body, group_id=group, delay=delay)
        extra = {"MessageGroupId": group, "DelaySeconds": delay}
        given = {name: value for name, value in extra.items() if value is not None}
        self.sqs.send_message(QueueUrl=self.theirs, MessageBody=body, **given)

    def receive_from_both(self, hidden, at_once=ROOM):
        """Whatever may be received; both must give the same, each group in order."""
        ours: list[Message] = []
        theirs: list[dict[str, Any]] = []
        extra = {} if hidden is None else {"VisibilityTimeout": hidden}
        extra |= {"MessageSystemAttributeNames": ["All"]}
        while True:
            mine = self.ours.receive(at_once, visibility_timeout=hidden)
            other = _receive_from_moto(self.sqs, self.theirs, at_once, **extra)
            ours += mine
            theirs += other
            if not mine and not other:
                break
        self.some_returned = False
        seen = [(m.group_id, m.body, m.receive_count) for m in ours]
        expected = [
            (
                m["Attributes"].get("MessageGroupId"),
                m["Body"],
                int(m["Attributes"]["ApproximateReceiveCount"]),
            )
            for m in theirs
        ]
        for group in {group for group, _, _ in seen + expected}:
            mine_of_it = [each for each in seen if each[0] == group]
            theirs_of_it = [each for each in expected if each[0] == group]
            if group is None:  # a standard queue's, in any order
                assert sorted(mine_of_it) == sorted(theirs_of_it)
            else:
                assert mine_of_it == theirs_of_it
        their_receipts = {m["Body"]: m["ReceiptHandle"] for m in theirs}
        for message in ours:
            until = self.now + (2 * MINUTE if hidden is None else hidden)
            self.held[message.body] = message.receipt, their_receipts[message.body], until
        ages = {m.body: m.first_receive_timestamp - m.sent_timestamp for m in ours}
        for each in theirs:
            times = each["Attributes"]
            age = int(times["ApproximateFirstReceiveTimestamp"]) - int(times["SentTimestamp"])
            assert abs(age - ages[each["Body"]]) < 30_000

    def held_at(self, place):
        return sorted(self.held)[place % len(self.held)]

    def delete_from_both(self, body):
        ours, theirs, _ = self.held.pop(body)
        del self.group_of[body]
        self.sqs.delete_message(QueueUrl=self.theirs, ReceiptHandle=theirs)
        assert self.ours.delete(ours)

    def let_pass(self, minutes):
        advance_clock(self.client, minutes * MINUTE)
        self.moto_clock.offset += minutes * MINUTE
        self.now += minutes * MINUTE
        before = len(self.held)
        self.held = {body: held for body, held in self.held.items() if held[2] > self.now}
        self.some_returned |= len(self.held) < before

    hiding = st.sampled_from([None, None, MINUTE, 5 * MINUTE])

    @precondition(lambda self: self.group_of)
    @rule(hidden=hiding)
    def receive(self, hidden):
        self.receive_from_both(hidden)

    @precondition(lambda self: self.group_of)
    @rule(hidden=hiding, done=st.sets(st.integers(0, ROOM - 1)), minutes=st.integers(1, 6))
    def handle(self, hidden, done, minutes):
        """Receive, delete what is done, and let the rest return."""
        self.receive_from_both(hidden)
        for place, body in enumerate(sorted(self.held)):
            if place in done:
                self.delete_from_both(body)
        self.let_pass(minutes)

    @precondition(lambda self: self.group_of)
    @rule(minutes=st.integers(1, 6))
    def pass_time(self, minutes):
        self.let_pass(minutes)

    @precondition(lambda self: self.held)
    @rule(place=st.integers(0, ROOM - 1))
    def delete(self, place):
        self.delete_from_both(self.held_at(place))

    @precondition(lambda self: self.held)
    @rule(place=st.integers(0, ROOM - 1), seconds=st.sampled_from([MINUTE, 10 * MINUTE]))
    def change_visibility(self, place, seconds):
        body = self.held_at(place)
        ours, theirs, _ = self.held[body]
        self.held[body] = ours, theirs, self.now + seconds
        self.sqs.change_message_visibility(
            QueueUrl=self.theirs, ReceiptHandle=theirs, VisibilityTimeout=seconds
        )
        assert self.ours.change_visibility(ours, seconds)

    @precondition(
        lambda self: self.group_of and self.now >= self.purged + MINUTE
    )  # SQS: no oftener
    @rule(really=st.integers(1, 4))
    def purge(self, really):
        if really > 1:  # seldom, so that other things can happen
            return
        self.purged = self.now
        for ours, theirs in ((self.ours, self.theirs), (self.our_dead, self.their_dead)):
            ours.purge()
            self.sqs.purge_queue(QueueUrl=theirs)
        self.group_of.clear()
        self.held.clear()
        self.count()

    @rule()
    def count(self):
        for ours, theirs in ((self.ours, self.theirs), (self.our_dead, self.their_dead)):
            stats = ours.stats()
            counts = self.sqs.get_queue_attributes(QueueUrl=theirs, AttributeNames=["All"])
            attributes = counts["Attributes"]
            assert stats.in_flight == int(attributes["ApproximateNumberOfMessagesNotVisible"])
            assert stats.delayed == int(attributes["ApproximateNumberOfMessagesDelayed"])
            assert stats.ready == int(attributes["ApproximateNumberOfMessages"])


class Standard(Beside):
    """A standard queue."""

    @precondition(lambda self: len(self.group_of) < ROOM)
    @rule(delays=st.lists(st.sampled_from([None, None, 0, MINUTE]), min_size=1, max_size=4))
    def send(self, delays):
        for delay in delays[: ROOM - len(self.group_of)]:
            self.send_to_both(delay=delay)


class Fifo(Beside):
    """A FIFO queue of three groups."""

    fifo = True

    @precondition(lambda self: len(self.group_of) < ROOM)
    @rule(groups=st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
    def send(self, groups):
        for group in groups[: ROOM - len(self.group_of)]:
            self.send_to_both(group)

    def receive_from_both(self, hidden, at_once=ROOM):
        # After a return one by one, since moto cuts a batch short then.
        super().receive_from_both(hidden, at_once=1 if self.some_returned else at_once)

    def let_pass(self, minutes):
        # Of a group one message at most stays in flight, since several return out of order in moto.
        for group in "abc":
            held = [body for body in self.held if self.group_of[body] == group]
            for body in held:
                if body != held[self.number % len(held)]:
                    self.delete_from_both(body)
        super().let_pass(minutes)


@on_one_server
@pytest.mark.parametrize("machine", [Standard, Fifo], ids=["standard", "FIFO"])
def test_the_queue_does_as_moto_where_moto_is_right(client, sqs, moto_clock, machine):
    connected = {"client": client, "sqs": sqs, "moto_clock": moto_clock}
    run_state_machine_as_test(
        type(machine.__name__, (machine,), connected),
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


# What the comparison leaves out


def _receive_from_moto(sqs, url, most=1, **extra):
    return sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=most, **extra).get("Messages", [])


def test_where_moto_is_wrong_an_old_receipt_handle_deletes(client, sqs, moto_clock):
    ours, (theirs, _) = _our_queue(client), _moto_queue(sqs)
    ours.send("a")
    sqs.send_message(QueueUrl=theirs, MessageBody="a")
    (mine,) = ours.receive()
    (other,) = _receive_from_moto(sqs, theirs)
    advance_clock(client, 2 * MINUTE)
    moto_clock.offset += 2 * MINUTE + 1
    assert len(ours.receive()) == len(_receive_from_moto(sqs, theirs)) == 1
    assert not ours.delete(mine.receipt)
    sqs.delete_message(QueueUrl=theirs, ReceiptHandle=other["ReceiptHandle"])
    counts = sqs.get_queue_attributes(QueueUrl=theirs, AttributeNames=["All"])["Attributes"]
    assert (ours.stats().in_flight, counts["ApproximateNumberOfMessagesNotVisible"]) == (1, "0")


def test_where_moto_is_wrong_it_moves_no_messages_back(sqs):
    """So redriving is held against SQS's documentation alone, in test_redrive.py."""
    _, dead = _moto_queue(sqs, most=1)
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]
    with pytest.raises(ClientError, match="StartMessageMoveTask"):
        sqs.start_message_move_task(SourceArn=arn["QueueArn"])


def test_where_moto_is_wrong_visibility_changes_without_being_in_flight(client, sqs, moto_clock):
    ours, (theirs, _) = _our_queue(client), _moto_queue(sqs)
    ours.send("a")
    sqs.send_message(QueueUrl=theirs, MessageBody="a")
    (mine,) = ours.receive()
    (other,) = _receive_from_moto(sqs, theirs)
    advance_clock(client, 2 * MINUTE)
    moto_clock.offset += 2 * MINUTE + 1
    assert not ours.change_visibility(mine.receipt, MINUTE)  # SQS: MessageNotInflight
    sqs.change_message_visibility(
        QueueUrl=theirs, ReceiptHandle=other["ReceiptHandle"], VisibilityTimeout=MINUTE
    )
    assert (len(ours.receive()), len(_receive_from_moto(sqs, theirs))) == (1, 0)


def test_where_moto_is_wrong_deduplication_ends_with_the_message_and_gives_a_new_id(client, sqs):
    ours, (theirs, _) = _our_queue(client, fifo=True), _moto_queue(sqs, fifo=True)
    mine = ours.send("a", group_id="g")
    send = {"QueueUrl": theirs, "MessageBody": "a", "MessageGroupId": "g"}
    other = sqs.send_message(**send)["MessageId"]
    assert ours.send("a", group_id="g") == mine
    assert sqs.send_message(**send)["MessageId"] != other
    (message,) = ours.receive()
    ours.delete(message.receipt)
    (message,) = _receive_from_moto(sqs, theirs)
    sqs.delete_message(QueueUrl=theirs, ReceiptHandle=message["ReceiptHandle"])
    ours.send("a", group_id="g")
    sqs.send_message(**send)
    assert (len(ours.receive()), len(_receive_from_moto(sqs, theirs))) == (0, 1)


def test_where_moto_is_wrong_a_group_returns_out_of_order(client, sqs, moto_clock):
    ours, (theirs, _) = _our_queue(client, fifo=True), _moto_queue(sqs, fifo=True)
    for body in ("1", "2"):
        ours.send(body, group_id="g")
        sqs.send_message(QueueUrl=theirs, MessageBody=body, MessageGroupId="g")
    assert [m.body for m in ours.receive(2)] == ["1", "2"]
    assert [m["Body"] for m in _receive_from_moto(sqs, theirs, 2)] == ["1", "2"]
    advance_clock(client, 2 * MINUTE)
    moto_clock.offset += 2 * MINUTE + 1
    assert [m.body for m in ours.receive(2)] == ["1", "2"]
    assert [m["Body"] for m in _receive_from_moto(sqs, theirs, 2)] == ["2"]


def test_where_moto_is_wrong_a_group_is_cut_short_where_another_s_message_has_returned(
    client, sqs, moto_clock
):
    ours, (theirs, _) = _our_queue(client, fifo=True), _moto_queue(sqs, fifo=True)

    def send(body, group):
        ours.send(body, group_id=group)
        sqs.send_message(QueueUrl=theirs, MessageBody=body, MessageGroupId=group)

    send("a1", "a")
    send("b1", "b")
    assert len(ours.receive()) == len(_receive_from_moto(sqs, theirs, 10)) == 2
    send("a2", "a")
    advance_clock(client, 2 * MINUTE)
    moto_clock.offset += 2 * MINUTE + 1
    assert sorted(m.body for m in ours.receive()) == ["a1", "a2", "b1"]
    assert sorted(m["Body"] for m in _receive_from_moto(sqs, theirs, 10)) == ["a1", "b1"]


def test_where_moto_is_wrong_an_expired_handle_of_a_fifo_queue_deletes(client, sqs, moto_clock):
    ours, (theirs, _) = _our_queue(client, fifo=True), _moto_queue(sqs, fifo=True)
    ours.send("a", group_id="g")
    sqs.send_message(QueueUrl=theirs, MessageBody="a", MessageGroupId="g")
    (mine,) = ours.receive()
    (other,) = _receive_from_moto(sqs, theirs)
    advance_clock(client, 2 * MINUTE)
    moto_clock.offset += 2 * MINUTE + 1
    assert not ours.delete(mine.receipt)
    sqs.delete_message(QueueUrl=theirs, ReceiptHandle=other["ReceiptHandle"])
    assert (len(ours.receive()), len(_receive_from_moto(sqs, theirs))) == (1, 0)


def test_where_moto_is_wrong_sequence_numbers_do_not_increase(client, sqs):
    ours, (theirs, _) = _our_queue(client, fifo=True), _moto_queue(sqs, fifo=True)
    other = []
    for number in range(20):
        ours.send("a", group_id="g", deduplication_id=str(number))
        answer = sqs.send_message(
            QueueUrl=theirs,
            MessageBody="a",
            MessageGroupId="g",
            MessageDeduplicationId=str(number),
        )
        other.append(int(answer["SequenceNumber"]))
    mine = [int(message.sequence_number or 0) for message in ours.peek(20)]
    assert mine == sorted(mine)
    assert other != sorted(other)  # random: in order once in 20! runs


def test_where_moto_is_wrong_a_standard_queue_takes_a_deduplication_id(client, sqs):
    ours, (theirs, _) = _our_queue(client), _moto_queue(sqs)
    with pytest.raises(ValueError, match="FIFO"):
        ours.send("a", deduplication_id="d")
    sqs.send_message(QueueUrl=theirs, MessageBody="a", MessageDeduplicationId="d")
    assert len(_receive_from_moto(sqs, theirs)) == 1


def test_where_moto_is_wrong_attributes_do_not_count_as_size(client, sqs):
    ours, (theirs, _) = _our_queue(client), _moto_queue(sqs)
    body, value = "a" * (1024 * 1024 - 100), "v" * 200
    with pytest.raises(ValueError, match="1,048,576 at most"):
        ours.send(body, attributes={"k": value})
    attributes = {"k": {"DataType": "String", "StringValue": value}}
    sqs.send_message(QueueUrl=theirs, MessageBody=body, MessageAttributes=attributes)
    assert len(_receive_from_moto(sqs, theirs)) == 1


def test_where_moto_is_wrong_a_fifo_queue_s_dead_letter_keeps_its_enqueue_time(
    client, sqs, moto_clock
):
    ours = _our_queue(client, fifo=True, most=1)
    theirs, their_dead = _moto_queue(sqs, fifo=True, most=1)
    ours.send("a", group_id="g")
    sqs.send_message(QueueUrl=theirs, MessageBody="a", MessageGroupId="g")
    (mine,) = ours.receive()
    (other,) = _receive_from_moto(sqs, theirs, MessageSystemAttributeNames=["All"])
    advance_clock(client, 2 * MINUTE)
    moto_clock.offset += 2 * MINUTE + 1
    assert len(ours.receive()) == len(_receive_from_moto(sqs, theirs)) == 0
    (letter,) = Queue(client, "dead.fifo").receive()
    (their_letter,) = _receive_from_moto(sqs, their_dead, MessageSystemAttributeNames=["All"])
    assert letter.sent_timestamp >= mine.sent_timestamp + 2 * MINUTE * 1000
    assert their_letter["Attributes"]["SentTimestamp"] == other["Attributes"]["SentTimestamp"]
