"""A forked environment's log lines are those of the production runtime client."""

import copy
import json
import logging
import sys
import time

import pytest
from local_sqs.json_logs import JsonFormatter


def _record(message="done", *arguments, level=logging.INFO, exc_info=None, **extra):
    logger = logging.getLogger("service")
    return logger.makeRecord(
        "service", level, "job.py", 7, message, arguments, exc_info, "f", extra
    )


def _raised():
    try:
        raise LookupError("gone")
    except LookupError:
        return sys.exc_info()


@pytest.mark.parametrize(
    "record",
    [
        _record(),
        _record("%d of %d", 1, 2, level=logging.WARNING),
        _record({"a": 1}),
        _record("ü", customer=7, missing=None, odd=object),
        _record("no", level=logging.ERROR, exc_info=_raised()),
    ],
    ids=["plain", "arguments", "document", "extra", "exception"],
)
@pytest.mark.parametrize("request_id", ["4cbe1c2a", None])
def test_the_line_is_the_production_client_s(record, request_id):
    client = pytest.importorskip("awslambdaric.lambda_runtime_log_utils")
    ours = json.loads(JsonFormatter(lambda: request_id).format(record))
    record = copy.copy(record)
    record.aws_request_id = request_id or ""  # as its filter does
    production = client.JsonFormatter()
    production.converter = time.gmtime  # as its bootstrap sets for all formatters
    assert ours == json.loads(production.format(record))
