"""The operator's tools, over every store; and over moto's SQS and S3 as they are on AWS."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event as Flag
from typing import Any

import boto3
import msgspec
import pytest
from botocore.stub import Stubber
from lambda_shim import dead_letters_cli
from lambda_shim.batch import SqsHandler
from lambda_shim.bodies import pointed
from lambda_shim.dead_letters import entry_of
from lambda_shim.dead_letters_cli import Tools, age, duration, printable
from lambda_shim.objects import DirectoryObjects, Objects
from lambda_shim.records import (
    HISTORY_ATTRIBUTE,
    PARKED,
    RUNNING,
    WAITING,
    DeadLetterRecord,
    Event,
    Lease,
    Records,
    encode,
    inherit,
    open_records,
)
from lambda_shim.sqs import Entry, Refused, queue_of

from .stores import Breakable, MemoryObjects, dead_letter
from .support import FailureQueue, LambdaContext, Stores, decode, event, order, record

ORDERS = "arn:aws:sqs:eu-central-1:000000000000:orders"
INVOICES = "arn:aws:sqs:eu-central-1:000000000000:invoices"


class Queue:
    """Remembers what was sent, and refuses bodies that say so."""

    def __init__(self) -> None:
        self.sent: list[Entry] = []
        self.calls: list[int] = []
        self.fails_after: int | None = None

    def send_entries(self, entries: Sequence[Entry]) -> list[Refused]:
        if self.fails_after is not None and len(self.sent) >= self.fails_after:
            raise KeyboardInterrupt
        self.calls.append(len(entries))
        refused = [n for n, entry in enumerate(entries) if "refused" in entry.body]
        self.sent += [entry for n, entry in enumerate(entries) if n not in refused]
        return [Refused(n, True, "InvalidMessageContents", "no") for n in refused]


def dead_letter_bytes(**changes: Any) -> bytes:
    return encode(dead_letter("b", **changes))


class Desk:
    """An operator's desk: records, queues, and the command line."""

    def __init__(self, objects: Objects) -> None:
        self.records = Records(objects)
        self.queues: dict[str, Queue] = {ORDERS: Queue(), INVOICES: Queue()}
        self.failure_queue = FailureQueue()
        self.tools = Tools(self.records, self.queues.__getitem__, self.failure_queue)

    def __call__(self, *arguments: str) -> int:
        return dead_letters_cli.main(arguments, lambda _: self.tools)

    def put(self, key: str, ago: float = 60, **changes: Any) -> None:
        at = datetime.now(UTC) - timedelta(seconds=ago)
        self.records.put(dead_letter(key, parked_at=at.isoformat(), **changes))

    def keys(self) -> list[str]:
        return list(self.records.keys())


@pytest.fixture
def desk(objects: Objects) -> Desk:
    return Desk(objects)


@pytest.fixture
def memory() -> Desk:
    return Desk(MemoryObjects())


@pytest.fixture
def varied(memory: Desk) -> Desk:
    memory.put("a", ago=30, reason="rejected", business_id="order-1")
    memory.put(
        "b", ago=7200, reason="run_failed", error="KeyError: 'iban'", body='{"type": "bill"}'
    )
    memory.put(
        "c", ago=172_800, reason="malformed", error="x", traceback="… in Iban.check", body="}{"
    )
    memory.put("d", ago=10, reason="deadline", state=WAITING)
    memory.put("e", ago=10, reason="deadline", state=WAITING)
    assert memory.records.claim("e", "e.1", 60) is not None
    return memory


def listed(desk: Desk, capsys: pytest.CaptureFixture[str], *filters: str) -> list[str]:
    assert desk("ls", "--json", *filters) == 0
    return sorted(each["message_id"] for each in json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        ([], "abcde"),
        (["--reason", "rejected"], "a"),
        (["--reason", "rejected", "--reason", "malformed"], "ac"),
        (["--state", "waiting"], "d"),
        (["--state", "parked"], "abc"),
        (["--older-than", "1h"], "bc"),
        (["--older-than", "1h", "--newer-than", "1d"], "b"),
        (["--type", "bill"], "b"),
        (["--type", "order"], "ade"),
        (["--error", "iban"], "bc"),
        (["--business-id", "order-1"], "a"),
        (["b", "a", "b"], "ab"),
        (["--limit", "1"], "c"),
    ],
)
def test_filters(
    filters: list[str], keys: str, varied: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(varied, capsys, *filters) == list(keys)


def test_the_table_shows_what_an_operator_asks_first(
    varied: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert varied("ls") == 0
    head, oldest, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["KEY", "STATE", "REASON", "ATTEMPTS", "AGE"]
    assert oldest.split() == ["c", "parked", "malformed", "2", "2d", "-", "x"]


def test_an_empty_store_says_so(memory: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert memory("ls") == 0
    assert capsys.readouterr().out == "no records\n"


def test_show_tells_everything(varied: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert varied("show", "b") == 0
    out = capsys.readouterr().out
    for text in ("KeyError: 'iban'", '{"type": "bill"}', "run_failed", "history"):
        assert text in out
    assert varied("show", "--json", "b") == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "run_failed"
    assert varied("show", "nothing") == 1
    assert not {"group", "pool", "attributes"} & set(out.split())


def test_show_tells_of_group_pool_and_attributes(
    memory: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    attributes = {
        "tenant": {"stringValue": "acme\x1b[2J", "dataType": "String"},
        "seal": {"binaryValue": "AAE=", "dataType": "Binary"},
    }
    memory.put(
        "a",
        pool="billing",
        attributes={"MessageGroupId": "g7"},
        message_attributes=attributes,
    )
    assert memory("show", "a") == 0
    out = capsys.readouterr().out
    for line in (
        "       group  g7\n",
        "        pool  billing\n",
        "  tenant  acme\N{REPLACEMENT CHARACTER}[2J\n",
        "  seal  AAE=\n",
    ):
        assert line in out


def test_what_sqs_dead_lettered_has_its_messages_business_id(
    memory: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    body = '{"type": "order", "id": "7"}'
    memory.put("a", body=body)
    memory.put("b", body=body, business_id="on record")
    memory.put("c", body=body, pool="billing")  # another service's
    memory.put("d", body="}{")

    def call(*arguments: str) -> str:
        assert dead_letters_cli.main(arguments, lambda _: memory.tools, decode=decode) == 0
        return capsys.readouterr().out

    ids = {"a": "order-7", "b": "on record", "c": None, "d": None}
    assert {each["key"]: each["business_id"] for each in json.loads(call("ls", "--json"))} == ids
    assert [line.split()[5] for line in call("ls").splitlines()[1:]] == ["order-7", "on", "-", "-"]
    assert json.loads(call("show", "--json", "a"))["business_id"] == "order-7"
    assert "business id  order-7" in call("show", "a")
    assert "1 would be purged" in call("purge", "--business-id", "order-7", "--dry-run")
    call("redrive", "--business-id", "order-7")
    assert memory.keys() == ["b", "c", "d"]
    with pytest.raises(SystemExit):  # a way to decode is no filter
        call("purge")


def test_what_a_message_holds_does_not_reach_the_terminal_as_control_characters() -> None:
    assert printable("\x1b[31mred\x07\r\nnext") == "�[31mred�� next"
    assert printable("a\n\tb", lines=True) == "a\n\tb"


def test_redriven_messages_are_sent_and_their_records_gone(desk: Desk) -> None:
    desk.put("a", body="one")
    desk.put("b", body="two", source=INVOICES)
    desk.put("c", body="three", reason="malformed")
    assert desk("redrive", "--reason", "rejected") == 0
    assert [entry.body for entry in desk.queues[ORDERS].sent] == ["one"]
    assert [entry.body for entry in desk.queues[INVOICES].sent] == ["two"]
    assert desk.keys() == ["c"]


def test_a_dry_run_changes_nothing(varied: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for command, count in (("redrive", 3), ("park", 1), ("purge", 3)):
        assert varied(command, "--all", "--dry-run") == 0
        assert f"{count} would be" in capsys.readouterr().out
    assert varied.keys() == list("abcde")
    assert varied.queues[ORDERS].sent == []
    assert varied("purge", "--all", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["done"] == ["a", "b", "c"]


def test_what_is_open_is_not_redriven(varied: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert varied("redrive", "--all", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "done": ["c", "b", "a"],
        "left": {"d": "it is waiting", "e": "it is running"},
        "without_history": [],
    }
    assert varied.keys() == ["d", "e"]


def test_without_a_filter_nothing_is_changed_by_mistake(varied: Desk) -> None:
    for command in ("redrive", "park", "purge"):
        with pytest.raises(SystemExit) as stopped:
            varied(command)
        assert stopped.value.code == 2
    assert varied.keys() == list("abcde")


def test_a_refused_message_stays(memory: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    memory.put("a", body="one")
    memory.put("b", body="refused")
    memory.put("c", source="arn:aws:sqs:eu-central-1:000000000000:unknown")
    assert memory("redrive", "--all", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["done"] == ["a"]
    assert told["left"]["b"] == "refused: InvalidMessageContents: no"
    assert "not sent" in told["left"]["c"]
    assert memory.keys() == ["b", "c"]


def test_an_interrupted_redrive_is_resumed(memory: Desk) -> None:
    for number in range(25):
        memory.put(f"m{number:02}", body=str(number))
    memory.queues[ORDERS].fails_after = 10
    assert memory("redrive", "--all") == 130
    assert len(memory.keys()) == 15
    memory.queues[ORDERS].fails_after = None
    assert memory("redrive", "--all") == 0
    assert [entry.body for entry in memory.queues[ORDERS].sent] == [str(n) for n in range(25)]
    assert memory.queues[ORDERS].calls == [10, 10, 5]


@pytest.mark.parametrize("operation", ["put", "delete"])
def test_a_redrive_interrupted_at_its_records_holds_none_and_sends_none_twice(
    operation: str,
) -> None:
    objects = Breakable(MemoryObjects())
    desk = Desk(objects)
    for number in range(10):
        desk.put(f"m{number}", body=str(number))

    def interrupt(done: str, key: str) -> None:
        if done == operation:
            objects.after = lambda operation, key: None
            raise KeyboardInterrupt

    objects.after = interrupt
    assert desk("redrive", "--all") == 130
    assert desk("redrive", "--all") == 0
    assert sorted(entry.body for entry in desk.queues[ORDERS].sent) == list("0123456789")
    assert desk.keys() == []


@pytest.mark.parametrize("moment", ["take", "send"])
def test_ctrl_c_lets_a_batch_be_given_back_or_be_sent_and_removed(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Breakable(MemoryObjects())
    desk = Desk(objects)
    for number in range(10):
        desk.put(f"m{number}", body=str(number))
    presses: list[int] = []
    heard = Flag()

    def hear(*_: object) -> None:
        heard.set()
        raise KeyboardInterrupt

    def press() -> None:
        if not presses:
            presses.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert heard.wait(60)
            time.sleep(0.2)  # what is under way goes on for a while

    def taken(operation: str, key: str) -> None:
        if (moment, operation) == ("take", "put"):
            press()

    def send(entries: Sequence[Entry]) -> list[Refused]:
        refused = Queue.send_entries(desk.queues[ORDERS], entries)
        if moment == "send":
            press()
        return refused

    objects.after = taken
    monkeypatch.setattr(desk.queues[ORDERS], "send_entries", send)
    before = signal.signal(signal.SIGINT, hear)
    try:
        assert desk("redrive", "--all") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(desk.queues[ORDERS].sent) == (10 if moment == "send" else 0)
    assert len(desk.keys()) == (0 if moment == "send" else 10)
    assert desk("redrive", "--all") == 0
    assert sorted(entry.body for entry in desk.queues[ORDERS].sent) == list("0123456789")


def test_the_rate_is_kept(memory: Desk) -> None:
    from lambda_shim.dead_letters import Filter, redrive

    slept: list[float] = []
    for number in range(12):
        memory.put(f"m{number:02}")
    redrive(memory.records, Filter(), memory.tools.queue, rate=5, sleep=slept.append)
    assert memory.queues[ORDERS].calls == [5, 5, 2]
    assert slept == [1.0, 1.0, 0.4]


def test_a_batch_holds_no_more_than_sqs_takes(memory: Desk) -> None:
    for number in range(3):
        memory.put(f"m{number}", body="x" * 600_000)
    assert memory("redrive", "--all") == 0
    assert memory.queues[ORDERS].calls == [1, 1, 1]


def test_messages_of_a_group_are_sent_again_in_their_order(memory: Desk) -> None:
    fifo = f"{ORDERS}.fifo"
    memory.queues[fifo] = Queue()
    for number, key in enumerate("ecadfb"):
        # As text, 9… would come after 10….
        numbered = {"MessageGroupId": "g", "SequenceNumber": str(8 + number)}
        memory.put(key, body=str(number), source=fifo, attributes=numbered)
    assert memory("redrive", "--all", "--limit", "1") == 0
    assert memory("redrive", "--all") == 0
    assert [entry.body for entry in memory.queues[fifo].sent] == list("012345")


def test_what_follows_an_unsent_message_of_its_group_stays_behind_it(memory: Desk) -> None:
    fifo = f"{ORDERS}.fifo"
    queue = memory.queues[fifo] = Queue()
    for number, body in enumerate(["g 0", "g refused", "h 0", "g 2", "h 1", "g 3"]):
        numbered = {"MessageGroupId": body[0], "SequenceNumber": str(number)}
        memory.put(f"m{number}", body=body, source=fifo, attributes=numbered)
    assert memory("redrive", "--all") == 1
    assert [entry.body for entry in queue.sent] == ["g 0", "h 0", "h 1"]
    assert memory.keys() == ["m1", "m3", "m5"]
    assert memory("purge", "m1") == 0
    assert memory("redrive", "--all") == 0
    assert [entry.body for entry in queue.sent] == ["g 0", "h 0", "h 1", "g 2", "g 3"]


def test_a_queue_that_fails_for_a_moment_keeps_its_groups_order(
    memory: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    fifo = f"{ORDERS}.fifo"

    class Shaky(Queue):
        failed = False

        def send_entries(self, entries: Sequence[Entry]) -> list[Refused]:
            if len(self.sent) == 1 and not self.failed:
                self.failed = True
                raise ConnectionError("reset")
            return super().send_entries(entries)

    queue = memory.queues[fifo] = Shaky()
    for number in range(4):
        numbered = {"MessageGroupId": "g", "SequenceNumber": str(number)}
        memory.put(f"m{number}", body=str(number), source=fifo, attributes=numbered)
    assert memory("redrive", "--all") == 1
    assert "m2: left alone: an earlier message of its group was not sent" in capsys.readouterr().err
    assert memory("redrive", "--all") == 0
    assert [entry.body for entry in queue.sent] == ["0", "1", "2", "3"]


def test_a_body_that_nests_too_deeply_stands_in_nobodys_way(
    memory: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.put("a", body="[" * 50_000, reason="malformed")
    memory.put("b", body='{"type": "bill"}')
    assert memory("ls", "--type", "bill", "--json") == 0
    assert [each["key"] for each in json.loads(capsys.readouterr().out)] == ["b"]
    assert memory("show", "a") == 0


def test_programs_are_told_every_field(memory: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    memory.put("a")
    for command in (["ls"], ["show", "a"]):
        assert memory(*command, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        told = told[0] if isinstance(told, list) else told
        assert (told["key"], told["state"], told["runs"]) == ("a", PARKED, 0)


def test_other_messages_are_sent_again_the_oldest_first_queue_by_queue(memory: Desk) -> None:
    for key, sent in (("a", 3), ("b", 1), ("c", 2)):
        memory.put(
            key, body=f"order {sent}", attributes={"SentTimestamp": f"{1_761_955_200_000 + sent}"}
        )
    memory.put("d", body="bill 2", source=INVOICES, ago=30)
    memory.put("e", body="bill 1", source=INVOICES, ago=60)
    assert memory("redrive", "--all") == 0
    assert [entry.body for entry in memory.queues[ORDERS].sent] == ["order 1", "order 2", "order 3"]
    assert [entry.body for entry in memory.queues[INVOICES].sent] == ["bill 1", "bill 2"]
    assert memory.queues[INVOICES].calls == [2]


def test_ten_thousand_records_are_redriven(memory: Desk) -> None:
    for number in range(10_000):
        memory.records.put(dead_letter(f"m{number:05}", body=str(number)))
    assert memory("redrive", "--all") == 0
    assert len({entry.body for entry in memory.queues[ORDERS].sent}) == 10_000
    assert memory.keys() == []


def test_the_history_goes_on_when_a_redriven_message_fails_again(memory: Desk) -> None:
    given = order("reject", 7)
    store = Stores()
    store.put = memory.records.put  # type: ignore[assignment, method-assign]

    def worker(what: dict[str, Any]) -> None:
        def reject(message: object, context: object) -> None:
            from lambda_shim.contract import Reject

            raise Reject("still no")

        SqsHandler(decode, reject, lambda: store)(event(what), LambdaContext(60))

    worker(given)
    first = memory.records.get("m7")
    assert first is not None
    memory.queues[first.source] = memory.queues[ORDERS]
    assert memory("redrive", "--all") == 0
    (entry,) = memory.queues[ORDERS].sent
    assert entry.attributes is not None
    worker(record(entry.body) | {"messageId": "new", "messageAttributes": dict(entry.attributes)})
    again = memory.records.get("new")
    assert again is not None
    assert [each.event for each in again.history] == ["parked", "redriven", "parked"]
    assert again.first_failed_at == first.first_failed_at
    assert again.message_attributes == {}


def test_an_attribute_of_somebody_else_is_no_history() -> None:
    dates = ("yesterday", "0001-01-01T00:00:00")
    forged = (json.dumps({"first_failed_at": date, "history": []}) for date in dates)
    for text in ("hello", *forged):
        attributes = {HISTORY_ATTRIBUTE: {"stringValue": text, "dataType": "String"}}
        given = dead_letter(message_attributes=attributes)
        assert inherit(given) == given


@pytest.mark.parametrize(
    "given",
    [
        dead_letter(body="x" * 1_048_570),
        dead_letter(
            message_attributes={
                f"a{number}": {"stringValue": "x", "dataType": "String"} for number in range(10)
            }
        ),
    ],
    ids=["a body of 1 MiB", "ten attributes"],
)
def test_where_the_history_does_not_fit_the_message_goes_without_and_it_is_said(
    given: DeadLetterRecord, memory: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = entry_of(given)
    assert entry.body == given.body
    assert entry.attributes == given.message_attributes
    for options in ([], ["--json"]):
        memory.records.put(given)
        assert memory("redrive", "--all", *options) == 0
    told = capsys.readouterr()
    assert "m1: its message had no room for its history" in told.err
    assert json.loads(told.out.splitlines()[-1])["without_history"] == ["m1"]


def test_a_fifo_message_keeps_its_group() -> None:
    assert entry_of(dead_letter(attributes={"MessageGroupId": "g"})).group_id == "g"


@pytest.mark.usefixtures("aws")
def test_a_fifo_queue_does_not_take_a_redriven_message_for_the_one_that_failed() -> None:
    """Within five minutes, a queue that deduplicates by content would drop it, and it were lost."""
    sqs = boto3.client("sqs")
    fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    url = sqs.create_queue(QueueName="orders.fifo", Attributes=fifo)["QueueUrl"]
    arn = "arn:aws:sqs:eu-central-1:123456789012:orders.fifo"
    # It stays in the queue here, since moto forgets the ids of what was deleted; SQS does not.
    first = sqs.send_message(QueueUrl=url, MessageBody="one", MessageGroupId="g")

    def held() -> int:
        wanted = ["ApproximateNumberOfMessages"]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=wanted)["Attributes"]
        return int(found[wanted[0]])

    desk = Desk(MemoryObjects())
    given = dead_letter(
        first["MessageId"], body="one", source=arn, attributes={"MessageGroupId": "g"}
    )
    desk.records.put(given)
    assert dead_letters_cli.main(["redrive", "--all"], lambda _: Tools(desk.records, queue_of)) == 0
    assert held() == 2
    # Interrupted before the record was removed, and resumed: no third one.
    desk.records.put(given)
    assert dead_letters_cli.main(["redrive", "--all"], lambda _: Tools(desk.records, queue_of)) == 0
    assert held() == 2


def test_parked_records_are_handed_to_the_runner(varied: Desk) -> None:
    assert varied("redrive", "--reason", "run_failed", "--runner") == 0
    found = varied.records.get("b")
    assert found is not None
    assert (found.state, found.runs) == (WAITING, 0)
    assert "b" in [each.key for each in varied.records.waiting()]
    assert [pointed(body) for body in varied.failure_queue.bodies] == ["b"]


def test_waiting_records_are_parked_and_running_ones_left(varied: Desk) -> None:
    assert varied("park", "--reason", "deadline", "--why", "stop the flood") == 1
    states = {key: varied.records.get(key) for key in "de"}
    assert states["d"] is not None
    assert states["e"] is not None
    assert (states["d"].state, states["d"].reason) == (PARKED, "operator")
    assert states["d"].error == "stop the flood"
    assert states["e"].state == RUNNING


def test_purging_removes_what_is_parked(desk: Desk) -> None:
    desk.put("a")
    desk.put("b", state=WAITING, reason="deadline")
    assert desk("purge", "--all") == 1
    assert desk.keys() == ["b"]


@pytest.mark.usefixtures("aws")
def test_on_aws_a_record_goes_back_to_the_queue_it_came_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sqs, s3 = boto3.client("sqs"), boto3.client("s3")
    url = sqs.create_queue(QueueName="orders")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    s3.create_bucket(
        Bucket="records", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    monkeypatch.setenv("RECORDS_URL", "s3://records/dead/")
    from lambda_shim.records import S3Store

    attributes = {
        "trace": {"stringValue": "abc", "dataType": "String"},
        "blob": {"binaryValue": "AAEC", "dataType": "Binary"},
    }
    S3Store("records", "dead/").put(
        dead_letter(source=arn["QueueArn"], message_attributes=attributes)
    )
    assert dead_letters_cli.main(["redrive", "--all"]) == 0
    (message,) = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"])["Messages"]
    assert message["Body"] == dead_letter().body
    sent = message["MessageAttributes"]
    assert sent["trace"]["StringValue"] == "abc"
    assert sent["blob"]["BinaryValue"] == b"\x00\x01\x02"
    assert "rejected" in sent[HISTORY_ATTRIBUTE]["StringValue"]
    assert dead_letters_cli.main(["ls"]) == 0


def test_a_whole_queue_is_moved_by_sqs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sqs = boto3.client(
        "sqs", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    regions: list[str] = []

    def client(name: str, region_name: str) -> Any:
        regions.append(region_name)
        return sqs

    monkeypatch.setattr(boto3, "client", client)
    with Stubber(sqs) as stub:
        stub.add_response(
            "start_message_move_task",
            {"TaskHandle": "handle"},
            {"SourceArn": f"{ORDERS}-dead", "MaxNumberOfMessagesPerSecond": 50},
        )
        assert (
            dead_letters_cli.main(["redrive", "--whole-queue", f"{ORDERS}-dead", "--rate", "50"])
            == 0
        )
        stub.assert_no_pending_responses()
    assert "handle" in capsys.readouterr().out
    assert regions == ["eu-central-1"]


@pytest.mark.parametrize(
    "more",
    [
        ["--rate", "0.5"],
        ["--rate", "2.5"],
        ["--reason", "rejected"],
        ["--limit", "5"],
        ["--runner"],
        ["a"],
    ],
    ids=" ".join,
)
def test_what_a_move_of_the_whole_queue_cannot_heed_is_refused(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        dead_letters_cli.main(["redrive", "--whole-queue", f"{ORDERS}-dead", *more])
    assert stopped.value.code == 2
    assert "--whole-queue" in capsys.readouterr().err


def test_a_move_that_sqs_refuses_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    assert dead_letters_cli.main(["redrive", "--whole-queue", f"{ORDERS}-dead"]) == 1
    assert "credentials" in capsys.readouterr().err


def test_a_key_that_is_none_is_told(varied: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ls", "redrive", "park", "purge"):
        assert varied(command, "nothing") == 1
        assert capsys.readouterr().err == "there is no record nothing\n"
    assert varied.keys() == list("abcde")


def test_a_key_that_is_none_among_others_is_told_and_each_is_sent_once(memory: Desk) -> None:
    memory.put("a", body="one")
    memory.put("b", body="two")
    assert memory("redrive", "a", "a", "nothing") == 1
    assert [entry.body for entry in memory.queues[ORDERS].sent] == ["one"]
    assert memory("ls", "b", "nothing") == 1


def test_a_record_that_cannot_be_read_is_named_and_the_others_are_done(
    memory: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.put("a")
    memory.records.objects.put("b.json", b"{}")
    memory.records.objects.put("c.json", b"\xff")
    assert memory("ls") == 1
    told = capsys.readouterr()
    assert "rejected" in told.out
    assert [line[:12] for line in told.err.splitlines()] == ["b: no record", "c: no record"]
    assert memory("show", "b") == 1
    assert capsys.readouterr().err.startswith("no record: ")
    assert memory("redrive", "--all", "--dry-run") == 1
    assert memory("redrive", "--all") == 1
    assert "b: left alone: no record" in capsys.readouterr().err
    assert memory.keys() == ["b", "c"]


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("url", ["s3://records/dead", "s3://records/dead/"])
def test_a_prefix_may_end_in_a_slash_or_not(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    boto3.client("s3").create_bucket(
        Bucket="records", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    open_records("s3://records/dead/").put(dead_letter("a"))
    assert dead_letters_cli.main(["--records", url, "ls"]) == 0
    assert "no records" not in capsys.readouterr().out


@pytest.mark.usefixtures("aws")
def test_what_aws_refuses_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert dead_letters_cli.main(["--records", "s3://nothing/", "ls"]) == 1
    told = capsys.readouterr()
    assert "NoSuchBucket" in told.err
    assert len(told.err.splitlines()) == 1


def test_without_boto3_the_call_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    for call in (
        ["--records", "s3://records/", "ls"],
        ["redrive", "--whole-queue", f"{ORDERS}-dead"],
    ):
        assert dead_letters_cli.main(call) == 1
        told = capsys.readouterr().err
        assert "boto3, which is not installed" in told
        assert len(told.splitlines()) == 1


def test_a_defect_is_not_hidden(memory: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.records, "get", lambda key: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        memory("show", "a")


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    Records(DirectoryObjects(str(tmp_path))).put(dead_letter())
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lambda_shim.dead_letters_cli"),
            "--records",
            f"file://{tmp_path}",
            "ls",
        ],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.parametrize(
    "broken",
    [
        '{"error": "caf\xe9"}'.encode("latin-1"),
        dead_letter_bytes(parked_at="yesterday"),
        dead_letter_bytes(first_failed_at="0001-01-01T00:00:00"),
    ],
    ids=["not UTF-8", "no time", "no time of ours"],
)
def test_a_record_that_was_broken_by_hand_is_named(
    broken: bytes, memory: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.put("a")
    memory.records.objects.put("b.json", broken)
    for command in (["ls"], ["redrive", "--all", "--dry-run"], ["redrive", "--all"]):
        assert memory(*command) == 1
        assert capsys.readouterr().err.startswith("b: ")
    assert memory.keys() == ["b"]


def test_numbers_that_are_none_sort_before_all_others(memory: Desk) -> None:
    memory.put("a", attributes={"SequenceNumber": "1"}, body="one")
    memory.put("b", attributes={"SequenceNumber": "first", "SentTimestamp": "²"}, body="none")
    assert memory("redrive", "--all") == 0
    assert [entry.body for entry in memory.queues[ORDERS].sent] == ["none", "one"]


def test_two_who_redrive_at_once_send_each_message_once(
    objects: Objects, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one is called while the first one's batch is being sent."""
    first, second = Desk(objects), Desk(objects)
    for key in "abc":
        first.put(key, body=key)
    sent = first.queues[ORDERS].send_entries
    others: list[int] = []

    def send(entries: Sequence[Entry]) -> list[Refused]:
        for command in ("redrive", "purge"):
            others.append(second(command, "--all"))
        others.append(second("redrive", "--all", "--runner"))
        return sent(entries)

    first.queues[ORDERS].send_entries = send  # type: ignore[method-assign]
    assert first("redrive", "--all") == 0
    assert others == [1, 1, 1]
    assert capsys.readouterr().err.count("left alone: somebody else is at it") == 9
    assert sorted(entry.body for entry in first.queues[ORDERS].sent) == ["a", "b", "c"]
    assert second.queues[ORDERS].sent == []
    assert first.keys() == []


def test_who_was_killed_while_sending_leaves_the_records_to_others_after_a_minute(
    memory: Desk,
) -> None:
    memory.put("a")
    now = memory.records.clock()
    memory.records.update(
        "a",
        lambda found: found and msgspec.structs.replace(found, lease=Lease("me", "x", now + 60)),
    )
    assert memory("redrive", "a") == 1
    memory.records.clock = lambda: now + 61
    assert memory("redrive", "a") == 0


def test_the_history_of_an_error_with_odd_characters_is_one_that_sqs_takes(memory: Desk) -> None:
    memory.put("a", error="no customer \uffff", history=[Event("t", "parked", "\uffff")])
    entry = entry_of(memory.records.list()[0])
    assert entry.attributes is not None
    assert entry.attributes[HISTORY_ATTRIBUTE]["stringValue"].isascii()


def test_a_history_from_the_outside_does_not_reach_the_terminal(
    memory: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.put("a", history=[Event("\x1b]0;owned\x07", "\x1b[2J", "\x1b[31m")])
    assert memory("show", "a") == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--error", "--type", "--business-id", "--reason"])
def test_an_empty_filter_is_refused(
    option: str, varied: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a variable that is not set."""
    with pytest.raises(SystemExit):
        varied("purge", option, "")
    assert f"argument {option}: it is empty" in capsys.readouterr().err
    assert varied.keys() == list("abcde")


def test_programs_are_told_of_keys_that_are_none(
    memory: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert memory("ls", "nothing", "--json") == 1
    assert json.loads(capsys.readouterr().out) == []
    assert memory("redrive", "nothing", "--json") == 1
    assert json.loads(capsys.readouterr().out)["done"] == []


def test_a_dry_run_of_a_whole_queue_looks_at_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dead_letters_cli.main(["redrive", "--whole-queue", "nonsense", "--dry-run"])
    assert "not the ARN of an SQS queue: 'nonsense'" in capsys.readouterr().err
    assert dead_letters_cli.main(["redrive", "--whole-queue", ORDERS, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"task": None}


def test_a_store_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dead_letters_cli.main(["--records", f"file://{tmp_path}/nowhere", "ls"])
    assert f"there is no directory {tmp_path}/nowhere" in capsys.readouterr().err


def test_durations_and_ages() -> None:
    assert [duration(text) for text in ("90s", "15m", "2h", "7d")] == [90, 900, 7200, 604_800]
    assert [age(each) for each in (0, 59, 60, 7200, 200_000)] == ["0s", "59s", "1m", "2h", "2d"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "--older-than", "soon"],
        ["ls", "--limit", "-1"],
        ["purge", "--all", "--limit", "0"],
        ["redrive", "--all", "--rate", "0"],
        ["redrive", "--all", "--runner", "--rate", "1"],
        ["fly"],
    ],
)
def test_wrong_calls_are_named(arguments: list[str], memory: Desk) -> None:
    with pytest.raises(SystemExit) as stopped:
        memory(*arguments)
    assert stopped.value.code == 2


def test_without_a_store_the_call_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECORDS_URL", raising=False)
    with pytest.raises(SystemExit) as stopped:
        dead_letters_cli.main(["ls"])
    assert stopped.value.code == 2
