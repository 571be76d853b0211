"""The shim as the function of a row: lambda_shim's handler over jobs that do what the messages say.

As in `function`, a body is JSON: `name`, and `do`, what to do at its first, second … delivery.
"""

import json
import os
import time
import traceback  # noqa: F401
from datetime import UTC, datetime  # noqa: F401
from types import SimpleNamespace
from typing import Any

# What the guard's moment needs is there before: on a busy machine the last tenth of the time is short.
import lambda_shim.bodies
import lambda_shim.records
import lambda_shim.sqs  # noqa: F401
from lambda_shim.batch import SqsHandler
from lambda_shim.contract import Reject, Retry

from . import function


def decode(body: str) -> SimpleNamespace:
    script = json.loads(body)
    return SimpleNamespace(business_id=script["name"], do=script.get("do", []))


def job(message: SimpleNamespace, context: Any) -> None:
    do = message.do
    verb, _, argument = (do[context.attempt - 1] if context.attempt <= len(do) else "").partition(
        ": "
    )
    if verb == "raise":
        raise RuntimeError("as the message wished")
    if verb == "retry after":
        raise Retry("as the message wished", after=float(argument))
    if verb == "reject":
        raise Reject("as the message wished")
    if verb == "take too long":
        while True:
            time.sleep(0.05)
    if verb == "hang":
        while True:
            try:
                time.sleep(60)
            except BaseException:
                continue
    if verb == "c call":
        sum(range(10**13))  # the interpreter runs no signal handler meanwhile


class Wiring(SimpleNamespace):
    """The ports, with stores that take everything: the rows look at what the queue does."""

    ports = ledger = None
    records = SimpleNamespace(put=lambda record: None)
    queue = SimpleNamespace(change_visibility=function.change_visibility)
    failure_queue: Any = None

    @property
    def max_receive_count(self) -> int:
        return int(os.environ["MAX_RECEIVE_COUNT"])


def plain() -> Any:
    return Wiring()


def overflowing() -> Any:
    return Wiring(failure_queue=SimpleNamespace(send_entries=lambda entries: []))


_plain = SqsHandler(decode, job, plain)
_overflowing = SqsHandler(decode, job, overflowing)


def handler(event: dict[str, Any], context: Any) -> Any:
    return _noted(_plain, event, context)


def handler_with_overflow(event: dict[str, Any], context: Any) -> Any:
    return _noted(_overflowing, event, context)


def _noted(worker: Any, event: dict[str, Any], context: Any) -> Any:
    function.note(event, [json.loads(record["body"]) for record in event["Records"]], context)
    return worker(event, context)
