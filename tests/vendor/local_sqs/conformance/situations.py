"""The rows that are more than a response: time, counts, limits, batches, FIFO."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import rows
from .rows import DESIGN, Row
from .scene import Arrangement, PartlyRefused, Refused, Scene, Send, Split

SITUATIONS: list[Row] = []

Check = Callable[[Scene], None]
TWICE = Arrangement(max_receive_count=2)
FIFO = Arrangement(fifo=True, max_receive_count=2)


def row(
    situation: str, outcome: str, rule: str, arrangement: Arrangement | None = None
) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        SITUATIONS.append(Row(situation, "", outcome, rule, arrangement or Arrangement(), check))
        return check

    return add


def refused(scene: Scene, *messages: Send) -> str:
    try:
        scene.send(*messages)
    except Refused as refusal:
        return refusal.code
    raise AssertionError(f"{messages[0].name} was accepted")


# Receives


@row(
    "a message that fails again and again",
    "ApproximateReceiveCount counts from 1, as text; SentTimestamp and "
    "ApproximateFirstReceiveTimestamp stay, in ms",
    rows.EVENT,
)
def counts(scene: Scene) -> None:
    scene.send(Send("m", ["fail"] * 3))
    for number in range(1, 4):
        scene.delivered(number)
        scene.return_to_queue(in_flight=1)
    records = scene.delivered(4)
    scene.lane.wait_empty()
    attributes = [record["attributes"] for record in records]
    assert [a["ApproximateReceiveCount"] for a in attributes] == ["1", "2", "3", "4"]
    (sent,) = {a["SentTimestamp"] for a in attributes}
    (first,) = {a["ApproximateFirstReceiveTimestamp"] for a in attributes}
    assert len(sent) == len(first) == 13
    assert int(sent) <= int(first)


@row(
    "a message that fails as often as maxReceiveCount (2) allows",
    "it is delivered twice, then moves to the dead-letter queue: same messageId, body and enqueue time",
    rows.DEAD_LETTERS,
    TWICE,
)
def dead_lettered(scene: Scene) -> None:
    message = Send("m", ["raise"] * 9)
    (identifier,) = scene.send(message)
    for number in (1, 2):
        records = scene.delivered(number)
        scene.return_to_queue(in_flight=1)
    letter = scene.dead_letter(identifier)
    assert letter["body"] == message.body
    assert letter["attributes"]["SentTimestamp"] == records[0]["attributes"]["SentTimestamp"]
    scene.lane.wait_empty()
    scene.delivered(2)


@row(
    "a dead letter is redriven",
    "it comes with a new messageId, a new enqueue time and receive count 1",
    rows.REDRIVE,
    Arrangement(max_receive_count=1),  # a lane of its own: all letters are redriven
)
def redriven(scene: Scene) -> None:
    (identifier,) = scene.send(Send("m", ["raise"]))
    (before,) = scene.delivered(1)
    scene.return_to_queue(in_flight=1)
    scene.dead_letter(identifier)
    scene.lane.pass_time(1)
    scene.lane.redrive()

    def again() -> list[str]:
        found = (record for batch in scene.lane.batches() for record in batch["records"])
        return [x["messageId"] for x in found if x["messageId"] != identifier]

    (new,) = scene.lane.wait(again, "the message is delivered under another id")
    scene.ids = {new: "m"}
    (record,) = scene.delivered(1)
    assert record["name"] == "m"
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert int(record["attributes"]["SentTimestamp"]) > int(before["attributes"]["SentTimestamp"])
    scene.return_to_queue(in_flight=1)
    assert scene.dead_letter(new)["body"] == Send("m", ["raise"]).body


@row(
    "Retry(after): the function calls ChangeMessageVisibility(3) and names the message",
    "it returns after 3 s, not after the visibility timeout",
    rows.VISIBILITY,
)
def sooner(scene: Scene) -> None:
    scene.send(Send("m", ["return after: 3"]))
    scene.delivered(1)
    scene.hide(3, in_flight=1)
    scene.delivered(2)
    scene.lane.wait_empty()


@row(
    "Retry(after): the function calls ChangeMessageVisibility(20) and names the message",
    "it stays hidden beyond the visibility timeout (10 s), and returns after 20 s",
    rows.VISIBILITY,
)
def later(scene: Scene) -> None:
    scene.send(Send("m", ["return after: 20"]))
    scene.delivered(1)
    scene.hide(20, in_flight=1)
    scene.delivered(2)
    scene.lane.wait_empty()


@row(
    "a message that fails until its retention (60 s) ends",
    "it vanishes, and is not dead-lettered",
    rows.MESSAGES,
    Arrangement(retention=60, visibility_timeout=40),
)
def expired(scene: Scene) -> None:
    (identifier,) = scene.send(Send("m", ["fail"] * 9))
    for number in (1, 2):
        scene.delivered(number)
        scene.return_to_queue(in_flight=1)
    scene.lane.wait_empty()
    scene.delivered(2)
    assert identifier not in [letter["messageId"] for letter in scene.lane.dead_letters()]


@row("a message with DelaySeconds 5", "it is delivered after 5 s", rows.DELAY)
def delayed(scene: Scene) -> None:
    sent = time.time()
    scene.send(Send("late", delay=5), Send("at once"))
    assert [record["name"] for record in scene.delivered(1)] == ["at once"]
    scene.hide(5, in_flight=0)
    _, late = scene.delivered(2)
    scene.lane.wait_empty()
    assert late["name"] == "late"
    assert scene.lane.virtual_time or late["at"] - sent >= 4


@row(
    "a healthy message, and a function with reserved concurrency (0) but no MaximumConcurrency",
    "it is throttled: received maxReceiveCount (2) times, never delivered, then dead-lettered",
    rows.SCALING,
    Arrangement(reserved_concurrency=0, max_receive_count=2),
)
def throttled(scene: Scene) -> None:
    (identifier,) = scene.send(Send("m"))
    for _ in range(2):
        scene.return_to_queue(in_flight=1)
    letter = scene.dead_letter(identifier)
    assert letter["body"] == Send("m").body
    scene.lane.wait_empty()
    scene.delivered(0)


# What the function is given


FIELDS = [
    *("attributes", "awsRegion", "body", "eventSource", "eventSourceARN", "md5OfBody"),
    *("messageAttributes", "messageId", "receiptHandle"),
]


@row(
    "a message without attributes",
    "the record has the documented fields and no others; md5OfBody is the MD5 of the body",
    rows.EVENT,
)
def fields(scene: Scene) -> None:
    from hashlib import md5

    message = Send("m")
    (identifier,) = scene.send(message)
    (record,) = scene.delivered(1)
    scene.lane.wait_empty()
    assert record["fields"] == FIELDS
    assert record["messageId"] == identifier
    assert record["md5OfBody"] == md5(message.body.encode()).hexdigest()
    assert record["messageAttributes"] == {}
    assert record["eventSource"] == "aws:sqs"
    parts = record["eventSourceARN"].split(":")
    assert parts[:3] == ["arn", "aws", "sqs"]
    assert parts[3] == record["awsRegion"]
    assert len(parts[4]) == 12
    assert set(record["attributes"]) - {"AWSTraceHeader"} == {
        *("ApproximateReceiveCount", "SentTimestamp", "SenderId"),
        "ApproximateFirstReceiveTimestamp",
    }
    assert all(isinstance(value, str) for value in record["attributes"].values())


@row(
    "a message with String, Number, Binary and custom-typed attributes",
    "they arrive in messageAttributes, with md5OfMessageAttributes as SQS computes it",
    rows.METADATA,
)
def attributes(scene: Scene) -> None:
    scene.send(
        Send(
            "m",
            attributes={
                "name": {"DataType": "String", "StringValue": "Zoë"},
                "count": {"DataType": "Number.int", "StringValue": "7"},
                "seal": {"DataType": "Binary", "BinaryValue": "AP8="},
            },
        )
    )
    (record,) = scene.delivered(1)
    scene.lane.wait_empty()
    assert record["fields"] == sorted([*FIELDS, "md5OfMessageAttributes"])
    lists: dict[str, list[str]] = {"stringListValues": [], "binaryListValues": []}
    assert record["messageAttributes"] == {
        "name": {"stringValue": "Zoë", **lists, "dataType": "String"},
        "count": {"stringValue": "7", **lists, "dataType": "Number.int"},
        "seal": {"binaryValue": "AP8=", **lists, "dataType": "Binary"},
    }
    assert record["md5OfMessageAttributes"] == MD5


MD5 = "a80dacbdeb64aebb4a9e26ef1cc2286a"
"""Of these attributes; test_conformance.py asks moto for the same."""


@row(
    "the context of an invocation",
    "the remaining time is the function's timeout at first, and less by what has passed since",
    f"{rows.DOCS}/lambda/latest/dg/python-context.html",
)
def remaining(scene: Scene) -> None:
    sent = time.time()
    scene.send(Send("m"))
    (record,) = scene.delivered(1)
    scene.lane.wait_empty()
    assert 1000 * scene.arrangement.timeout / 2 < record["remaining"]
    assert record["remaining"] <= 1000 * scene.arrangement.timeout
    began = record["at"] + record["remaining"] / 1000 - scene.arrangement.timeout
    assert sent - 0.05 <= began <= record["at"] + 0.05  # seconds by which clocks may differ


# Limits and batches


@row("a message of 1 MiB", "it is delivered; one byte more is refused", rows.MESSAGES)
def one_mebibyte(scene: Scene) -> None:
    scene.send(Send("whole", bytes=1_048_576))
    assert refused(scene, Send("more", bytes=1_048_577)) == "InvalidParameterValue"
    scene.delivered(1)
    scene.lane.wait_empty()


@row(
    "a message with ten attributes",
    "it is delivered with them; an eleventh is refused",
    rows.METADATA,
)
def ten_attributes(scene: Scene) -> None:
    ten = {f"k{number}": {"DataType": "String", "StringValue": "v"} for number in range(10)}
    scene.send(Send("m", attributes=ten))
    more = ten | {"k10": {"DataType": "String", "StringValue": "v"}}
    assert refused(scene, Send("more", attributes=more)) == "InvalidParameterValue"
    (record,) = scene.delivered(1)
    scene.lane.wait_empty()
    assert record["messageAttributes"].keys() == ten.keys()


@row("a message with DelaySeconds 901", "it is refused; 900 is the most", rows.DELAY)
def too_long_a_delay(scene: Scene) -> None:
    assert refused(scene, Send("m", delay=901)) == "InvalidParameterValue"


@row(
    "eleven messages in one SendMessageBatch",
    "all are refused",
    rows.BATCH,
)
def eleven_entries(scene: Scene) -> None:
    messages = [Send(f"{number}") for number in range(11)]
    assert refused(scene, *messages) == "TooManyEntriesInBatchRequest"
    scene.delivered(0)


@row(
    "messages of more than 1 MiB together in one SendMessageBatch",
    "all are refused; of 1 MiB together, all are delivered",
    rows.BATCH,
)
def large_batch_request(scene: Scene) -> None:
    most = [Send(f"{number}", bytes=524_288) for number in range(2)]
    code = refused(scene, most[0], Send("more", bytes=524_289))
    assert code == "BatchRequestTooLong"
    scene.send(*most)
    assert sorted(record["name"] for record in scene.delivered(2)) == ["0", "1"]
    scene.lane.wait_empty()


@row(
    "one of three entries of a SendMessageBatch is not as SQS wants it",
    "the answer names it as Failed; the other two are delivered",
    rows.BATCH,
)
def failed_entry(scene: Scene) -> None:
    codes: dict[int, str] = {}
    try:
        scene.send(Send("first"), Send("second", ending="\0"), Send("third"))
    except PartlyRefused as some:
        codes = some.codes
    assert codes == {1: "InvalidMessageContents"}
    assert sorted(record["name"] for record in scene.delivered(2)) == ["first", "third"]
    scene.lane.wait_empty()


@row(
    "thirty messages, batch size 10",
    "no batch has more than 10; every message is delivered once",
    rows.SQS_TRIGGER,
)
def batch_size(scene: Scene) -> None:
    for start in range(0, 30, 10):
        scene.send(*(Send(f"{number}") for number in range(start, start + 10)))
    assert sorted(int(record["name"]) for record in scene.delivered(30)) == [*range(30)]
    scene.lane.wait_empty()
    assert max(len(batch["records"]) for batch in scene.batches()) <= 10


@row(
    "twenty-five messages, batch size 25 and a window of 5 s",
    "a batch has more than the 10 that one receive gives, at most 25",
    rows.SQS_TRIGGER,
    Arrangement(batch_size=25, batching_window=5),
)
def large_batch(scene: Scene) -> None:
    for start in range(0, 25, 5):
        scene.send(*(Send(f"{number}") for number in range(start, start + 5)))
    scene.delivered(25)
    scene.lane.wait_empty()
    largest = max(len(batch["records"]) for batch in scene.batches())
    assert largest <= 25
    if largest <= 10:
        raise Split


@row(
    "three messages one after another, a window of 2 s",
    "they come in one batch, when the window has ended",
    rows.BATCHING,
    Arrangement(batching_window=2),
)
def window(scene: Scene) -> None:
    started = time.time()
    for name in ("first", "second", "third"):
        scene.send(Send(name))
    records = scene.one_batch(3)
    scene.lane.wait_empty()
    assert records[0]["at"] - started >= 1.8


@row(
    "eight messages of nearly 1 MiB",
    "no batch has a payload over 6 MB",
    rows.SQS_TRIGGER,
    Arrangement(batching_window=1),
)
def cut(scene: Scene) -> None:
    for number in range(8):
        scene.send(Send(f"{number}", bytes=1_048_000))
    scene.delivered(8)
    scene.lane.wait_empty()
    assert max(batch["payload"] for batch in scene.batches()) <= 6 * 1024 * 1024


@row(
    "six slow batches, MaximumConcurrency 2",
    "two run at once, never three",
    rows.SCALING,
    Arrangement(batch_size=1),
)
def concurrency(scene: Scene) -> None:
    scene.send(*(Send(f"{number}", ["sleep: 0.5"]) for number in range(6)))
    started = sorted(record["at"] for record in scene.delivered(6))
    scene.lane.wait_empty()
    overlaps = [sum(at - 0.45 < other <= at for other in started) for at in started]
    assert max(overlaps) <= 2


# FIFO


def ordered(scene: Scene) -> list[str]:
    """Names in the order of their first deliveries."""
    return list(dict.fromkeys(scene.names()))


@row("twelve messages of one group", "they arrive in the order sent", rows.FIFO, FIFO)
def fifo_order(scene: Scene) -> None:
    wanted = [f"{number}" for number in range(12)]
    for start in range(0, 12, 6):
        part = wanted[start : start + 6]
        scene.send(*(Send(name, group="g", deduplication_id=name) for name in part))
    records = scene.delivered(12)
    scene.lane.wait_empty()
    assert scene.names() == wanted
    numbers = [record["attributes"]["SequenceNumber"] for record in records]
    assert numbers == sorted(numbers)
    assert {len(number) for number in numbers} == {20}
    assert {record["attributes"]["MessageGroupId"] for record in records} == {"g"}
    ids = [record["attributes"]["MessageDeduplicationId"] for record in records]
    assert [identifier.partition("-")[0] for identifier in ids] == wanted


@row(
    "the function names a message of a FIFO group, and the rest of the group in the batch",
    "the group is blocked until the visibility timeout ends, then goes on in order; others go on",
    rows.FIFO,
    FIFO,
)
def fifo_blocked(scene: Scene) -> None:
    scene.send(
        Send("a1", ["fail"], group="a", deduplication_id="a1"),
        Send("a2", ["fail"], group="a", deduplication_id="a2"),
    )
    scene.one_batch(2)
    scene.lane.settle(in_flight=2)
    scene.send(
        Send("a3", group="a", deduplication_id="a3"), Send("b1", group="b", deduplication_id="b1")
    )
    scene.delivered(3)
    scene.return_to_queue(in_flight=2)
    scene.delivered(6)
    scene.lane.wait_empty()
    assert [name for name in scene.names() if name != "b1"] == ["a1", "a2", "a1", "a2", "a3"]


@row(
    "a message of a group is being handled while the next is sent",
    "the next waits, though the function could run another",
    rows.FIFO,
    FIFO,
)
def fifo_in_flight(scene: Scene) -> None:
    scene.send(Send("a1", ["sleep: 1"], group="a", deduplication_id="a1"))
    scene.delivered(1)
    scene.send(Send("a2", group="a", deduplication_id="a2"))
    first, second = scene.delivered(2)
    scene.lane.wait_empty()
    assert (first["name"], second["name"]) == ("a1", "a2")
    assert second["at"] - first["at"] >= 0.99


@row("messages of three groups", "one batch can hold several groups", rows.SQS_TRIGGER, FIFO)
def fifo_groups(scene: Scene) -> None:
    scene.send(*(Send(f"{g}1", group=g, deduplication_id=f"{g}1") for g in "abc"))
    records = scene.one_batch(3)
    scene.lane.wait_empty()
    assert {record["attributes"]["MessageGroupId"] for record in records} == {"a", "b", "c"}


@row(
    "a message of a FIFO group fails as often as maxReceiveCount (2) allows",
    "it moves to the FIFO dead-letter queue: same messageId and group, a new enqueue time; the rest of "
    "the group overtakes it",
    rows.DEAD_LETTERS,
    FIFO,
)
def fifo_dead_letter(scene: Scene) -> None:
    (identifier,) = scene.send(Send("a1", ["fail"] * 9, group="a", deduplication_id="a1"))
    scene.delivered(1)
    scene.return_to_queue(in_flight=1)
    scene.delivered(2)
    scene.lane.settle(in_flight=1)
    scene.send(Send("a2", group="a", deduplication_id="a2"))
    scene.return_to_queue(in_flight=1)
    letter = scene.dead_letter(identifier)
    assert letter["attributes"]["MessageGroupId"] == "a"
    first, *_ = scene.delivered(3)
    scene.lane.wait_empty()
    assert scene.names() == ["a1", "a1", "a2"]
    enqueued = int(first["attributes"]["SentTimestamp"])
    assert int(letter["attributes"]["SentTimestamp"]) > enqueued


@row(
    "the same MessageDeduplicationId twice within 5 minutes",
    "it is accepted twice and delivered once, under the first id",
    rows.DEDUPLICATION,
    FIFO,
)
def deduplicated(scene: Scene) -> None:
    (first,) = scene.send(Send("once", group="a", deduplication_id="same"))
    scene.delivered(1)
    scene.send(Send("again", group="a", deduplication_id="same"))
    scene.send(Send("other", group="a", deduplication_id="other"))
    records = scene.delivered(2)
    scene.lane.wait_empty()
    assert [record["name"] for record in records] == ["once", "other"]
    assert records[0]["messageId"] == first


@row(
    "the same body twice within 5 minutes, with ContentBasedDeduplication",
    "it is delivered once",
    rows.DEDUPLICATION,
    Arrangement(fifo=True, max_receive_count=2, content_based_deduplication=True),
)
def deduplicated_by_content(scene: Scene) -> None:
    scene.send(Send("once", group="a"))
    scene.send(Send("once", group="a"))
    scene.send(Send("other", group="a"))
    records = scene.delivered(2)
    scene.lane.wait_empty()
    assert [record["name"] for record in records] == ["once", "other"]


@row(
    "a message without MessageGroupId to a FIFO queue",
    "it is refused",
    rows.FIFO,
    FIFO,
)
def no_group(scene: Scene) -> None:
    assert refused(scene, Send("m", deduplication_id="m")) == "MissingParameter"


@row(
    "a dead letter of a FIFO queue is redriven",
    "it comes with a new messageId and receive count 1, in its group, in the order of before",
    rows.REDRIVE,
    Arrangement(fifo=True, max_receive_count=1),
)
def fifo_redriven(scene: Scene) -> None:
    ids = scene.send(
        *(Send(name, ["fail"], group="a", deduplication_id=name) for name in ("a1", "a2"))
    )
    scene.one_batch(2)
    scene.return_to_queue(in_flight=2)
    for identifier in ids:
        scene.dead_letter(identifier)
    scene.lane.redrive()

    def again() -> list[dict[str, Any]]:
        found = [record for batch in scene.lane.batches() for record in batch["records"]]
        return [] if len(found) < 4 else found[2:]

    found = scene.lane.wait(again, "both are delivered under other ids")
    assert [record["name"] for record in found] == ["a1", "a2"]
    assert not {record["messageId"] for record in found} & {*ids}
    assert {record["attributes"]["ApproximateReceiveCount"] for record in found} == {"1"}
    assert {record["attributes"]["MessageGroupId"] for record in found} == {"a"}


@row(
    "the same MessageDeduplicationId again after 5 minutes",
    "it is another message, and delivered",
    rows.DEDUPLICATION,
    FIFO,
)
def deduplication_ends(scene: Scene) -> None:
    (first,) = scene.send(Send("once", group="a", deduplication_id="same"))
    scene.delivered(1)
    scene.lane.wait_empty()
    scene.lane.pass_time(301)
    (second,) = scene.send(Send("again", group="a", deduplication_id="same"))
    records = scene.delivered(2)
    scene.lane.wait_empty()
    assert first != second
    assert [record["name"] for record in records] == ["once", "again"]


@row(
    "SequenceNumber of messages of two groups",
    "text of 20 digits, larger for each later message of a group",
    rows.FIFO,
    FIFO,
)
def sequence_numbers(scene: Scene) -> None:
    names = ["a1", "b1", "a2", "b2"]
    for name in names:
        scene.send(Send(name, group=name[0], deduplication_id=name))
    records = scene.delivered(4)
    scene.lane.wait_empty()
    numbers = {record["name"]: record["attributes"]["SequenceNumber"] for record in records}
    assert all(len(number) == 20 and number.isdigit() for number in numbers.values())
    assert numbers["a1"] < numbers["a2"]
    assert numbers["b1"] < numbers["b2"]


# The shim


SHIM = Arrangement(handler="shim.handler", max_receive_count=3)
GUARDED = replace(SHIM, timeout=6)  # the guard acts in the last tenth: 0.6 s, for busy machines


@row(
    "the shim: the second of three messages of a FIFO group fails",
    "the group stops there: the second and third return, in order; the first and another group's are "
    "deleted",
    rows.ERRORS,
    replace(SHIM, fifo=True),
)
def shim_stops_group(scene: Scene) -> None:
    """Had the third been handled after the second failed, it would be parked, and not come again."""
    scene.send(
        Send("a1", group="a", deduplication_id="a1"),
        Send("a2", ["raise"], group="a", deduplication_id="a2"),
        Send("a3", ["reject"], group="a", deduplication_id="a3"),
        Send("b1", group="b", deduplication_id="b1"),
    )
    scene.one_batch(4)
    scene.return_to_queue(in_flight=2)
    scene.delivered(6)
    scene.lane.wait_empty()
    assert scene.names()[4:] == ["a2", "a3"]


@row(
    "the shim: a job raises Retry(after=3)",
    "it returns after 3 s, not after the visibility timeout",
    rows.VISIBILITY,
    SHIM,
)
def shim_retry(scene: Scene) -> None:
    scene.send(Send("m", ["retry after: 3"]))
    scene.delivered(1)
    scene.hide(3, in_flight=1)
    scene.delivered(2)
    scene.lane.wait_empty()


@row(
    "the shim: a job fails as often as maxReceiveCount (3) allows",
    "the shim parks it at its last delivery: it is deleted, and not dead-lettered",
    DESIGN,
    SHIM,
)
def shim_parks(scene: Scene) -> None:
    (identifier,) = scene.send(Send("m", ["raise"] * 9))
    for number in (1, 2):
        scene.delivered(number)
        scene.return_to_queue(in_flight=1)
    scene.delivered(3)
    scene.lane.wait_empty()
    assert identifier not in [letter["messageId"] for letter in scene.lane.dead_letters()]


def _guarded(returning: list[str], second: str) -> Check:
    def check(scene: Scene) -> None:
        scene.send(Send("first"), Send("second", [second]), Send("third"))
        scene.one_batch(3)
        scene.return_to_queue(in_flight=len(returning))
        again = scene.delivered(3 + len(returning))[3:]
        scene.lane.wait_empty()
        assert sorted(record["name"] for record in again) == sorted(returning)

    return check


row(
    "the shim: the second of three jobs takes longer than the function's timeout",
    "the guard ends it before Lambda kills: the first is deleted, the second and third return",
    DESIGN,
    GUARDED,
)(_guarded(["second", "third"], "take too long"))
row(
    "the shim with overflow: the second of three jobs takes longer than the function's timeout",
    "the guard hands it over before Lambda kills: the first and second are deleted, the third returns",
    DESIGN,
    replace(GUARDED, handler="shim.handler_with_overflow"),
)(_guarded(["third"], "take too long"))
for how, verb in (
    ("catches BaseException and goes on", "hang"),
    ("is in a C call, where no signal handler runs", "c call"),
):
    row(
        f"the shim: the second of three jobs {how} beyond the function's timeout",
        "the guard is ignored: Lambda kills the environment, and all three return",
        rows.LIMITS,
        SHIM,
    )(_guarded(["first", "second", "third"], verb))


# What cannot be set up


def _cannot(arrangements: list[Arrangement]) -> Check:
    def check(scene: Scene) -> None:
        for arrangement in arrangements:
            assert scene.lane.refusal(arrangement), f"{arrangement} was accepted"

    return check


for situation, rule, arrangements in (
    (
        "a queue with a visibility timeout over 43,200 s",
        rows.VISIBILITY,
        [Arrangement(visibility_timeout=43_201)],
    ),
    (
        "a queue with a retention under 60 s or over 14 days",
        rows.MESSAGES,
        [Arrangement(retention=59), Arrangement(retention=1_209_601)],
    ),
    ("a queue with a delay over 900 s", rows.DELAY, [Arrangement(delay=901)]),
    (
        "a redrive policy with maxReceiveCount 0, or over 1,000",
        rows.DEAD_LETTERS,
        [Arrangement(max_receive_count=0), Arrangement(max_receive_count=1001)],
    ),
    (
        "a FIFO queue with a standard dead-letter queue, or the reverse",
        rows.DEAD_LETTERS,
        [
            Arrangement(fifo=True, fifo_dead_letters=False),
            Arrangement(fifo=False, fifo_dead_letters=True),
        ],
    ),
    (
        "a function timeout longer than the queue's visibility timeout",
        rows.SQS_TRIGGER,
        [Arrangement(timeout=11, visibility_timeout=10)],
    ),
    (
        "a mapping with batch size 0, or over 10,000",
        rows.SQS_TRIGGER,
        [Arrangement(batch_size=0), Arrangement(batch_size=10_001, batching_window=1)],
    ),
    (
        "a mapping with batch size 11 and no batching window",
        rows.SQS_TRIGGER,
        [Arrangement(batch_size=11)],
    ),
    (
        "a mapping with a batching window over 300 s",
        rows.SQS_TRIGGER,
        [Arrangement(batching_window=301)],
    ),
    (
        "a FIFO queue's mapping with batch size 11, or with a batching window",
        rows.SQS_TRIGGER,
        [
            Arrangement(fifo=True, batch_size=11),
            Arrangement(fifo=True, batching_window=1),
        ],
    ),
    (
        "a mapping with MaximumConcurrency under 2 or over 1,000",
        rows.SCALING,
        [Arrangement(concurrency=1), Arrangement(concurrency=1001)],
    ),
):
    row(situation, "it is refused", rule)(_cannot(arrangements))
