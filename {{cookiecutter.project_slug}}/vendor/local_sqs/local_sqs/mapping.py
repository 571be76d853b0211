"""The event source mapping: what Lambda's pollers do between an SQS queue and a function.

One thread and one `poll` over Redis and the environments. Messages are claimed only for an environment
that is ready to take them; environments are started when there is work for them, up to `concurrency`.
"""

import contextlib
import gc
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module

import msgspec

from . import log
from .child import memory_mb
from .client import Client, ConnectionLost, RedisError
from .environment import DebugEnvironment, Environment, EnvironmentExited, ForkedEnvironment
from .event import MAXIMUM_PAYLOAD_BYTES, encode_record, join_records, queue_arn
from .invocation import (
    ERROR,
    INIT_DONE,
    INIT_FAILED,
    MAXIMUM_RESPONSE_BYTES,
    Invocation,
    Outcome,
    describe,
    response_too_large,
)
from .message import new_id
from .queue import Queue
from .response import judge
from .settings import Settings
from .waiter import Waiter

_ENVELOPE_BYTES = len(join_records([]))
_FOREVER = float("inf")

_MEMORY_LOOKS = 0.1
"""Seconds between two looks at the memory of an environment that runs."""

_QUICK = 0.01
"""An invocation of fewer seconds cannot have filled the memory that a function has at least."""

_LATE = 0.02
"""By how many seconds the alarm comes after the deadline that the loop itself would have kept."""


class _Worker(msgspec.Struct, eq=False):
    """An environment and what it is doing: its init phase, a batch, or nothing."""

    environment: Environment
    deadline: float
    initialised: bool = False
    request_id: str = ""
    batch: dict[str, str] = {}  # message id -> receipt handle
    groups: dict[str, str] = {}  # message id -> message group, of FIFO messages
    started: float = 0.0
    look_at_memory: float = 0.0
    held: Invocation | None = None  # by the fault "slow", until `hand_over`
    hand_over: float = _FOREVER

    @property
    def idle(self) -> bool:
        return self.initialised and not self.request_id

    @property
    def timer(self) -> float:
        """When something is to be done about it, by the clock of time.monotonic."""
        if self.idle:
            return _FOREVER
        if not self.request_id:
            return self.deadline
        return min(self.deadline, self.look_at_memory, self.hand_over)


class _Claimed(msgspec.Struct, frozen=True):
    """A message that waits for its batch to be complete."""

    id: str
    receipt: str
    record: bytes
    group: str | None


# An error that Redis answers with (out of memory, read-only, a key of another type) may pass, too.
_TROUBLE = (ConnectionLost, RedisError)


class _BackOff:
    """Doubling pauses. `until`: the end of the current one, by the clock of time.monotonic."""

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._next = first
        self.until = 0.0

    def failed(self) -> float:
        """Begin the next pause; gives its length in seconds."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        self.until = time.monotonic() + pause
        return pause

    def reset(self) -> None:
        self._next, self.until = self._first, 0.0


class EventSourceMapping:
    """A poller. `run` returns after SIGTERM or SIGINT: the running batches end first, within the
    function's timeout; a second signal ends them at once."""

    def __init__(
        self,
        settings: Settings,
        *,
        debug: bool = False,
        on_ready: Callable[[], object] | None = None,
    ) -> None:
        """`on_ready` is called once: Redis answers, the queue exists, and the first environment has
        ended its init phase, well or not."""
        self._settings = settings
        self._debug = debug
        self._on_ready = on_ready
        # No retries inside a command: the function's time limit is kept while Redis is away, too.
        self._client = Client(settings.redis.host, settings.redis.port, retry_for=0, timeout=1.0)
        self._queue = Queue(self._client, settings.queue.name)
        self._waiter = Waiter(self._client, settings.queue.name)
        self._arn = queue_arn(settings.queue.name, settings.region, settings.account)
        self._queue_exists = False
        self._workers: list[_Worker] = []
        self._first_init_ended = False
        self._init_failures = _BackOff(0.1, 10.0)
        self._gathered: deque[_Claimed] = deque()
        self._window_ends = 0.0
        self._done: list[str] = []  # receipt handles to delete
        self._look_at = 0.0  # when the queue may have something
        self._retry_at = 0.0  # when to look whether Redis is back
        self._away_since: float | None = time.monotonic()  # None: Redis answers
        self._away_told = False
        self._signals = 0
        self._wakeup = self._wakeup_sender = -1
        self._more_workers = 0  # to start, for messages that a look left
        self._slow = 0.0  # the fault "slow": seconds by which environments are late
        reserved = settings.function.reserved_concurrency
        concurrency = 1 if settings.mapping.serial else settings.mapping.concurrency
        self._most_workers = concurrency if reserved is None else min(concurrency, reserved)
        self._throttles = self._most_workers < concurrency
        self._runtime = settings.function.environments == "runtime" and not debug

    def run(self) -> None:
        """Raises SettingsError when what the settings ask for is not installed."""
        if self._runtime:
            from .runtime_environment import require_runtime_client

            require_runtime_client()
        self._warn_of_repetitions()
        with self._signal_handling():
            try:
                if not self._runtime:
                    self._prepare_to_fork()
                if self._most_workers:
                    self._start_worker()
                while not self._finished():
                    self._arm_alarm()
                    self._use_redis()
                    self._tell_ready()
                    self._wait_for_events()
                    self._enforce_deadlines()
                self._settle_accounts()
            finally:
                for worker in self._workers:
                    worker.environment.kill()
                self._waiter.close()
                self._queue.close()

    def _warn_of_repetitions(self) -> None:
        """What waits for its batch is on its visibility clock already, here as on AWS."""
        held = self._settings.mapping.batching_window + self._settings.function.timeout
        if self._settings.queue.visibility_timeout < held:
            log.line(
                f"a batch may take {held:g} s, window and function timeout together: longer than the "
                f"visibility timeout of {self._settings.queue.visibility_timeout:g} s, after which its "
                "messages are delivered again"
            )

    def _prepare_to_fork(self) -> None:
        """Import once what each environment would."""
        function = self._settings.function
        sys.path[:0] = [entry for entry in function.path if entry not in sys.path]
        for module in function.preload:
            _preload(module)
        gc.freeze()  # what exists now stays shared with the environments

    def _finished(self) -> bool:
        busy = any(worker.request_id for worker in self._workers)
        return self._signals > 1 or (self._signals == 1 and not busy)

    # Waiting

    def _wait_for_events(self) -> None:
        poller = select.poll()
        timers = [worker.timer for worker in self._workers]
        if self._wakeup >= 0:
            poller.register(self._wakeup, select.POLLIN)
        waiting = -1
        if self._away_since is not None:
            timers.append(self._retry_at)
        elif not self._signals:
            waiting = self._arm_waiter(timers)
            if waiting >= 0:
                poller.register(waiting, select.POLLIN)
        workers = {}
        for worker in self._workers:
            descriptor = worker.environment.fileno()
            if descriptor is not None:
                workers[descriptor] = worker
                unsent = select.POLLOUT if worker.environment.unsent else 0
                poller.register(descriptor, select.POLLIN | unsent)
        due = min(timers, default=_FOREVER)
        pause = None if due == _FOREVER else max(0.0, due - time.monotonic()) * 1000
        for descriptor, events in poller.poll(pause):
            if descriptor == self._wakeup:
                self._count_signals()
                for worker in [*self._workers]:
                    self._collect(worker)  # one of them may have ended
            elif descriptor == waiting:
                self._wake()
            elif (worker := workers[descriptor]) in self._workers:
                if events & select.POLLOUT:
                    worker.environment.flush()
                self._collect(worker)

    def _arm_waiter(self, timers: list[float]) -> int:
        """The waiter's descriptor when anything could be done with a message, else -1."""
        if self._groups_run():
            return -1
        if any(worker.idle for worker in self._workers) or self._throttling():
            timers.append(self._window_ends if self._gathered else _FOREVER)
        elif not self._may_start_worker():
            return -1
        elif self._init_failures.until > time.monotonic():
            timers.append(self._init_failures.until)
            return -1
        timers.append(self._look_at)
        try:
            descriptor = self._waiter.arm()
        except _TROUBLE as error:
            self._lost(error)
            timers.append(self._retry_at)
            return -1
        return descriptor if self._look_at > time.monotonic() else -1

    def _wake(self) -> None:
        try:
            self._waiter.consume()
            self._look_at = 0.0
        except _TROUBLE as error:
            self._lost(error)

    def _tell_ready(self) -> None:
        started = self._first_init_ended or not self._most_workers
        if self._on_ready is not None and self._queue_exists and started:
            on_ready, self._on_ready = self._on_ready, None
            on_ready()

    # Redis

    def _use_redis(self) -> None:
        if self._away_since is not None and self._retry_at > time.monotonic():
            return
        try:
            if not self._queue_exists:
                self._create_queue()
            self._claim()
            if self._away_since is not None:
                self._back()
        except _TROUBLE as error:
            self._lost(error)

    def _create_queue(self) -> None:
        queue = self._settings.queue
        self._queue.create(
            visibility_timeout=queue.visibility_timeout,
            max_receive_count=queue.max_receive_count,
            dead_letter_queue=queue.dead_letter_queue,
            retention=queue.retention,
            delay=queue.delay,
            fifo=queue.fifo,
            content_based_deduplication=queue.content_based_deduplication,
        )
        self._queue_exists = True
        self._look_at = 0.0

    def _back(self) -> None:
        """Redis did all that was asked of it. (To have created the queue is not enough: the error
        may be another key's, and would be told anew at each try.)"""
        if self._away_told and self._away_since is not None:
            away = time.monotonic() - self._away_since
            log.line(f"Redis at {self._client.address} is back after {away:.1f} s")
        self._away_since, self._away_told = None, False

    def _lost(self, error: ConnectionLost | RedisError) -> None:
        started = self._away_since is not None  # it may just not have started yet
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        if not self._away_told and not (started and now - self._away_since < 1.0):
            what = f"Redis at {self._client.address} refused: {error}"
            if isinstance(error, ConnectionLost):
                what = str(error)
            log.line(f"{what}; retrying until it is back")
            self._away_told = True
        self._queue_exists = False  # it may come back empty
        self._waiter.close()
        # A tenth of the time waited already: a server that is just starting is met at once.
        self._retry_at = now + min(max(0.001, (now - self._away_since) / 10), 1.0)

    def _claim(self) -> None:
        """Delete what is done; fill batches and hand them out while there is somebody to take them."""
        while not self._signals:
            worker = next((worker for worker in self._workers if worker.idle), None)
            now = time.monotonic()
            due = self._look_at <= now
            if worker is None:
                if due and self._may_start_worker() and self._init_failures.until <= now:
                    self._start_worker()
                    if self._debug:
                        continue
                if not self._throttling():
                    break
            if self._groups_run():
                break
            if due and len(self._gathered) < self._settings.mapping.batch_size:
                self._look()
            if not self._gathered or not self._batch_complete():
                break
            if worker is None:
                self._throttle()
                continue
            self._invoke(worker)
            for _ in range(self._more_workers):  # after the invocation: forking takes its time
                self._start_worker()
            self._more_workers = 0
        self._delete_done()

    def _look(self) -> None:
        room = self._settings.mapping.batch_size - len(self._gathered)
        received = self._queue.look(room, done=self._done)
        now = time.monotonic()
        self._forget_deleted(received.deleted)
        self._slow = received.slow
        self._look_at = now if received.left else now + received.quiet_for
        if received.messages and not self._gathered:
            self._window_ends = now + self._settings.mapping.batching_window
        for message in received.messages:
            record = encode_record(message, self._arn, self._settings.region)
            self._gathered.append(_Claimed(message.id, message.receipt, record, message.group_id))
        batches = -(-received.left // self._settings.mapping.batch_size)
        ready = (
            sum(not worker.request_id for worker in self._workers) - 1
        )  # one is about to be busy
        self._more_workers = min(batches - ready, self._most_workers - len(self._workers))

    def _batch_complete(self) -> bool:
        return (
            len(self._gathered) >= self._settings.mapping.batch_size
            or time.monotonic() >= self._window_ends
            or sum(len(claimed.record) + 1 for claimed in self._gathered) >= MAXIMUM_PAYLOAD_BYTES
        )

    def _groups_run(self) -> bool:
        """Whether what was cut off a FIFO batch has to wait for the batch, for its message groups."""
        running = {group for worker in self._workers for group in worker.groups.values()}
        return bool(running) and any(claimed.group in running for claimed in self._gathered)

    def _throttling(self) -> bool:
        """Whether a batch would be claimed although the function has no environment for it: a function
        with reserved concurrency, and a mapping that does not know of it."""
        busy = sum(bool(worker.request_id) for worker in self._workers)
        return self._throttles and busy == self._most_workers

    def _throttle(self) -> None:
        """Lambda refuses the batch; its messages have been received, and return."""
        batch = [self._gathered.popleft() for _ in range(self._batch_length())]
        log.line(
            f"TooManyRequestsException: Rate Exceeded: {len(batch)} messages return after their "
            "visibility timeout"
        )

    def _delete_done(self) -> None:
        if self._done:
            self._forget_deleted(self._queue.delete_batch(self._done))

    def _forget_deleted(self, deleted: list[bool]) -> None:
        if not all(deleted):
            late = deleted.count(False)
            log.line(
                f"{late} messages were done but not deleted: their visibility timeout had ended and "
                "they had been received again (or this is the repetition of a deletion)"
            )
        if deleted:
            self._done.clear()

    def _settle_accounts(self) -> None:
        """Last of all: delete what is done, and give back what was claimed but not handed out."""
        try:
            self._delete_done()
            for claimed in self._gathered:
                self._queue.change_visibility(claimed.receipt, 0)
        except _TROUBLE as error:
            log.line(f"{error}; what was not deleted returns after its visibility timeout")

    # Environments

    def _may_start_worker(self) -> bool:
        return len(self._workers) < self._most_workers and all(
            worker.initialised for worker in self._workers
        )

    def _start_worker(self) -> None:
        environment: Environment
        if self._debug:
            environment = DebugEnvironment(self._settings)
        elif self._runtime:
            from .runtime_environment import RuntimeEnvironment

            environment = RuntimeEnvironment(self._settings)
        else:
            ours = [self._wakeup, self._wakeup_sender]
            ours += [self._client.fileno(), self._waiter.fileno()]
            for worker in self._workers:
                ours += worker.environment.descriptors
            environment = ForkedEnvironment(self._settings, [fd for fd in ours if fd >= 0])
        limit = _FOREVER if self._debug else self._settings.function.init_timeout
        worker = _Worker(environment, time.monotonic() + limit)
        self._workers.append(worker)
        if environment.fileno() is None:
            self._collect(worker)

    def _batch_length(self) -> int:
        """How many of the gathered messages the next batch takes: the invocation's payload is limited."""
        size = _ENVELOPE_BYTES
        for number, claimed in enumerate(self._gathered):
            size += len(claimed.record) + 1
            if number and size > MAXIMUM_PAYLOAD_BYTES:
                return number
        return len(self._gathered)

    def _invoke(self, worker: _Worker) -> None:
        batch = [self._gathered.popleft() for _ in range(self._batch_length())]
        worker.batch = {claimed.id: claimed.receipt for claimed in batch}
        if batch[0].group is not None:
            worker.groups = {claimed.id: claimed.group or "" for claimed in batch}
        worker.request_id = new_id()
        now = worker.started = time.monotonic()
        worker.deadline = _FOREVER if self._debug else now + self._settings.function.timeout
        worker.look_at_memory = _FOREVER if self._debug else now + _MEMORY_LOOKS
        log.debug(f"START RequestId: {worker.request_id} ({len(batch)} records)")
        payload = join_records(claimed.record for claimed in batch)
        invocation = Invocation(worker.request_id, worker.deadline, payload)
        if self._slow and not self._debug:
            worker.held, worker.hand_over = invocation, now + self._slow
            return
        worker.environment.invoke(invocation)
        if worker.environment.fileno() is None:
            self._collect(worker)
        else:
            self._arm_alarm()

    def _collect(self, worker: _Worker) -> None:
        """Take what the environment has to say."""
        try:
            while (outcome := worker.environment.outcome()) is not None:
                self._take(worker, outcome)
                if worker not in self._workers:
                    return
        except EnvironmentExited as error:
            self._discard(worker)
            if worker.initialised and worker.request_id and worker.deadline <= time.monotonic():
                self._timed_out(worker)  # the alarm was first, or the environment itself
            elif worker.initialised:
                request = f"RequestId: {worker.request_id} " if worker.request_id else ""
                log.line(f"{request}Error: {error}")
                self._replace(worker)
            else:
                self._init_failed(f"{error}")

    def _take(self, worker: _Worker, outcome: Outcome) -> None:
        if outcome.kind == INIT_DONE:
            worker.initialised = self._first_init_ended = True
            self._init_failures.reset()
        elif outcome.kind == INIT_FAILED:
            self._discard(worker)
            failure = describe(outcome.payload)
            self._init_failed(f"{failure.error_type}: {failure.error_message}")
        else:
            self._end_invocation(worker, outcome)

    def _end_invocation(self, worker: _Worker, outcome: Outcome) -> None:
        log.debug(f"END RequestId: {worker.request_id}")
        request_id, batch, groups = worker.request_id, worker.batch, worker.groups
        if time.monotonic() - worker.started > _QUICK and self._out_of_memory(worker):
            return
        worker.request_id, worker.batch, worker.groups = "", {}, {}
        if outcome.kind == ERROR:
            self._block({*groups.values()})
            return  # the environment has logged the error; the whole batch returns
        if len(outcome.payload) > MAXIMUM_RESPONSE_BYTES:
            self._block({*groups.values()})
            failure = describe(response_too_large(len(outcome.payload)).payload)
            log.line(f"RequestId: {request_id} {failure}")
            return
        verdict = judge(
            outcome.payload,
            batch.keys(),
            report_batch_item_failures=self._settings.mapping.report_batch_item_failures,
        )
        if verdict.reason:
            log.line(f"RequestId: {request_id} the whole batch returns: {verdict.reason}")
        self._done += [receipt for id_, receipt in batch.items() if id_ not in verdict.failed]
        self._block({groups[id_] for id_ in verdict.failed if id_ in groups})

    def _block(self, groups: set[str]) -> None:
        """What waits of a message group returns behind the group's message that failed."""
        if groups and self._gathered:
            kept = [claimed for claimed in self._gathered if claimed.group not in groups]
            self._gathered = deque(kept)

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for worker in [*self._workers]:
            if worker.timer > now:
                continue
            self._collect(worker)  # the answer may have come at the last moment
            if worker.idle or worker not in self._workers:
                continue
            if worker.deadline <= now:
                self._discard(worker)
                if worker.initialised:
                    self._timed_out(worker)
                else:
                    limit = self._settings.function.init_timeout
                    self._init_failed(f"no answer within {limit:.2f} seconds")
                continue
            if worker.held is not None and worker.hand_over <= now:
                worker.environment.invoke(worker.held)
                worker.held, worker.hand_over = None, _FOREVER
            if worker.look_at_memory <= now and not self._out_of_memory(worker):
                worker.look_at_memory = now + _MEMORY_LOOKS

    def _timed_out(self, worker: _Worker) -> None:
        timeout = self._settings.function.timeout
        log.line(f"{worker.request_id} Task timed out after {timeout:.2f} seconds")
        self._replace(worker)

    def _out_of_memory(self, worker: _Worker) -> bool:
        """Ends an environment that has used more memory than the function has, as Lambda does."""
        allowed = self._settings.function.memory_mb
        used = 0 if self._debug else memory_mb(worker.environment.pid)
        if used <= allowed:
            return False
        self._discard(worker)
        log.line(
            f"RequestId: {worker.request_id} Error: Runtime exited with error: signal: killed "
            f"(Runtime.OutOfMemory: Memory Size: {allowed} MB Max Memory Used: {used} MB)"
        )
        self._replace(worker)
        return True

    def _arm_alarm(self) -> None:
        """Lets a signal enforce the function's timeout while the loop waits for a Redis that hangs."""
        busy = [worker.deadline for worker in self._workers if worker.request_id]
        left = min(busy, default=_FOREVER) - time.monotonic()
        if self._debug or left > 2 * self._client.timeout:
            return
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.0) + _LATE)

    def _on_alarm(self, number: int, frame: object) -> None:
        now = time.monotonic()
        for worker in [*self._workers]:
            if worker.request_id and worker.deadline <= now:
                worker.environment.signal_kill()  # the loop will see its end

    def _discard(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.environment.kill()
        self._block({*worker.groups.values()})

    def _replace(self, worker: _Worker) -> None:
        # An environment that died idle is replaced when there is work, lest it dies in a loop.
        if worker.request_id and not self._signals and self._may_start_worker():
            self._start_worker()

    def _init_failed(self, reason: str) -> None:
        """As on AWS, a function that cannot start costs the waiting messages a receive: they were
        claimed for an invocation that failed, and return after their visibility timeout."""
        self._first_init_ended = True
        pause = self._init_failures.failed()
        log.line(
            f"init of the function failed: {reason}; next attempt in {pause:.1f} s at the earliest"
        )
        if any(worker.initialised for worker in self._workers) or self._signals:
            return
        if self._away_since is None and self._look_at <= time.monotonic():
            try:
                received = self._queue.look(self._settings.mapping.batch_size)
            except _TROUBLE as error:
                self._lost(error)
                return
            self._look_at = time.monotonic() + (0 if received.left else received.quiet_for)
            if received.messages:
                log.line(f"{len(received.messages)} messages return after their visibility timeout")

    # Signals

    @contextlib.contextmanager
    def _signal_handling(self) -> Iterator[None]:
        if self._debug:  # ctrl-C belongs to the person at the terminal
            with contextlib.suppress(KeyboardInterrupt):
                yield
            return
        self._wakeup, self._wakeup_sender = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._wakeup_sender, False)
        previous = {
            number: signal.signal(number, _note_only)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        }
        previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_alarm)
        signal.set_wakeup_fd(self._wakeup_sender, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.set_wakeup_fd(-1)
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(self._wakeup)
            os.close(self._wakeup_sender)

    def _count_signals(self) -> None:
        for number in os.read(self._wakeup, 4096):
            if number in (signal.SIGTERM, signal.SIGINT):
                if not self._signals:
                    running = sum(bool(worker.request_id) for worker in self._workers)
                    log.line(f"stopping; {running} batches are running")
                self._signals += 1


def _note_only(number: int, frame: object) -> None:
    """The wakeup descriptor carries the signal into the loop."""


def _preload(module: str) -> None:
    try:
        import_module(module)
    except Exception as error:  # the init phase meets it again, and reports it as Lambda does
        log.line(f"preload of {module} failed: {type(error).__name__}: {error}")


def run(
    settings: Settings, *, debug: bool = False, on_ready: Callable[[], object] | None = None
) -> None:
    """Poll until SIGTERM or SIGINT.

    `debug`: the handler runs in this process, without fork or time limit. `on_ready` is called once,
    when messages will be taken.
    """
    EventSourceMapping(settings, debug=debug, on_ready=on_ready).run()
