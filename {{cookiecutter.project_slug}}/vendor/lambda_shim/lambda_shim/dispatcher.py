"""The overflow's dispatcher: a Lambda function on the failure queue.

It is called with three kinds of events:

- messages of the failure queue: pointers to records that the service put down, what SQS has
  dead-lettered, and what other services failed at. Each is put on record, then acknowledged.
- "ECS Task State Change": a task has stopped; what it leaves behind is launched again or parked.
- a schedule's tick: the sweep, which finds what no event told of.

After each it launches tasks for records that wait, within the launch budget. A launch that fails
leaves its record waiting, so no event fails for it: the next event or sweep tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import time
from typing import Any, NamedTuple, Protocol

import msgspec

from lambda_shim import records as dead_letters
from lambda_shim.bodies import pointed
from lambda_shim.budget import OPEN, Budget, LaunchBudget, Limits, signature
from lambda_shim.records import (
    KEEP,
    OWN,
    PARKED,
    RUNNING,
    WAITING,
    DeadLetterRecord,
    Records,
    Waiting,
    _Keep,
    changed,
    parked,
    run_failed,
    with_reason,
)

log = logging.getLogger("lambda_shim")

# A launch whose answer is missing for so long (seconds) is asked for again by the sweep, under the
# same token: twice the longest that a dispatcher may live.
ANSWER_MOST = 300.0
# A task of which ECS knows nothing may be too young to be listed.
UNKNOWN_MOST = 300.0
# What a person reads in a record that nothing can run.
NO_RUNNER = "no subnets were given at deployment, so there are no tasks to run it with"


class Launch(NamedTuple):
    """What a task is started with: a pointer, never the message, which may be larger than all that
    RunTask's overrides may hold.

    Attributes:
        id: names the launch; the same launch asked for twice starts one task.
        key: the record to begin with.
        pool: whose records to take.
        booked_at: seconds since 1970. A message that comes back when its record is gone has a record
            anew, whose launches are named as the first one's were: this tells them apart.
        subnet: where it was asked for last, without an answer; None: where launches begin.
    """

    id: str
    key: str
    pool: str
    booked_at: float = 0.0
    subnet: str | None = None


class Stopped(NamedTuple):
    """How a task ended. ``failed`` is None when it ended well."""

    failed: str | None


class LaunchRefused(Exception):
    """No task was started, and none will be; the message says why."""


class Launcher(Protocol):
    """What starts tasks."""

    def launch(self, launch: Launch, ask_in: Callable[[str], object]) -> str:
        """Start a task; returns its ARN.

        Args:
            launch: which.
            ask_in: to be called ahead of asking in another subnet than before, with its name: if no
                answer comes, there may be a task in that one, which only the same request finds.

        Raises:
            LaunchRefused: for certain there is no task. Any other exception: there may be one.
        """
        ...

    def ended(self, arns: list[str]) -> Mapping[str, Stopped]:
        """Those of these tasks that have stopped or are not known, and how."""
        ...

    def log_of(self, arn: str) -> str:
        """Where a person finds the task's log."""
        ...


class Sources(Protocol):
    """Which pool runs what fails where; see ``registry``."""

    @property
    def pools(self) -> tuple[str, ...]: ...

    def place(self, record: DeadLetterRecord) -> DeadLetterRecord:
        """The record with its pool set; or parked, when nothing may run it."""
        ...


class OwnMessages:
    """Without a registry, whatever arrives is the service's own."""

    pools = (OWN,)

    def place(self, record: DeadLetterRecord) -> DeadLetterRecord:
        record.pool = OWN
        return record


class Dispatcher:
    """Call it as Lambda does, with an event and a context.

    Args:
        records: the store.
        launcher: starts tasks; None where the deployment has none: then all is parked.
        tasks_wanted: without a launcher, whether a record's reason is that there are no tasks; or
            stays what it was, for a service that was never to have any.
        limits: the launch budget.
        sources: which runners take what; default: all is the service's own.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        records: Records,
        launcher: Launcher | None,
        limits: Limits | None = None,
        sources: Sources | None = None,
        clock: Callable[[], float] = time,
        tasks_wanted: bool = True,
    ) -> None:
        self.records = records
        self.launcher = launcher
        self.tasks_wanted = tasks_wanted
        self.limits = limits or Limits()
        self.sources = sources or OwnMessages()
        self.clock = clock
        self.budget = LaunchBudget(records.objects, self.limits, clock)

    def __call__(self, event: dict[str, Any], context: object = None) -> dict[str, Any]:
        """Handle one event of any kind.

        Returns the messages that are to return, in the form Lambda expects, for those of a queue;
        otherwise how many tasks were launched.
        """
        if "Records" in event:
            failures = self.take(event["Records"], context)
            self._launch_what_waits()
            return {"batchItemFailures": [{"itemIdentifier": each} for each in failures]}
        if event.get("detail-type") == "ECS Task State Change":
            self.task_changed(event["detail"])
            return {"launched": self._launch_what_waits()}
        self.sweep()
        self._measure()
        return {"launched": self._launch_what_waits()}

    # -- messages

    def take(self, messages: list[dict[str, Any]], context: object = None) -> list[str]:
        """Put each message on record; returns the ids of those that could not be."""
        failures: list[str] = []
        try:
            budget = self.budget.read()
        except Exception:
            log.exception("the launch budget could not be read")
            failures = [message["messageId"] for message in messages]
            messages = []
        for message in messages:
            try:
                self._take(message, budget, context)
            except Exception:
                log.exception(
                    "not put on record, returned to the failure queue",
                    extra={"message_id": message["messageId"]},
                )
                failures.append(message["messageId"])
        if failures:
            _emit_metrics(FailedRecords=len(failures))
        return failures

    def _to_run(self, record: DeadLetterRecord, budget: Budget) -> DeadLetterRecord:
        """The record; parked, if it waits and nothing is to be run now."""
        if record.state != WAITING:
            return record
        if self.launcher is None and not self.tasks_wanted:
            return parked(record, record.reason, record.error)
        if self.launcher is None:
            return parked(with_reason(record), dead_letters.NO_RUNNER, NO_RUNNER)
        if self.budget.circuit(record.pool, budget) == OPEN:
            return parked(with_reason(record), dead_letters.CIRCUIT_OPEN, record.error)
        return record

    def _take(self, message: dict[str, Any], budget: Budget, context: object) -> None:
        # A pointer is sent here, never dead-lettered: then it is a message that looks like one.
        dead_lettered = "DeadLetterQueueSourceArn" in message["attributes"]
        if not dead_lettered and (key := pointed(message["body"])) is not None:
            self._look_at(dead_letters.record_key(key), budget)
            return
        record = self.sources.place(_dead_letter(message, context))
        stored = self.records.put(self._to_run(record, budget), given_up=True)
        details = {"message_id": record.message_id, "reason": stored.reason}
        log.warning("on record, %s: %s", stored.state, stored.error, extra=details)

    def _look_at(self, key: str, budget: Budget) -> DeadLetterRecord | None:
        """Park the record if it waits, and nothing is to be run now; the record then."""

        def change(record: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
            if record is None or (new := self._to_run(record, budget)) is record:
                return KEEP
            return new

        return self.records.update(key, change)

    # -- tasks

    def task_changed(self, detail: Mapping[str, Any]) -> None:
        """An EventBridge event's detail: of interest is that a task of ours has stopped."""
        from lambda_shim.ecs import launch_of, stopped

        if detail.get("lastStatus") != "STOPPED":
            return
        launch = launch_of(detail)
        if launch is None:
            return
        arn = detail.get("taskArn")
        known = self.budget.read().tasks.get(launch)
        if known is not None and None not in (arn, known.arn) and known.arn != arn:
            log.info("an earlier task of this name has ended, long known: %s", arn)
            return
        self.task_ended(launch, arn, stopped(detail))

    def task_ended(self, launch: str, arn: str | None, how: Stopped) -> None:
        """Settle what a task leaves behind, however often it is told to have ended."""
        where = None if arn is None or self.launcher is None else self.launcher.log_of(arn)
        failed = how.failed or "the task ended without having run the record"
        # What it was at: a runner that ends in good order gives its record back first.
        for key in list(self.records.running()):
            with _unreadable_told(key):
                self.records.update(key, lambda record: self._left(record, launch, failed, where))
        # What it was launched for and never took up.
        key = launch.rpartition(".")[0]
        with _unreadable_told(key):
            self.records.update(
                key, lambda record: self._never_taken(record, launch, failed, where)
            )
        # Last, so that whoever is killed before it does all of it again.
        self.budget.ended(launch, None if how.failed is None else signature(how.failed))

    def _left(
        self, record: DeadLetterRecord | None, launch: str, failed: str, where: str | None
    ) -> DeadLetterRecord | _Keep:
        if record is None or record.state != RUNNING or record.lease is None:
            return KEEP
        if record.lease.task != launch:
            return KEEP
        where = where or record.log
        return self._run_failed(record, failed, log=where)

    def _run_failed(self, record: DeadLetterRecord, failed: str, **fields: Any) -> DeadLetterRecord:
        again = self.limits.again_at(record.runs + 1, self.clock())
        reason = dead_letters.TASK_STOPPED
        return run_failed(record, self.limits.runs, reason, failed, again, **fields)

    def _never_taken(
        self, record: DeadLetterRecord | None, launch: str, failed: str, where: str | None
    ) -> DeadLetterRecord | _Keep:
        if record is None or record.state != WAITING or launch in record.stopped:
            return KEEP
        names = [event.detail if event.event == "launching" else None for event in record.history]
        since = names.index(launch) if launch in names else 0
        # Taken up since, by whichever task: the launch has served its purpose.
        if any(event.event == "claimed" for event in record.history[since:]):
            return KEEP
        stops = [*record.stopped, launch]
        where = where or record.log
        if len(stops) >= self.limits.starts:
            return parked(record, dead_letters.NEVER_STARTED, failed, stopped=stops, log=where)
        return changed(record, "not started", failed, stopped=stops, log=where)

    # -- the sweep

    def sweep(self) -> None:
        """Find what no event told of: tasks that are gone, launches without an answer, leases that
        have run out."""
        budget = self.budget.read()
        now = self.clock()
        arns = {task.arn: launch for launch, task in budget.tasks.items() if task.arn is not None}
        ended = self._ended(list(arns))
        for arn, how in (ended or {}).items():
            if how.failed != UNKNOWN_TASK or (
                now - budget.tasks[arns[arn]].booked_at > UNKNOWN_MOST
            ):
                self.task_ended(arns[arn], arn, how)
        alive = set() if ended is None else {arns[arn] for arn in arns.keys() - ended.keys()}
        for launch, task in budget.tasks.items():
            if task.arn is None and now - task.booked_at > ANSWER_MOST:
                self._ask(Launch(launch, task.key, task.pool, task.booked_at, task.subnet))
        for key in list(self.records.running()):
            with _unreadable_told(key):
                self._sweep_running(key, alive)
        if self.launcher is None:
            # Left by an earlier deployment, which had tasks.
            for launch, task in budget.tasks.items():
                if now - task.booked_at > UNKNOWN_MOST:
                    self.budget.ended(launch, None)
            self._place_again()
            for waiting in self._waiting():
                with _unreadable_told(waiting.key):
                    record = self._look_at(waiting.key, budget)
                    if record is None or record.state != WAITING:
                        self.records.forget_marker(waiting.marker)

    def _ended(self, arns: list[str]) -> Mapping[str, Stopped] | None:
        """See Launcher; None: nobody tells."""
        if not arns or self.launcher is None:
            return None
        try:
            return self.launcher.ended(arns)
        except Exception:  # the rest of the sweep depends on nobody's answer
            log.exception("not known which tasks have ended; the next sweep asks again")
            return None

    def _waiting(self) -> list[Waiting]:
        """In pools that nothing is registered for, too."""
        return [each for pool in self.records.pools() for each in self.records.waiting(pool)]

    def _measure(self) -> None:
        """What alarms and dashboards watch: how much lies in the store, and for how long."""
        waiting = self._waiting()
        running = sum(1 for _ in self.records.running())
        total = len(list(self.records.keys()))
        _emit_metrics(
            WaitingRecords=len(waiting),
            RunningRecords=running,
            DeadLetterRecords=max(0, total - len(waiting) - running),
            OldestWaitingRecord=int(self.records.longest_wait(waiting)),
        )

    def _sweep_running(self, key: str, alive: set[str]) -> None:
        """Take a record from whoever let its lease run out; not from a task that is alive, as far as
        ECS tells: a long call into C may keep its heartbeat from beating."""

        def expire(record: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
            if record is None or record.state != RUNNING or record.lease is None:
                return KEEP
            if record.lease.until > self.clock() or record.lease.task in alive:
                return KEEP
            failed = f"the lease of {record.lease.task} ran out"
            return self._run_failed(record, failed)

        record = self.records.update(key, expire)
        if record is None or record.state != RUNNING:
            self.records.forget_marker(f"running/{key}")

    # -- launching

    def _launch_what_waits(self) -> int:
        try:
            return self.launch_what_waits()
        except Exception:
            log.exception("nothing launched; the sweep tries again")
            return 0

    def launch_what_waits(self) -> int:
        """Launch tasks for records that wait, within the budget; returns how many."""
        launched = 0
        self._place_again()
        if self.launcher is None:
            return 0
        budget = self.budget.read()
        on_their_way = {task.key for task in budget.tasks.values()}
        for pool in self.sources.pools:
            if self.budget.refusal(budget, pool) is not None:
                continue
            for waiting in self.records.waiting(pool):
                if (why := self.budget.refusal(budget, pool)) is not None:
                    log.info("not launched: %s", why)
                    break
                if waiting.key in on_their_way:
                    continue
                with _unreadable_told(waiting.key):
                    launched += self._launch(waiting, pool)
                budget = self.budget.read()
        return launched

    def _place_again(self) -> None:
        """What waits in a pool that no task takes from: an operator has handed it to the runner
        although nothing was registered for it, or its entry was removed since. By now something
        may be; otherwise it is parked."""
        known = self.sources.pools

        def place(record: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
            if record is None or record.state != WAITING or record.pool in known:
                return KEEP
            return self.sources.place(record)

        for pool in set(self.records.pools()).difference(known):
            for waiting in list(self.records.waiting(pool)):
                with _unreadable_told(waiting.key):
                    record = self.records.update(waiting.key, place)
                    if record is None or record.pool != pool or record.state != WAITING:
                        self.records.forget_marker(waiting.marker)

    def _launch(self, waiting: Waiting, pool: str) -> bool:
        key = waiting.key
        record = self.records.get(key)
        if record is None or record.state != WAITING:
            self.records.forget_marker(waiting.marker)
            return False
        if not record.due(self.clock()):
            return False
        launch = Launch(f"{key}.{record.launches + 1}", key, pool, self.clock())
        if (why := self.budget.book(launch.id, key, pool, launch.booked_at)) is not None:
            log.info("not launched: %s", why)
            return False

        def count(record: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
            number = int(launch.id.rpartition(".")[2])
            if record is None or record.state != WAITING or record.launches >= number:
                return KEEP
            return changed(record, "launching", launch.id, launches=number)

        self.records.update(key, count)
        return self._ask(launch)

    def _ask(self, launch: Launch) -> bool:
        """Ask for a task, whether or not it was asked for before, without an answer."""
        if self.launcher is None:
            return False
        try:
            arn = self.launcher.launch(
                launch, lambda subnet: self.budget.asked_in(launch.id, subnet)
            )
        except LaunchRefused as refused:
            log.error("launch refused: %s", refused, extra={"message_id": launch.key})
            _emit_metrics(FailedLaunches=1)
            why = str(refused)

            def note(record: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
                if record is None or record.state != WAITING:
                    return KEEP
                return changed(record, "launch refused", why)

            with _unreadable_told(launch.key):
                self.records.update(launch.key, note)
            self.budget.refused(launch.id)
            return False
        except Exception:
            # There may be a task or not: the sweep asks again, under the same token.
            log.exception("launch without an answer", extra={"message_id": launch.key})
            _emit_metrics(FailedLaunches=1)
            return False
        self.budget.started(launch.id, arn)
        log.info("launched %s", arn, extra={"message_id": launch.key})
        return True


# What ``Launcher.ended`` says of a task that it does not find.
UNKNOWN_TASK = "the task is not known"


@contextmanager
def _unreadable_told(key: str) -> Iterator[None]:
    """A record that somebody has broken by hand stands in the way of no other."""
    try:
        yield
    except msgspec.DecodeError as error:
        log.error("no record, left alone: %s", error, extra={"message_id": key})


def _dead_letter(message: dict[str, Any], context: object) -> DeadLetterRecord:
    """The record of a message that reached the failure queue unchanged."""
    attributes = dict(message["attributes"])
    first = attributes.get("ApproximateFirstReceiveTimestamp") or attributes.get("SentTimestamp")
    source = attributes.get("DeadLetterQueueSourceArn") or message.get("eventSourceARN", "")
    function, request_id = dead_letters.function_identity(context)
    return DeadLetterRecord(
        message_id=message["messageId"],
        reason=dead_letters.DEAD_LETTERED,
        error="dead-lettered by SQS: its deliveries ended in timeouts, crashes or failing imports",
        body=message["body"],
        # The delivery to the dispatcher is counted by SQS, but is none of the service's.
        attempts=max(1, int(attributes["ApproximateReceiveCount"]) - 1),
        source=source,
        function=function,
        request_id=request_id,
        parked_at=dead_letters.now(),
        first_failed_at=None if first is None else dead_letters.now(int(first) / 1000),
        attributes=attributes,
        message_attributes=message.get("messageAttributes") or {},
        state=WAITING,
    )


def _emit_metrics(**values: int) -> None:
    """One line in CloudWatch's embedded metric format; counts, and ages in seconds."""
    import json

    directive = {
        "Namespace": "LambdaService",
        "Dimensions": [["FunctionName"]],
        "Metrics": [
            {"Name": name, "Unit": "Seconds" if name.startswith("Oldest") else "Count"}
            for name in values
        ],
    }
    line = {
        "_aws": {"Timestamp": int(time() * 1000), "CloudWatchMetrics": [directive]},
        "FunctionName": dead_letters.function_identity(None)[0].rpartition(":")[0],
        **values,
    }
    print(json.dumps(line, separators=(",", ":")), flush=True)


__all__ = ["PARKED", "Dispatcher", "Launch", "LaunchRefused", "Launcher", "Sources", "Stopped"]
