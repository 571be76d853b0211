"""The overflow's runner: the entry point of the task that finishes what Lambda could not.

It takes up the record that it was launched for, runs the same core as the function does, without a
limit of time, and goes on with other records that wait. What each outcome means:

=========================  ==================================================
outcome                    the record
=========================  ==================================================
returns                    is removed
``Retry``                  is tried again in this process, up to ``retries``
``Reject``, malformed      is parked
other exception            waits again, is parked after ``runs`` failed runs
SIGTERM                    is given back, nothing is counted
lease lost                 is its new holder's
=========================  ==================================================

A heartbeat renews the record's lease and the ledger's claims. Every change at the end is a
conditional write against the lease: a runner that lost it completes nothing. A runner that is
killed leaves its lease behind, which the dispatcher settles.

The exit status is 0 when no run failed, else 1.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

from lambda_shim import records as dead_letters
from lambda_shim.batch import _current, stamp_log_records
from lambda_shim.budget import CLOSED, OPEN, LaunchBudget, Limits, limits_of, signature
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
from lambda_shim.records import OWN, DeadLetterRecord, LeaseLost, Records

if TYPE_CHECKING:
    from lambda_shim.batch import Wiring

P = TypeVar("P")
M = TypeVar("M", bound=BusinessMessage)

log = logging.getLogger("lambda_shim")

# Until a retry that names no time.
RETRY_WAIT = 30.0
# Shortly before the grace ends, by the same rule as the function's deadline guard.
GUARD_SHARE, GUARD_MOST = 0.1, 2.0


METADATA_TIMEOUT = 2.0  # seconds
# To stop the task; from the heartbeat, whose lease is lost; at the end of the grace.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)


class RunnerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds.

    Attributes:
        lease: how long a record is held without a heartbeat; renewed every third of it.
        grace: from SIGTERM until the job is ended; below the container's stop timeout (30 s by
            default on Fargate, 120 at most).
        drain: from the start; after it no further record is taken up.
        retries: of one record in one run.
        retry_most: longest wait for one of them.
    """

    lease: float = 120.0
    grace: float = 25.0
    drain: float = 3600.0
    retries: int = 10
    retry_most: float = 900.0


class LeaseGone(BaseException):
    """Raised in a job when its record has become somebody else's."""


class Run:
    """One try of one record, as a job sees it."""

    def __init__(self, record: DeadLetterRecord) -> None:
        self.record = record
        self.claims = Claims()
        self.context: Context[Any] | None = None
        self._deadline: float | None = None

    def attach(self, context: Context[Any]) -> None:
        """Let SIGTERM shorten this context's remaining time, and log lines bear its ids."""
        self.context = context
        _current[0] = context
        if self._deadline is not None:
            self.end_by(self._deadline)

    def end_by(self, deadline: float) -> None:
        """From now on the job has but a limited time, and sees so in its context."""
        self._deadline = deadline
        if self.context is not None:
            msgspec.structs.force_setattr(self.context, "deadline", deadline)


# What runs a record; raises as business logic does.
Job = Callable[[DeadLetterRecord, Run], None]


def core(
    decode: Callable[[str], M],
    handle: Callable[[M, Context[P]], None],
    wire: Callable[[], Wiring[P]],
) -> Job:
    """The service's own job: the arguments are those of ``batch.SqsHandler``."""
    wiring = wire()

    def job(record: DeadLetterRecord, run: Run) -> None:
        message = decode(record.body)
        run.claims.ledger = wiring.ledger
        attempt = record.attempts + record.runs + 1
        context = Context(wiring.ports, run.claims, message, record.message_id, attempt)
        run.attach(context)
        handle(message, context)

    return job


class Claims:
    """A ledger whose claims are renewed for as long as they are held.

    The ledger below need not be safe for threads: one call at a time.
    """

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self._held: dict[str, tuple[str, float]] = {}
        # Reentrant: a signal may end the job in the midst of a call, and `once` then releases.
        self._lock = threading.RLock()

    def _below(self) -> Ledger:
        assert self.ledger is not None
        return self.ledger

    def claim(self, key: str, token: str, lease: float) -> tuple[str, float]:
        with self._lock:
            answer = self._below().claim(key, token, lease)
            if answer[0] == "claimed":
                self._held[key] = (token, lease)
            return answer

    def complete(self, key: str, token: str) -> bool:
        with self._lock:
            self._held.pop(key, None)
            return self._below().complete(key, token)

    def release(self, key: str, token: str) -> bool:
        with self._lock:
            self._held.pop(key, None)
            return self._below().release(key, token)

    def renew(self) -> None:
        with self._lock:
            for key, (token, lease) in self._held.items():
                self._below().claim(key, token, lease)


class _Heartbeat:
    """Renews a lease until it is stopped; calls ``lost`` once when it is not to be had any more."""

    def __init__(
        self,
        records: Records,
        key: str,
        owner: str,
        lease: float,
        claims: Callable[[], object],
        lost: Callable[[], object],
    ) -> None:
        self._arguments = records, key, owner, lease
        self._claims = claims
        self._lost = lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {key}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        records, key, owner, lease = self._arguments
        until = monotonic() + lease
        pause = lease / 3
        while not self._stop.wait(pause):
            pause = lease / 3
            started = monotonic()
            try:
                records.renew(key, owner, lease)
                until = started + lease
            except LeaseLost:
                self._lost()
                return
            except Exception:
                log.exception("the lease was not renewed, trying again")
                if monotonic() > until:
                    self._lost()
                    return
                pause = lease / 20
            try:
                self._claims()
            except Exception:
                log.exception("the ledger's claims were not renewed, trying again")


class Runner:
    """Runs records until none is left, its time is up, it is told to stop or the circuit opens.

    Args:
        records: the store.
        launch: the launch that this process belongs to.
        load: gives the job. Called with the first record in hand, so that an import that fails is
            a failed run of that record, told in it and counted by the circuit.
        pool: whose records it takes.
        limits: the launch budget's.
        settings: see there.
        clock: seconds since 1970.
        where: says where this task's log lies; None: nobody knows.
    """

    def __init__(
        self,
        records: Records,
        launch: str,
        load: Callable[[], Job],
        pool: str = OWN,
        limits: Limits | None = None,
        settings: RunnerSettings | None = None,
        clock: Callable[[], float] = time,
        where: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.records = records
        self.launch = launch
        self._where = where
        self.pool = pool
        self.limits = limits or Limits()
        self.settings = settings or RunnerSettings()
        self.budget = LaunchBudget(records.objects, self.limits, clock)
        self._load = load
        self._job: Job | None = None
        self._run: Run | None = None
        self._in_job = False  # a signal may raise
        self._stopping_at: float | None = None  # on monotonic's clock, from SIGTERM on
        self._lost = False
        self._listening = False
        self._circuit = CLOSED
        self._failed = False
        self._seen: set[str] = set()

    # -- signals, which Python handles in the main thread

    def listen(self) -> None:
        """Handle SIGTERM, and the heartbeat's and the grace's signals, from now on."""
        handlers = (self._on_term, self._on_lost, self._on_alarm)
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
        self._listening = True
        # What a job forks is no runner: SIGTERM ends it, however early it comes.
        os.register_at_fork(
            before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, SIGNALS),
            after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, SIGNALS),
            after_in_child=_default_signals,
        )

    def _on_term(self, _signal: int, _frame: object) -> None:
        if self._stopping_at is not None:
            return
        grace = self.settings.grace
        self._stopping_at = monotonic() + grace
        if self._run is not None:
            # The job may save how far it has come.
            self._run.end_by(self._stopping_at)
        guard = grace - min(GUARD_MOST, grace * GUARD_SHARE)
        signal.setitimer(signal.ITIMER_REAL, max(guard, 0.001))

    def _on_alarm(self, _signal: int, _frame: object) -> None:
        if self._in_job:
            self._in_job = False
            raise DeadlineReached("the task is being stopped")

    def _on_lost(self, _signal: int, _frame: object) -> None:
        if self._lost and self._in_job:
            self._in_job = False
            raise LeaseGone

    def _lose(self) -> None:
        """Called by the heartbeat's thread."""
        self._lost = True
        if not self._listening:  # unheard, the signal would end the process
            return
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGUSR1)

    @property
    def stopping(self) -> bool:
        """Whether SIGTERM has been received."""
        return self._stopping_at is not None

    # -- records

    def run(self, key: str) -> int:
        """Run this record and then others that wait; returns the exit status."""
        until = monotonic() + self.settings.drain
        self._take(key)
        self._drain(until)
        return 1 if self._failed else 0

    def _drain(self, until: float) -> None:
        """Run what waits, the oldest first, until nothing is left that was not tried before."""
        while True:
            waiting = [
                each for each in self.records.waiting(self.pool) if each.key not in self._seen
            ]
            if not waiting:
                return
            for each in waiting:
                if self.stopping or self._circuit == OPEN or monotonic() >= until:
                    return
                self._take(each.key, each.marker)

    def _take(self, key: str, marker: str | None = None) -> None:
        """Run a record, unless it is not, or no longer, to be had."""
        if self.stopping:
            return
        self._seen.add(key)
        try:
            claimed = self.records.claim(key, self.launch, self.settings.lease, self._where())
        except msgspec.DecodeError as broken:  # it stands in the way of no other
            self._failed = True
            log.error("no record, left alone: %s", broken, extra={"message_id": key})
            return
        if claimed is None:
            if marker is not None:
                self.records.forget_marker(marker)
            return
        record, owner = claimed
        self._lost = False
        self._run = run = Run(record)
        lease = self.settings.lease
        beat = _Heartbeat(self.records, key, owner, lease, run.claims.renew, self._lose)
        try:
            error = self._try(record, run)
            self._settle(record, owner, run, error)
        finally:
            self._run = None
            _current[0] = None
            beat.stop()

    def _try(self, record: DeadLetterRecord, run: Run) -> BaseException | None:
        """Run the job, again after each Retry; returns what it raised in the end."""
        for attempt in range(self.settings.retries + 1):
            error: BaseException | None = None
            # Two nested tries: however late a signal raises, the outer one catches it.
            try:
                try:
                    self._in_job = True
                    if self._lost:
                        raise LeaseGone
                    if self.stopping:
                        raise DeadlineReached("the task is being stopped")
                    if self._job is None:
                        self._job = self._load()
                    self._job(record, run)
                finally:
                    self._in_job = False
            # Whatever it was, sys.exit() too, this record alone answers for it.
            except BaseException as raised:
                error = raised
            if not isinstance(error, Retry) or attempt == self.settings.retries:
                return error
            wait = RETRY_WAIT if error.after is None else max(error.after, 0.0)
            wait = min(wait, self.settings.retry_most)
            log.warning("again in %.1f s: %s", wait, describe(error))
            until = monotonic() + wait
            # Short sleeps, so that SIGTERM and a lost lease are seen between any two of them.
            while (left := until - monotonic()) > 0 and not (self.stopping or self._lost):
                sleep(min(left, 0.1))
            if self.stopping:
                return error
        raise AssertionError("the last retry returns")

    def _settle(
        self, record: DeadLetterRecord, owner: str, run: Run, error: BaseException | None
    ) -> None:
        key, records = record.key, self.records
        context = run.context
        business_id = record.business_id if context is None else context.business_id
        details = {"message_id": record.message_id, "business_id": business_id}
        failed: str | None = None
        _current[0] = None
        match error:
            case None:
                if not self._write(lambda: records.complete(key, owner), record):
                    return
                log.info("done", extra=details)
            case LeaseGone():
                self._failed = True
                log.error("the lease was lost, the job was ended", extra=details)
                return
            case DeadlineReached() | Retry() | NeedsMoreTime() if self.stopping:
                self._write(lambda: records.release(key, owner, describe(error)), record)
                log.warning("given back: %s", describe(error), extra=details)
                return
            case Reject() | MalformedMessage():
                reason = dead_letters.MALFORMED
                if isinstance(error, Reject):
                    reason = getattr(error, "code", dead_letters.REJECTED)
                if not self._write(
                    lambda: records.park(
                        key, owner, reason, describe(error), business_id=business_id
                    ),
                    record,
                ):
                    return
                log.error("parked: %s: %s", reason, describe(error), extra=details)
            case _:
                self._failed = True
                failed = signature(error)
                log.error(
                    "the run failed: %s", describe(error), exc_info=loggable(error), extra=details
                )
                if not self._fail(record, owner, business_id, error):
                    return
        try:
            self._circuit = self.budget.ran(self.launch, failed, self.pool)
        except Exception:
            log.exception("the circuit was not told of the run")

    def _fail(
        self,
        record: DeadLetterRecord,
        owner: str,
        business_id: str | None,
        error: BaseException,
    ) -> bool:
        import traceback

        text = "".join(traceback.format_exception(error))
        reason = dead_letters.RUN_FAILED
        if isinstance(error, UnknownMessageType):
            reason = dead_letters.UNKNOWN_TYPE
        elif isinstance(error, Retry):
            reason = dead_letters.RETRIES_EXHAUSTED

        def fail() -> None:
            self.records.held(
                record.key,
                owner,
                lambda held: dead_letters.run_failed(
                    held,
                    self.limits.runs,
                    reason,
                    describe(error),
                    self.limits.again_at(held.runs + 1, self.records.clock()),
                    traceback=text,
                    business_id=business_id,
                ),
            )

        return self._write(fail, record)

    def _write(self, write: Callable[[], object], record: DeadLetterRecord) -> bool:
        """Write a run's end; a store that is away is tried again for as long as the lease would
        last. False: nothing was written, the record is its next holder's."""
        until = monotonic() + self.settings.lease
        pause = 0.05
        while True:
            try:
                write()
                return True
            except LeaseLost:
                self._failed = True
                log.error(
                    "the lease was lost, the run does not count",
                    extra={"message_id": record.message_id},
                )
                return False
            except Exception:
                if monotonic() + pause > until:
                    self._failed = True
                    log.exception("the run's end could not be written; it will be repeated")
                    return False
                log.exception("the run's end was not written, trying again")
                sleep(pause)
                pause = min(pause * 2, 10.0)


def _default_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def settings_of(environ: Mapping[str, str]) -> RunnerSettings:
    """``OVERFLOW_RUNNER``: a JSON object with the fields of RunnerSettings, all optional. Raises
    ValueError naming the variable and the field."""
    try:
        return msgspec.json.decode(environ.get("OVERFLOW_RUNNER") or "{}", type=RunnerSettings)
    except msgspec.DecodeError as error:
        raise ValueError(f"OVERFLOW_RUNNER: {error}") from None


def log_location(environ: Mapping[str, str]) -> str | None:
    """Where this task's log lies: ``OVERFLOW_LOG`` says it, or else, in a task, ECS does (AWS
    documentation, "Task metadata endpoint version 4", ``LogOptions``)."""
    if told := environ.get("OVERFLOW_LOG"):
        return told
    address = environ.get("ECS_CONTAINER_METADATA_URI_V4")
    if not address:
        return None
    from urllib.request import urlopen

    try:
        with urlopen(address, timeout=METADATA_TIMEOUT) as answer:
            options = msgspec.json.decode(answer.read())["LogOptions"]
        return f"{options['awslogs-group']}:{options['awslogs-stream']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("ECS does not tell where the log lies: %s", describe(error))
        return None


def _load_functions(environ: Mapping[str, str]) -> Job:
    from lambda_shim import foreign, registry

    found = registry.load(environ["OVERFLOW_REGISTRY"])
    return foreign.functions(found, opt=environ.get("OVERFLOW_LAYERS"))


def main(environ: Mapping[str, str], load: Callable[[], Job]) -> int:
    """Run what waits; returns the exit status. See ``run_and_exit`` for a process's entry point.

    Args:
        environ: ``RECORDS_URL``, and what the launch has set: ``OVERFLOW_LAUNCH``,
            ``OVERFLOW_RECORD``, ``OVERFLOW_POOL``; for a pool of the registry's, its file's path in
            ``OVERFLOW_REGISTRY``, and where their layers go in ``OVERFLOW_LAYERS``: a directory of the
            task's own, as its image has it. See also ``log_location``.
        load: see Runner; import the service's code in it, not at the top of the module.
    """
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stdout,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    stamp_log_records()
    missing = [n for n in ("RECORDS_URL", "OVERFLOW_LAUNCH", "OVERFLOW_RECORD") if n not in environ]
    if missing:
        log.error("the environment lacks %s", ", ".join(missing))
        return 2
    limits, settings = limits_of(environ), settings_of(environ)
    pool = environ.get("OVERFLOW_POOL", OWN)
    runner = Runner(
        dead_letters.open_records(environ["RECORDS_URL"]),
        environ["OVERFLOW_LAUNCH"],
        load if pool == OWN else partial(_load_functions, environ),
        pool,
        limits,
        settings,
        where=cache(partial(log_location, environ)),
    )
    runner.listen()
    return runner.run(environ["OVERFLOW_RECORD"])


def run_and_exit(environ: Mapping[str, str], load: Callable[[], Job]) -> NoReturn:
    """The runner's entry point: ``main``, with whose end the process ends, too.

    An ordinary end would wait for threads that a job has left behind, which Lambda only freezes: the
    task would go on for ever, and with it its place in the launch budget.
    """
    try:
        status = main(environ, load)
    except BaseException:
        log.exception("the runner itself failed")
        status = 1
    with suppress(Exception):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
