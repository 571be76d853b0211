"""The plumbing of the conformance table's AWS ring, against moto: what is made is deleted, whatever happens.

moto cannot run the function without Docker, so a thread stands in for the event source mapping.
"""

import importlib
import io
import json
import signal
import threading
import zipfile
from types import SimpleNamespace

import pytest

from tests.vendor.local_sqs.conformance import __main__ as command
from tests.vendor.local_sqs.conformance import aws, page
from tests.vendor.local_sqs.conformance.aws import Account, AwsLane, AwsRing, leftovers
from tests.vendor.local_sqs.conformance.rows import table
from tests.vendor.local_sqs.conformance.runner import run
from tests.vendor.local_sqs.conformance.scene import Arrangement, PartlyRefused, Send

REGION = "eu-central-1"
PREFIX = "conformance-test"


@pytest.fixture(scope="module")
def endpoint():
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        patch.setenv("AWS_ENDPOINT_URL", url)
        yield url
        server.stop()


@pytest.fixture
def account(endpoint):
    return Account(REGION, endpoint)


@pytest.fixture
def ring(account, monkeypatch):
    monkeypatch.setattr(aws, "PAUSE", 0)
    ring = AwsRing(account, PREFIX)
    yield ring
    ring.close()


def _kinds(account):
    return sorted({what.split()[0] for what, _ in leftovers(account, PREFIX)})


def test_what_is_made_is_deleted(account, ring):
    ring.lane(Arrangement())
    ring.lane(Arrangement(fifo=True, batch_size=5))
    assert _kinds(account) == ["function", "mapping", "queue", "role"]
    assert len(leftovers(account, PREFIX)) == 2 * (1 + 1 + 3) + 1
    ring.close()
    assert leftovers(account, PREFIX) == []


def test_nothing_else_is_deleted(account, ring):
    other = account.sqs.create_queue(QueueName="somebody-elses")["QueueUrl"]
    ring.lane(Arrangement())
    ring.close()
    assert account.sqs.list_queues()["QueueUrls"] == [other]


def test_the_arrangement_arrives(account, ring):
    lane = ring.lane(Arrangement(max_receive_count=2, retention=60, timeout=1, memory_mb=256))
    got = account.sqs.get_queue_attributes(QueueUrl=lane.url, AttributeNames=["All"])["Attributes"]
    assert got["VisibilityTimeout"] == "10"
    assert got["MessageRetentionPeriod"] == "60"
    assert json.loads(got["RedrivePolicy"])["maxReceiveCount"] == 2
    (function,) = account.functions.list_functions()["Functions"]
    assert (function["Timeout"], function["MemorySize"]) == (1, 256)
    (mapping,) = account.functions.list_event_source_mappings()["EventSourceMappings"]
    assert mapping["BatchSize"] == 10
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_reserved_concurrency_comes_without_a_maximum(account, ring):
    ring.lane(Arrangement(reserved_concurrency=0))
    (function,) = account.functions.list_functions()["Functions"]
    name = function["FunctionName"]
    got = account.functions.get_function_concurrency(FunctionName=name)
    assert got["ReservedConcurrentExecutions"] == 0
    (mapping,) = account.functions.list_event_source_mappings()["EventSourceMappings"]
    assert "ScalingConfig" not in mapping


def test_what_cannot_be_set_up_is_said_and_deleted(account, ring):
    lane = ring.lane(Arrangement())
    assert "MaximumConcurrency" in lane.refusal(Arrangement(concurrency=1))
    assert lane.refusal(Arrangement(batch_size=9)) == ""
    ring.close()
    assert leftovers(account, PREFIX) == []


def test_a_batch_that_is_refused_in_part_says_which_and_sends_the_others(ring, monkeypatch):
    lane = ring.lane(Arrangement())
    answer = {"Successful": [{"Id": "0", "MessageId": "x"}, {"Id": "2", "MessageId": "y"}]}
    answer["Failed"] = [{"Id": "1", "Code": "AWS.SimpleQueueService.InvalidMessageContents"}]
    monkeypatch.setattr(lane._account.sqs, "send_message_batch", lambda **_: answer)
    with pytest.raises(PartlyRefused) as some:
        lane.send([Send("a"), Send("b"), Send("c")])
    assert some.value.ids == ["x", "y"]
    assert some.value.codes == {1: "InvalidMessageContents"}


def test_the_package_holds_what_the_rows_call(monkeypatch):
    def install(target, requirement):
        (target / requirement).mkdir()
        (target / requirement / "__init__.py").touch()

    monkeypatch.setattr(aws, "install", install)
    plain, shim = (
        {*zipfile.ZipFile(io.BytesIO(aws.package(shim=shim))).namelist()} for shim in (False, True)
    )
    assert plain == {"conformance/__init__.py", "conformance/function.py"}
    assert {"conformance/shim.py", "lambda_shim/batch.py", "msgspec/__init__.py"} <= shim


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_nothing(account, ring, monkeypatch, capsys, error):
    """From the command itself: the table's run is broken off after the first lane was made."""

    def interrupted(rows, made):
        made.lane(rows[0].arrangement)
        assert leftovers(account, PREFIX) != []
        raise error

    monkeypatch.setattr(command, "run_all", interrupted)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(command, "new_prefix", lambda: PREFIX)
    with pytest.raises(error):
        command.main(["--aws", "--region", REGION, "--yes"])
    assert leftovers(account, PREFIX) == []
    told = capsys.readouterr().out
    assert "costs a few cents" in told
    assert "deleted: role conformance-test" in told


def test_nothing_is_made_without_a_yes(account, endpoint, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    assert command.main(["--aws", "--region", REGION]) == 1
    assert list(leftovers(account, "conformance-")) == []


def test_what_a_killed_run_left_is_deleted_by_prefix(account, ring):
    ring.lane(Arrangement())
    assert command.main(["--delete", PREFIX, "--region", REGION]) == 0
    assert leftovers(account, PREFIX) == []


@pytest.fixture
def mapping(account, ring, monkeypatch):
    """Polls a lane's queue for the function, in place of moto's mapping."""
    end = threading.Event()
    threads = []

    def start(lane):
        for made in account.functions.list_event_source_mappings()["EventSourceMappings"]:
            account.functions.delete_event_source_mapping(UUID=made["UUID"])
        monkeypatch.setenv("WORK_QUEUE_URL", lane.url)
        monkeypatch.setenv("NOTES_QUEUE_URL", lane.notes_url)
        from tests.vendor.local_sqs.conformance import function

        handler = importlib.reload(function).handler
        threads.append(threading.Thread(target=_poll, args=(account, lane, handler, end)))
        threads[-1].start()

    yield start
    end.set()
    for thread in threads:
        thread.join()


def _poll(account, lane, handler, end):
    while not end.is_set():
        messages = account.sqs.receive_message(
            QueueUrl=lane.url,
            MaxNumberOfMessages=10,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if not messages:
            end.wait(0.05)
            continue
        context = SimpleNamespace(
            aws_request_id=messages[0]["MessageId"], get_remaining_time_in_millis=lambda: 1
        )
        handler({"Records": [_record(message) for message in messages]}, context)
        for message in messages:
            account.sqs.delete_message(QueueUrl=lane.url, ReceiptHandle=message["ReceiptHandle"])


def _record(message):
    from base64 import b64encode

    record = {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {},
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:q",
        "awsRegion": REGION,
    }
    for name, value in message.get("MessageAttributes", {}).items():
        attribute = {"stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}
        if "StringValue" in value:
            attribute["stringValue"] = value["StringValue"]
        else:
            attribute["binaryValue"] = b64encode(value["BinaryValue"]).decode()
        record["messageAttributes"][name] = attribute
    if "MD5OfMessageAttributes" in message:
        record["md5OfMessageAttributes"] = message["MD5OfMessageAttributes"]
    return record


@pytest.mark.parametrize("name", ["success: empty list", "a message with String, Number"])
def test_a_row_runs_over_boto3(ring, mapping, monkeypatch, name):
    """The MD5 of the attributes is moto's here."""
    (row,) = [row for row in table() if row.name.startswith(name)][:1]
    monkeypatch.setattr(AwsLane, "pass_time", lambda lane, seconds: None)
    lane = ring.lane(row.arrangement)
    mapping(lane)
    run(row, ring)


def test_the_page_is_the_table_s():
    assert page.PAGE.read_text() == page.page(table()), (
        "python -m tests.vendor.local_sqs.conformance --write"
    )


def test_the_page_tells_what_has_been_run():
    rows = table()[:3]
    assert "Nobody has run it against AWS yet" in page.page(rows, {})
    text = page.page(rows, {rows[0].name: "", rows[1].name: "it raised"})
    assert "Of 3 rows, 2 have been run against AWS (1 of them failed); the other 1" in text
    assert "| as here |" in text
    assert "| **failed**: it raised |" in text


@pytest.mark.parametrize("test", [test for tests in page.ELSEWHERE.values() for test in tests])
def test_the_tests_that_the_page_names_are_there(test):
    file, _, name = test.partition("::")
    assert f"def {name}(" in (page.ROOT / "tests" / "vendor" / file).read_text()


def test_names_of_rows_differ():
    names = [row.name for row in table()]
    assert len(names) == len({*names})
