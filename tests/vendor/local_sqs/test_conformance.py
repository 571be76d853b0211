"""What a function's response does to its batch: situation -> response -> what happens to each message.

Each row sends three messages in one batch to a real mapping, and names those that return. "return" means:
hidden until the visibility timeout ends, then delivered again with receive count 2; all others are
deleted. The responses themselves stand in `handlers.RESPONSES`.
"""

import json

import pytest
from local_sqs import advance_clock
from local_sqs.response import judge

NONE, ALL = (), (0, 1, 2)

TABLE = [
    # response of the function     ReportBatchItemFailures on   off
    # success forms
    ("empty list", NONE, NONE),
    ("null list", NONE, NONE),
    ("empty object", NONE, NONE),
    ("null", NONE, NONE),
    ("other object", NONE, NONE),
    # partial failures: only the named messages return, only with ReportBatchItemFailures
    ("one named", (1,), NONE),
    ("two named", (0, 2), NONE),
    ("one named twice", (1,), NONE),
    ("all named", ALL, NONE),
    # the invocation fails
    ("raises", ALL, ALL),
    ("not serialisable", ALL, ALL),
    # bad responses: the whole batch returns
    ("not JSON", ALL, NONE),
    ("a string", ALL, NONE),
    ("a list", ALL, NONE),
    ("list is an object", ALL, NONE),
    ("element is a string", ALL, NONE),
    ("empty identifier", ALL, NONE),
    ("null identifier", ALL, NONE),
    ("identifier is a number", ALL, NONE),
    ("wrong key name", ALL, NONE),
    ("unknown identifier", ALL, NONE),
]


@pytest.mark.parametrize("report", [True, False], ids=["reporting", "not reporting"])
def test_every_row_of_the_table(queue, client, start_mapping, wait_until, report):
    mapping = start_mapping(
        function={"handler": "handlers.table"},
        mapping={"report_batch_item_failures": report, "concurrency": 1},
    )
    for row, on, off in TABLE:
        _check_row(row, on if report else off, queue, client, mapping, wait_until)


def _check_row(row, returning, queue, client, mapping, wait_until):
    bodies = [f"{row}|{index}" for index in range(3)]
    queue.send_batch(bodies)
    wait_until(lambda: set(bodies) <= set(mapping.bodies()), row)
    wait_until(lambda: queue.stats().in_flight == len(returning), row)
    assert queue.stats().ready == 0, f"{row}: returned before its visibility timeout"

    advance_clock(client, 29)
    assert queue.stats().in_flight == len(returning), f"{row}: returned before its time"
    advance_clock(client, 1.5)
    wait_until(lambda: len(mapping.bodies()) == 3 + len(returning), row)
    wait_until(lambda: queue.stats().in_flight + queue.stats().ready == 0, row)

    first, again = mapping.deliveries()[:3], mapping.deliveries()[3:]
    assert len({d["request"] for d in first}) == 1, f"{row}: one batch"
    assert [d["body"] for d in first] == bodies
    assert {d["body"] for d in again} == {bodies[index] for index in returning}, row
    counts = {d["attributes"]["ApproximateReceiveCount"] for d in again}
    assert counts == ({"2"} if returning else set()), row
    mapping.deliveries_path.write_text("")


@pytest.mark.parametrize(
    ("payload", "failed"),
    [
        (b"", set()),
        (b"null", set()),
        (b" null ", set()),
        (b"{}", set()),
        (b'{"batchItemFailures":null}', set()),
        (b'{"batchItemFailures":[]}', set()),
        (b'{"batchItemFailures":[{"itemIdentifier":"a"}]}', {"a"}),
        (b'{"batchItemFailures":[{"itemIdentifier":"a","extra":1}]}', {"a"}),
        (b'{"batchItemFailures":', {"a", "b"}),
        (b"\xff\xfe", {"a", "b"}),
        (b"true", {"a", "b"}),
        (b'"ok"', {"a", "b"}),
        (b'{"batchItemFailures":"a"}', {"a", "b"}),
        (b'{"batchItemFailures":[null]}', {"a", "b"}),
        (b'{"batchItemFailures":[{}]}', {"a", "b"}),
        (b'{"batchItemFailures":[{"itemIdentifier":null}]}', {"a", "b"}),
        (b'{"batchItemFailures":[{"itemIdentifier":["a"]}]}', {"a", "b"}),
        (b'{"batchItemFailures":[{"itemidentifier":"a"}]}', {"a", "b"}),
    ],
)
def test_raw_payloads_that_other_runtimes_can_send(payload, failed):
    assert judge(payload, ["a", "b"], report_batch_item_failures=True).failed == failed
    assert not judge(payload, ["a", "b"], report_batch_item_failures=False).failed


def test_the_reason_of_a_whole_failure_is_logged(queue, start_mapping, wait_until):
    mapping = start_mapping(function={"handler": "handlers.table"})
    queue.send("wrong key name|0")
    wait_until(lambda: "the whole batch returns" in mapping.log(), "the reason in the log")
    assert "has no itemIdentifier" in mapping.log()


def test_a_raised_error_is_logged_as_lambda_logs_it(queue, start_mapping, wait_until):
    mapping = start_mapping()
    queue.send("raise something")
    wait_until(lambda: "ValueError" in mapping.log(), "the error in the log")
    (line,) = [json.loads(x) for x in mapping.log().splitlines() if "ValueError" in x]
    assert line["level"] == "ERROR"
    assert line["errorMessage"] == "something"
    assert line["errorType"] == "ValueError"
    assert line["requestId"] == mapping.deliveries()[0]["request"]
    assert "raise ValueError(argument)" in line["stackTrace"][-1]
    assert "function.py" not in "".join(line["stackTrace"])
