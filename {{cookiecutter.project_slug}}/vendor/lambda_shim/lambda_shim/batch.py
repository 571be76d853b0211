"""The SQS handler: records in, partial batch failures out.

Rules (AWS documentation, "Handling errors for an SQS event source in Lambda"):

- The answer names the messages that are to return, ``{"batchItemFailures": [{"itemIdentifier":
  <messageId>}]}``; all others of the batch are deleted. Nothing named: all are deleted.
- A message returns when its visibility timeout runs out, unless ChangeMessageVisibility says else.
- Of a FIFO queue, a group stops at its first failure: that message and the rest of its group return.
  Each return counts as a delivery of them all. A message that is parked is out of its group, whose
  rest goes on without it, in the same batch.

What each outcome of a job means for its message:

=====================  =======================  ===================================
outcome                earlier deliveries       last permitted delivery
=====================  =======================  ===================================
returns                deleted                  deleted
``Retry``              returned (after …)       parked, ``retries_exhausted``
other exception        returned                 parked, ``retries_exhausted``
``Reject``             parked, ``rejected``     parked, ``rejected``
malformed message      parked, ``malformed``    parked, ``malformed``
unknown type           returned                 parked, ``unknown_type``
with overflow
``NeedsMoreTime``      handed over              handed over
deadline reached       handed over              handed over
without overflow
``NeedsMoreTime``      parked                   parked, ``needs_more_time``
deadline reached       returned                 parked, ``deadline``
=====================  =======================  ===================================

"Parked" is a dead-letter record in the store, after which the message is deleted. If the store
refuses the record, the message is returned instead: nothing is ever deleted unaccounted for.
What never reaches this code (kills, crashes, failing imports) is dead-lettered by SQS itself.

Overflow is on where the wiring has a ``failure_queue``, and never for a FIFO queue, whose order it
would break. "Handed over" is a record that waits for the overflow runner, after which a pointer to
it is sent to the failure queue, to wake the dispatcher. A pointer that cannot be sent is no harm:
the dispatcher's sweep finds the record.
"""

from __future__ import annotations

import logging
import signal

# signal's own getsignal first looks among the members of an enum: as long as two records take.
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import Callable
from threading import get_ident, main_thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from lambda_shim.contract import (
    BusinessMessage,
    Context,
    DeadlineReached,
    Ledger,
    MalformedMessage,
    NeedsMoreTime,
    Reject,
    Retry,
    UnknownMessageType,
    describe,
    loggable,
)

P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)
M = TypeVar("M", bound=BusinessMessage)

log = logging.getLogger("lambda_shim")

# The guard fires this long before the function's timeout: a tenth of what is left at the batch's
# start, at most two seconds. Parking a record in S3 takes a fraction of that.
GUARD_SHARE = 0.1
GUARD_MOST = 2.0

# What became of a message that was not done.
RETURNED, PARKED, OVERFLOW = "returned", "parked", "overflow"

# SQS's limits for ChangeMessageVisibility, in seconds.
VISIBILITY_MOST = 43_200


if TYPE_CHECKING:  # making a Protocol takes as long as handling a hundred records
    from lambda_shim.fan_out import Outbox
    from lambda_shim.records import RecordStore

    class Visibility(Protocol):
        """The one thing the handler asks of the queue it is fed by."""

        def change_visibility(self, receipt: str, seconds: float) -> object:
            """Make a message that is in flight visible again after this many seconds from now."""
            ...

    class Wiring(Protocol[P_co]):
        """What a service binds its handler to. Members may be opened lazily.

        A member ``failure_queue`` (an Outbox) turns overflow on; None, or no such member, is off.
        """

        @property
        def ports(self) -> P_co: ...
        @property
        def ledger(self) -> Ledger: ...
        @property
        def records(self) -> RecordStore: ...
        @property
        def queue(self) -> Visibility: ...
        @property
        def max_receive_count(self) -> int: ...


# The record that is being handled, stamped on every log line that is written meanwhile. (A list's
# item, since writing a class's attribute voids the interpreter's caches for each record.)
_current: list[Context[Any] | None] = [None]


def stamp_log_records() -> None:
    """Let every log record carry message_id, business_id and attempt while a job runs.

    The Lambda runtime's JSON formatter prints a record's extra attributes, so a job's own
    ``logging.info(…)`` is found by business id without the job doing anything. What a call names
    itself, ``extra={"attempt": 3}``, stands: a record factory's attributes would have it refused.
    """
    make = logging.Logger.makeRecord
    if getattr(make, "stamps", False):
        return

    def make_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        context = _current[0]
        if context is not None:
            stamped = record.__dict__
            stamped.setdefault("message_id", context.message_id)
            stamped.setdefault("business_id", context.business_id)
            stamped.setdefault("attempt", context.attempt)
        return record

    make_record.stamps = True  # type: ignore[attr-defined]
    logging.Logger.makeRecord = make_record  # type: ignore[method-assign]


class _Guard:
    """Raises DeadlineReached in the job when time is nearly up.

    The signal may arrive at any instruction: in a job it raises; elsewhere it only notes that the
    time is up, so that parking and answering are never torn.
    """

    __slots__ = ("expired", "in_job")

    def __init__(self) -> None:
        self.expired = False
        self.in_job = False

    def arm(self, seconds: float) -> bool:
        """Fire after ``seconds``. False off the main thread, where Python delivers no signals."""
        self.expired = self.in_job = False
        if get_ident() != main_thread().ident:
            return False
        # A job, or what it calls, may have had the signal for something else meanwhile.
        if getsignal(signal.SIGALRM) != self._fire:
            signal.signal(signal.SIGALRM, self._fire)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        return True

    def disarm(self) -> None:
        self.in_job = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _fire(self, _signal: int, _frame: object) -> None:
        self.expired = True
        if self.in_job:
            self.in_job = False
            raise DeadlineReached("the function's time is nearly up")


class SqsHandler(Generic[P, M]):
    """A Lambda handler for SQS events; call it as Lambda does, with event and context.

    Args:
        decode: a record's body to a message. Raises MalformedMessage or UnknownMessageType.
        handle: the business logic, see the table above for what it may raise.
        wire: called once, at the first batch: the service's ports and stores.

    Attributes:
        limited: set it to False where nothing ends an invocation, whatever the context says of
            remaining time: under a debugger, a job may stand at a breakpoint for an hour.
    """

    def __init__(
        self,
        decode: Callable[[str], M],
        handle: Callable[[M, Context[P]], None],
        wire: Callable[[], Wiring[P]],
    ) -> None:
        self._decode = decode
        self._handle = handle
        self._wire = wire
        self._wiring: Wiring[P] | None = None
        self._guard = _Guard()
        self.limited = True
        stamp_log_records()

    def __call__(self, event: dict[str, Any], lambda_context: Any) -> dict[str, Any]:
        """Handle a batch.

        Returns:
            ``{"batchItemFailures": […]}``, empty when every message is done or parked.

        Raises:
            KeyError: the event is not one of an SQS queue; Lambda then fails the invocation, and
                nothing is deleted.
        """
        records = event["Records"]
        wiring = self._wiring
        if wiring is None:
            wiring = self._wiring = self._wire()
        remaining = _remaining(lambda_context) if self.limited else None
        deadline = None
        armed = False
        try:
            if remaining is not None:
                armed = self._guard.arm(remaining - min(GUARD_MOST, remaining * GUARD_SHARE))
                deadline = monotonic() + remaining
            failures = self._batch(records, wiring, deadline, lambda_context)
        finally:
            if armed:
                self._guard.disarm()
            _current[0] = None  # of a job that ends the process, too
        return {"batchItemFailures": failures}

    def _batch(
        self,
        records: list[dict[str, Any]],
        wiring: Wiring[P],
        deadline: float | None,
        lambda_context: Any,
    ) -> list[dict[str, str]]:
        decode, handle, guard = self._decode, self._handle, self._guard
        ports, ledger = wiring.ports, wiring.ledger
        failures: list[dict[str, str]] = []
        blocked: dict[str, float | None] = {}  # FIFO groups that a failure has stopped, until when
        parked = overflowed = 0
        for record in records:
            message_id = record["messageId"]
            attributes = record["attributes"]
            group = attributes.get("MessageGroupId")
            if guard.expired or (group is not None and group in blocked):
                # While one of its messages is in flight, SQS gives out no other of the group.
                if (after := blocked.get(group)) is not None:
                    self._delay(record, after, wiring)
                failures.append({"itemIdentifier": message_id})
                continue
            context = None
            try:
                message = decode(record["body"])
                context = Context(
                    ports,
                    ledger,
                    message,
                    message_id,
                    int(attributes["ApproximateReceiveCount"]),
                    deadline,
                )
                _current[0] = context
                # Two nested tries: however late the guard fires, the outer one catches it.
                try:
                    guard.in_job = True
                    handle(message, context)
                finally:
                    guard.in_job = False
            # The job's own failures and the guard's: whatever it was, this message alone answers
            # for it. KeyboardInterrupt and SystemExit end the process, as they should.
            except (Exception, DeadlineReached) as error:
                settled = self._settle(record, context, error, wiring, lambda_context)
                if settled == PARKED:
                    parked += 1
                elif settled == OVERFLOW:
                    overflowed += 1
                else:
                    failures.append({"itemIdentifier": message_id})
                    # A standard queue's messages may bear a group as well, for fairness only.
                    if group is not None and record["eventSourceARN"].endswith(".fifo"):
                        blocked[group] = error.after if isinstance(error, Retry) else None
        if failures or parked or overflowed:
            _emit_metrics(lambda_context, len(failures), parked, overflowed)
        return failures

    def _settle(
        self,
        record: dict[str, Any],
        context: Context[P] | None,
        error: BaseException,
        wiring: Wiring[P],
        lambda_context: Any,
    ) -> str:
        """Park the message, hand it over or have it returned, by the table above; says which."""
        from lambda_shim import records as dead_letters

        attempt = _attempt(record)
        last = attempt >= wiring.max_receive_count
        failure_queue: Outbox | None = getattr(wiring, "failure_queue", None)
        if record.get("eventSourceARN", "").endswith(".fifo"):
            failure_queue = None
        hand_over = failure_queue is not None and isinstance(error, NeedsMoreTime | DeadlineReached)
        reason: str | None = None
        match error:
            case MalformedMessage():
                reason = dead_letters.MALFORMED
            case Reject():
                reason = dead_letters.REJECTED
            case NeedsMoreTime():
                reason = dead_letters.NEEDS_MORE_TIME
            case UnknownMessageType() if last:
                reason = dead_letters.UNKNOWN_TYPE
            case DeadlineReached():
                if last or hand_over:
                    reason = dead_letters.DEADLINE
            case _ if last:
                reason = dead_letters.RETRIES_EXHAUSTED
        details: dict[str, Any] = {
            "message_id": record["messageId"],
            "business_id": _business_id(context),
            "attempt": attempt,
        }
        # A stamp for the log lines below, whoever's turn it was.
        _current[0] = None
        if reason is None:
            expected = isinstance(error, Retry | UnknownMessageType | DeadlineReached)
            log.warning(
                "returned to the queue: %s",
                describe(error),
                extra=details,
                exc_info=None if expected else loggable(error),
            )
            if isinstance(error, Retry) and error.after is not None:
                self._delay(record, error.after, wiring)
            return RETURNED
        dead_letter = _dead_letter(record, context, error, reason, attempt, lambda_context)
        if hand_over:
            dead_letter.state = dead_letters.WAITING
        try:
            wiring.records.put(dead_letter)
        except Exception:
            log.exception("not put on record, returned to the queue instead", extra=details)
            return RETURNED
        details["reason"] = reason
        if hand_over and failure_queue is not None:
            log.warning("handed over: %s: %s", reason, describe(error), extra=details)
            _point(failure_queue, dead_letter.key, details)
            return OVERFLOW
        log.error("parked: %s: %s", reason, describe(error), extra=details)
        return PARKED

    def _delay(self, record: dict[str, Any], after: float, wiring: Wiring[P]) -> None:
        """Best effort: without it the message returns after the queue's visibility timeout."""
        try:
            wiring.queue.change_visibility(
                record["receiptHandle"], min(max(after, 0.0), VISIBILITY_MOST)
            )
        except Exception:
            log.exception(
                "visibility not changed; returns after its timeout",
                extra={"message_id": record["messageId"], "attempt": _attempt(record)},
            )


def _point(failure_queue: Outbox, key: str, details: dict[str, Any]) -> None:
    """Best effort: without a pointer the dispatcher's sweep finds the record."""
    from lambda_shim.bodies import pointer
    from lambda_shim.sqs import Entry

    try:
        if refused := failure_queue.send_entries([Entry(pointer(key))]):
            log.error("the pointer was refused: %s", refused[0].message, extra=details)
    except Exception:
        log.exception("the pointer could not be sent", extra=details)


def _remaining(lambda_context: Any) -> float | None:
    """Seconds this invocation has left; None without a limit (a debugger, a unit test)."""
    get = getattr(lambda_context, "get_remaining_time_in_millis", None)
    if get is None:
        return None
    milliseconds = get()
    return None if milliseconds is None else milliseconds / 1000


def _attempt(record: dict[str, Any]) -> int:
    return int(record["attributes"]["ApproximateReceiveCount"])


def _business_id(context: Context[Any] | None) -> str | None:
    return None if context is None else context.business_id


def _dead_letter(
    record: dict[str, Any],
    context: Context[Any] | None,
    error: BaseException,
    reason: str,
    attempt: int,
    lambda_context: Any,
) -> Any:
    """Imports are local: no cold start pays for what only failures need."""
    import traceback

    from lambda_shim.records import DeadLetterRecord, function_identity, now

    attributes = dict(record["attributes"])
    first = attributes.get("ApproximateFirstReceiveTimestamp")
    function, request_id = function_identity(lambda_context)
    expected = isinstance(error, Reject | MalformedMessage | UnknownMessageType | NeedsMoreTime)
    return DeadLetterRecord(
        message_id=record["messageId"],
        reason=reason,
        error=describe(error),
        body=record["body"],
        attempts=attempt,
        source=record.get("eventSourceARN", ""),
        function=function,
        request_id=request_id,
        parked_at=now(),
        business_id=_business_id(context),
        traceback=None if expected else "".join(traceback.format_exception(error)),
        # With several deliveries the first that failed was long ago: as long as its receipt, about.
        first_failed_at=now(int(first) / 1000) if first and attempt > 1 else None,
        attributes=attributes,
        message_attributes=record.get("messageAttributes") or {},
    )


def _emit_metrics(lambda_context: Any, failed: int, parked: int, overflowed: int) -> None:
    """One line in CloudWatch's embedded metric format, on stdout.

    Batch item failures are no Lambda errors, so alarms need a metric of their own, by version:
    a canary's failures must stand apart from those of the version that serves the rest.
    """
    import json
    from time import time

    from lambda_shim.records import function_identity

    name, _, version = function_identity(lambda_context)[0].rpartition(":")
    counts = {"FailedRecords": failed, "ParkedRecords": parked, "OverflowRecords": overflowed}
    line = {
        "_aws": {
            "Timestamp": int(time() * 1000),
            "CloudWatchMetrics": [
                {
                    "Namespace": "LambdaService",
                    "Dimensions": [["FunctionName"], ["FunctionName", "FunctionVersion"]],
                    "Metrics": [{"Name": name, "Unit": "Count"} for name in counts],
                }
            ],
        },
        "FunctionName": name,
        "FunctionVersion": version,
        **counts,
    }
    print(json.dumps(line, separators=(",", ":")), flush=True)
