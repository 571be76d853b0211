"""The SQS handler's table of outcomes, the deadline guard, logs and metrics."""

import json
import logging
import signal
import threading
import time
from typing import Any

import pytest
from lambda_shim.batch import SqsHandler
from lambda_shim.bodies import pointed, pointer
from lambda_shim.contract import Context, DeadlineReached, NeedsMoreTime, Reject, Retry

from .support import (
    MAX_RECEIVE_COUNT,
    FailureQueue,
    LambdaContext,
    Order,
    Stores,
    decode,
    event,
    order,
    record,
)

LAST = MAX_RECEIVE_COUNT


def handle(message: Order, context: Context[None]) -> None:
    match message.does:
        case "retry":
            raise Retry("later", after=5)
        case "retry whenever":
            raise Retry("later")
        case "retry next year":
            raise Retry("later", after=1e9)
        case "reject":
            raise Reject("no such thing")
        case "needs more time":
            raise NeedsMoreTime("an hour of it")
        case "fail":
            raise ZeroDivisionError("division by zero")
        case "sleep":
            time.sleep(30)
        case "swallow":
            try:
                time.sleep(30)
            except Exception:
                pytest.fail("the guard must not be caught by `except Exception`")
        case "log":
            logging.getLogger("job").info("at work")


@pytest.fixture
def stores() -> Stores:
    return Stores()


@pytest.fixture
def worker(stores: Stores) -> SqsHandler[None, Order]:
    return SqsHandler(decode, handle, lambda: stores)


def failed(answer: dict[str, Any]) -> list[str]:
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


UNKNOWN = record('{"type": "invoice"}')
UNKNOWN_LAST = record('{"type": "invoice"}', attempt=LAST)
MALFORMED = record('{"type": "order"}')

# outcome, record → returned?, parked with which reason?
TABLE = [
    ("success", order("nothing"), False, None),
    ("retry", order("retry"), True, None),
    ("retry, last delivery", order("retry", attempt=LAST), False, "retries_exhausted"),
    ("exception", order("fail"), True, None),
    ("exception, last delivery", order("fail", attempt=LAST), False, "retries_exhausted"),
    ("exception, past the last", order("fail", attempt=LAST + 1), False, "retries_exhausted"),
    ("reject", order("reject"), False, "rejected"),
    ("needs more time", order("needs more time"), False, "needs_more_time"),
    ("malformed", MALFORMED, False, "malformed"),
    ("not JSON", record("}{"), False, "malformed"),
    ("unknown type", UNKNOWN, True, None),
    ("unknown type, last delivery", UNKNOWN_LAST, False, "unknown_type"),
]


@pytest.mark.parametrize(
    ("given", "returned", "reason"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_outcome(
    given: dict[str, Any],
    returned: bool,
    reason: str | None,
    worker: SqsHandler[None, Order],
    stores: Stores,
) -> None:
    answer = worker(event(given), LambdaContext(60))
    assert failed(answer) == (["m0"] if returned else [])
    assert [parked.reason for parked in stores.parked] == ([reason] if reason else [])


@pytest.mark.parametrize("given", [row[1] for row in TABLE if row[3]], ids=str)
def test_a_store_that_refuses_returns_the_message_instead_of_losing_it(
    given: dict[str, Any], worker: SqsHandler[None, Order], stores: Stores
) -> None:
    stores.refuses = True
    assert failed(worker(event(given), LambdaContext(60))) == ["m0"]


def test_one_failure_leaves_the_rest_of_the_batch_alone(
    worker: SqsHandler[None, Order], stores: Stores
) -> None:
    batch = [order("nothing", 0), order("fail", 1), MALFORMED | {"messageId": "m2"}]
    batch += [order("retry", 3), order("nothing", 4)]
    assert failed(worker(event(*batch), LambdaContext(60))) == ["m1", "m3"]
    assert [parked.message_id for parked in stores.parked] == ["m2"]


def test_a_record_tells_since_when_its_message_fails(
    worker: SqsHandler[None, Order], stores: Stores
) -> None:
    worker(event(order("fail", 0, attempt=LAST), order("reject", 1)), LambdaContext(60))
    late, at_once = stores.parked
    assert late.first_failed_at == "2025-11-01T00:00:00.001+00:00"
    assert at_once.first_failed_at is None  # the store says: when it was parked


def test_retry_after_changes_the_visibility(
    worker: SqsHandler[None, Order], stores: Stores
) -> None:
    batch = event(order("retry", 0), order("retry whenever", 1), order("retry next year", 2))
    assert failed(worker(batch, LambdaContext(60))) == ["m0", "m1", "m2"]
    assert stores.visibility == [("r0", 5), ("r2", 43_200)]


def test_a_visibility_that_cannot_be_changed_is_no_harm(
    worker: SqsHandler[None, Order], stores: Stores
) -> None:
    stores.refuses = True
    assert failed(worker(event(order("retry")), LambdaContext(60))) == ["m0"]


def test_a_fifo_group_stops_at_its_first_failure(worker: SqsHandler[None, Order]) -> None:
    batch = [
        order("nothing", 0, group="a"),
        order("fail", 1, group="a"),
        order("nothing", 2, group="b"),
        order("nothing", 3, group="a"),
        order("nothing", 4, group="b"),
    ]
    assert failed(worker(event(*batch), LambdaContext(60))) == ["m1", "m3"]


def test_a_fifo_group_waits_together_for_a_retry(
    worker: SqsHandler[None, Order], stores: Stores
) -> None:
    """A group is not delivered while any of its messages is in flight."""
    batch = [order("retry", 0, group="a"), order("nothing", 1, group="a")]
    batch += [order("fail", 2, group="b"), order("nothing", 3, group="b")]
    assert failed(worker(event(*batch), LambdaContext(60))) == ["m0", "m1", "m2", "m3"]
    assert stores.visibility == [("r0", 5), ("r1", 5)]


def test_a_fifo_group_goes_on_without_a_message_that_is_parked(
    worker: SqsHandler[None, Order], stores: Stores
) -> None:
    batch = [order("fail", 0, group="a", attempt=LAST), order("nothing", 1, group="a")]
    assert failed(worker(event(*batch), LambdaContext(60))) == []
    assert [parked.message_id for parked in stores.parked] == ["m0"]


def test_the_group_of_a_standard_queues_message_stops_nothing(
    worker: SqsHandler[None, Order],
) -> None:
    """A standard queue takes group ids too, for fairness among senders."""
    batch = [order("fail", 0, group="a"), order("nothing", 1, group="a")]
    for each in batch:
        each["eventSourceARN"] = each["eventSourceARN"].removesuffix(".fifo")
    assert failed(worker(event(*batch), LambdaContext(60))) == ["m0"]


def test_the_record_tells_everything(worker: SqsHandler[None, Order], stores: Stores) -> None:
    given = order("fail", 3, attempt=LAST)
    given["messageAttributes"] = {"trace": {"stringValue": "abc", "dataType": "String"}}
    worker(event(given), LambdaContext(60))
    (parked,) = stores.parked
    assert parked.body == given["body"]
    assert parked.attributes == given["attributes"]
    assert parked.message_attributes == given["messageAttributes"]
    assert (parked.business_id, parked.attempts) == ("order-3", LAST)
    assert parked.error == "ZeroDivisionError: division by zero"
    assert parked.traceback is not None
    assert "raise ZeroDivisionError" in parked.traceback
    assert (parked.function, parked.request_id) == ("orders-worker:7", "request-1")
    assert parked.source.endswith(":orders")


def test_the_guard_returns_the_message_before_lambda_kills(
    worker: SqsHandler[None, Order], stores: Stores
) -> None:
    context = LambdaContext(0.3)
    answer = worker(event(order("nothing", 0), order("sleep", 1), order("nothing", 2)), context)
    assert failed(answer) == ["m1", "m2"]
    remaining = context.get_remaining_time_in_millis()
    assert remaining is not None
    assert remaining > 0
    assert stores.parked == []


def test_the_guard_is_not_caught_by_except_exception(worker: SqsHandler[None, Order]) -> None:
    assert failed(worker(event(order("swallow")), LambdaContext(0.2))) == ["m0"]


def test_the_guard_on_the_last_delivery_parks(
    worker: SqsHandler[None, Order], stores: Stores
) -> None:
    assert failed(worker(event(order("sleep", attempt=LAST)), LambdaContext(0.2))) == []
    assert [parked.reason for parked in stores.parked] == ["deadline"]


def test_the_guard_is_off_between_batches(worker: SqsHandler[None, Order]) -> None:
    worker(event(order("nothing")), LambdaContext(0.05))
    time.sleep(0.1)  # an armed timer would raise here, outside every handler


def test_the_guard_takes_its_signal_back_from_a_job(stores: Stores) -> None:
    def take(message: Order, context: Context[None]) -> None:
        if message.does == "sleep":
            time.sleep(30)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    worker = SqsHandler(decode, take, lambda: stores)
    assert failed(worker(event(order("nothing")), LambdaContext(60))) == []
    assert failed(worker(event(order("sleep")), LambdaContext(0.2))) == ["m0"]


def test_a_deadline_raised_anywhere_in_a_job_is_the_messages_alone(stores: Stores) -> None:
    def late(message: Order, context: Context[None]) -> None:
        raise DeadlineReached

    worker = SqsHandler(decode, late, lambda: stores)
    answer = worker(event(order("nothing", 0), order("nothing", 1)), LambdaContext(60))
    assert failed(answer) == ["m0", "m1"]


def test_without_a_limit_no_guard_ends_a_job_at_a_breakpoint(stores: Stores) -> None:
    seen: list[float | None] = []

    def stand(message: Order, context: Context[None]) -> None:
        time.sleep(0.2)
        seen.append(context.remaining)

    worker = SqsHandler(decode, stand, lambda: stores)
    worker.limited = False
    assert failed(worker(event(order("nothing")), LambdaContext(0.1))) == []
    assert seen == [None]


def test_off_the_main_thread_the_handler_works_without_a_guard(
    worker: SqsHandler[None, Order],
) -> None:
    answers: list[dict[str, Any]] = []
    batch = event(order("nothing", 0), order("fail", 1))
    thread = threading.Thread(target=lambda: answers.append(worker(batch, LambdaContext(60))))
    thread.start()
    thread.join()
    assert failed(answers[0]) == ["m1"]


def test_an_event_of_another_source_fails_the_invocation(
    worker: SqsHandler[None, Order],
) -> None:
    with pytest.raises(KeyError, match="Records"):
        worker({"detail": {}}, LambdaContext(60))


def test_the_process_may_still_be_ended_by_a_job(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(message: Order, context: Context[None]) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        SqsHandler(decode, stop, lambda: stores)(event(order("nothing")), LambdaContext(60))
    logging.getLogger("job").warning("afterwards")
    assert not hasattr(caplog.records[-1], "business_id")


def test_a_jobs_own_log_lines_carry_its_ids(
    worker: SqsHandler[None, Order], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        worker(event(order("log", 5, attempt=2)), LambdaContext(60))
        logging.getLogger("job").info("afterwards")
    during, after = caplog.records
    assert (during.message_id, during.business_id, during.attempt) == ("m5", "order-5", 2)  # type: ignore[attr-defined]
    assert not hasattr(after, "business_id")


def test_what_a_job_names_in_its_log_lines_itself_stands(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(message: Order, context: Context[None]) -> None:
        logging.getLogger("job").warning("again", extra={"attempt": 7, "message_id": "theirs"})

    answer = SqsHandler(decode, handle, lambda: stores)(event(order("nothing")), LambdaContext(60))
    assert failed(answer) == []
    (line,) = caplog.records
    assert (line.message_id, line.business_id, line.attempt) == ("theirs", "order-0", 7)  # type: ignore[attr-defined]


def test_failures_and_parked_records_are_metrics_by_version(
    worker: SqsHandler[None, Order], capsys: pytest.CaptureFixture[str]
) -> None:
    worker(event(order("fail", 0), order("reject", 1), order("fail", 2)), LambdaContext(60))
    line = json.loads(capsys.readouterr().out)
    assert (line["FailedRecords"], line["ParkedRecords"]) == (2, 1)
    assert (line["FunctionName"], line["FunctionVersion"]) == ("orders-worker", "7")
    directive = line["_aws"]["CloudWatchMetrics"][0]
    assert ["FunctionName", "FunctionVersion"] in directive["Dimensions"]
    assert all(metric["Name"] in line for metric in directive["Metrics"])


def test_success_prints_nothing(
    worker: SqsHandler[None, Order], capsys: pytest.CaptureFixture[str]
) -> None:
    worker(event(order("nothing")), LambdaContext(60))
    assert capsys.readouterr().out == ""


# -- overflow

OVERFLOW_TABLE = [
    ("needs more time", order("needs more time"), "needs_more_time"),
    ("needs more time, last delivery", order("needs more time", attempt=LAST), "needs_more_time"),
    ("deadline", order("sleep"), "deadline"),
    ("deadline, last delivery", order("sleep", attempt=LAST), "deadline"),
]


@pytest.fixture
def failure_queue(stores: Stores) -> FailureQueue:
    stores.failure_queue = FailureQueue()
    return stores.failure_queue


@pytest.mark.parametrize(
    ("given", "reason"),
    [row[1:] for row in OVERFLOW_TABLE],
    ids=[row[0] for row in OVERFLOW_TABLE],
)
def test_with_overflow_what_takes_too_long_is_handed_over_at_once(
    given: dict[str, Any],
    reason: str,
    worker: SqsHandler[None, Order],
    stores: Stores,
    failure_queue: FailureQueue,
) -> None:
    assert failed(worker(event(given), LambdaContext(0.3))) == []
    (handed,) = stores.parked
    assert (handed.state, handed.reason, handed.body) == ("waiting", reason, given["body"])
    assert [pointed(body) for body in failure_queue.bodies] == ["m0"]


@pytest.mark.parametrize(
    ("given", "returned", "reason"),
    [row[1:] for row in TABLE if row[0] != "needs more time"],
    ids=[row[0] for row in TABLE if row[0] != "needs more time"],
)
def test_with_overflow_everything_else_is_as_without(
    given: dict[str, Any],
    returned: bool,
    reason: str | None,
    worker: SqsHandler[None, Order],
    stores: Stores,
    failure_queue: FailureQueue,
) -> None:
    assert failed(worker(event(given), LambdaContext(60))) == (["m0"] if returned else [])
    states = [(parked.state, parked.reason) for parked in stores.parked]
    assert states == ([("parked", reason)] if reason else [])
    assert failure_queue.bodies == []


def test_at_the_deadline_the_rest_of_the_batch_is_returned(
    worker: SqsHandler[None, Order], stores: Stores, failure_queue: FailureQueue
) -> None:
    batch = event(order("nothing", 0), order("sleep", 1), order("nothing", 2))
    assert failed(worker(batch, LambdaContext(0.3))) == ["m2"]
    assert [handed.message_id for handed in stores.parked] == ["m1"]


def test_a_message_is_handed_over_without_its_pointer_too(
    worker: SqsHandler[None, Order], stores: Stores, failure_queue: FailureQueue
) -> None:
    failure_queue.fails = OSError("queue unavailable")
    assert failed(worker(event(order("needs more time", 0)), LambdaContext(60))) == []
    failure_queue.fails, failure_queue.refuses = None, True
    assert failed(worker(event(order("needs more time", 1)), LambdaContext(60))) == []
    assert [handed.state for handed in stores.parked] == ["waiting", "waiting"]


def test_a_store_that_refuses_returns_what_was_to_be_handed_over(
    worker: SqsHandler[None, Order], stores: Stores, failure_queue: FailureQueue
) -> None:
    stores.refuses = True
    assert failed(worker(event(order("needs more time")), LambdaContext(60))) == ["m0"]
    assert failure_queue.bodies == []


def test_nothing_of_a_fifo_queue_is_handed_over(
    worker: SqsHandler[None, Order], stores: Stores, failure_queue: FailureQueue
) -> None:
    worker(event(order("needs more time", group="a")), LambdaContext(60))
    assert [(parked.state, parked.reason) for parked in stores.parked] == [
        ("parked", "needs_more_time")
    ]
    assert failure_queue.bodies == []


def test_what_was_handed_over_is_a_metric(
    worker: SqsHandler[None, Order],
    failure_queue: FailureQueue,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker(event(order("needs more time", 0), order("reject", 1)), LambdaContext(60))
    line = json.loads(capsys.readouterr().out)
    assert (line["OverflowRecords"], line["ParkedRecords"], line["FailedRecords"]) == (1, 1, 0)
    assert line["FunctionName"] == "orders-worker"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        '{"$overflow_record": 1}',
        '{"$overflow_record": "k", "x": 1}',
        "$overflow_record",
    ],
)
def test_only_a_pointer_points(body: str) -> None:
    assert pointed(pointer("k")) == "k"
    assert pointed(body) is None


class StrictHandler(logging.Handler):
    """Raises as the runtime's does: it writes UTF-8, and catches nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[bytes] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record).encode())


@pytest.mark.parametrize("attempt", [1, LAST])
@pytest.mark.parametrize("error", [ValueError, Reject])
def test_an_error_that_utf8_cannot_hold_concerns_its_message_alone(
    error: type[Exception], attempt: int, stores: Stores
) -> None:
    def job(message: Order, context: Context[None]) -> None:
        if message.does == "fail":
            raise error("no such file: 'caf\udce9.pdf'")

    worker = SqsHandler[None, Order](decode, job, lambda: stores)
    handler = StrictHandler()
    logger = logging.getLogger("lambda_shim")
    logger.addHandler(handler)
    try:
        messages = [order("fail", 1, attempt), order("nothing", 2)]
        returned = failed(worker(event(*messages), LambdaContext()))
    finally:
        logger.removeHandler(handler)
    parked = error is Reject or attempt == LAST
    ids = [messages[0]["messageId"]]
    assert returned == ([] if parked else ids)
    assert [each.message_id for each in stores.parked] == (ids if parked else [])
    assert any(rb"caf\udce9.pdf" in line for line in handler.lines)
