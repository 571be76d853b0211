"""Responses as bytes, and what the log says of a batch that fails. The rules themselves: test_conformance.py."""

import json

import pytest
from local_sqs.response import judge


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
    mapping = start_mapping(function={"handler": "handlers.wrong_key"})
    queue.send("a")
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
