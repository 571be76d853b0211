"""Queues, a worker function, a dispatcher function and tasks, each run in a process of its own.

What AWS does around the code is played by the parent: it delivers at least once, keeps what was not
acknowledged, dead-letters after three deliveries, starts and reaps tasks, and lets time pass. The
code under test runs in forked processes, which can be killed at any operation on the store.
"""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from lambda_shim.batch import SqsHandler
from lambda_shim.budget import Limits
from lambda_shim.contract import Context, NeedsMoreTime, Reject, Retry
from lambda_shim.dispatcher import (
    ANSWER_MOST,
    UNKNOWN_TASK,
    Dispatcher,
    Launch,
    LaunchRefused,
    Stopped,
)
from lambda_shim.objects import ABSENT, Conflict, DirectoryObjects, Objects
from lambda_shim.records import Records
from lambda_shim.runner import Job, Runner, RunnerSettings, core
from lambda_shim.sqs import Entry, Refused

from .overflow import TICK, dead_message, failed, stopped_event
from .stores import Breakable
from .support import MAX_RECEIVE_COUNT, LambdaContext, Order, decode, event, record

PATIENCE = 30.0


class Fault(msgspec.Struct, frozen=True):
    """What befalls one process: from its ``at``-th operation on the store on, ``count`` of them.

    Kinds: ``kill`` (before the operation), ``unavailable`` (every operation fails), ``refused``
    (writes fail), ``lost`` (it is done, and its answer is lost).
    """

    kind: str
    at: int = 1
    count: int = 1_000_000


class FileLedger:
    """A ledger over a directory. Its leases are short, so that a killed holder's soon ends."""

    LEASE_MOST = 0.2

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        # The window that no ledger closes: killed after the effect, ahead of its completion.
        self.killed_in_window = False

    def _swap(self, key: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> bool:
        while True:
            found = self.objects.get(key)
            new = change({} if found is None else json.loads(found[0]))
            if new is None:
                return False
            try:
                self.objects.put(
                    key, json.dumps(new).encode(), ABSENT if found is None else found[1]
                )
            except Conflict:
                continue
            return True

    def claim(self, key: str, token: str, lease: float) -> tuple[str, float]:
        answer = "claimed", 0.0

        def take(item: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal answer
            now = time.time()
            answer = "claimed", 0.0
            if item.get("completed"):
                answer = "completed", 0.0
                return None
            if item.get("until", 0) > now and item["holder"] != token:
                answer = "held", item["until"] - now
                return None
            return {"holder": token, "until": now + min(lease, self.LEASE_MOST)}

        self._swap(key, take)
        return answer

    def complete(self, key: str, token: str) -> bool:
        if self.killed_in_window:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._swap(
            key, lambda item: {"completed": True} if item.get("holder") == token else None
        )

    def release(self, key: str, token: str) -> bool:
        return self._swap(key, lambda item: {} if item.get("holder") == token else None)


class World:
    """One service with its surroundings, in a directory.

    Attributes:
        faults: by process kind (``worker``, ``dispatcher``, ``runner``): the first process of that
            kind takes the first fault, and so on; then all is well.
        duplicates: every message is delivered a second time, after all that came of the first.
        lost_answers: so many deliveries of each queue are acknowledged in vain.
        refusals: so many launches are refused.
        stillborn: tasks stop before their container starts.
        vanishing: so many tasks end at once, and no event tells of it.
        window: so many runners are killed between the effect and the ledger's note of it.
    """

    def __init__(self, directory: Path, **limits: Any) -> None:
        self.directory = directory
        for name in ("tasks", "ended", "refused", "effects", "pointers"):
            (directory / name).mkdir()
        self.limits = Limits(**{"launches": 1000, "failures": 1000, **limits})
        self.faults: dict[str, list[Fault]] = {}
        self.duplicates = False
        self.lost_answers = 0
        self.refusals = 0
        self.stillborn = False
        self.vanishing = 0
        self.window = 0
        self.broken_import = False
        self.offset = 0.0
        self.started: set[str] = set()
        self.processes = 0
        self.work: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        self.again: list[tuple[str, dict[str, Any]]] = []
        self._lost: dict[str, int] = {}

    def clock(self) -> float:
        return time.time() + self.offset

    # -- the outside, as the processes see it

    def records(self, fault: Fault | None = None) -> Records:
        store: Objects = DirectoryObjects(str(self.directory / "store"))
        return Records(store if fault is None else self._broken(store, fault), self.clock)

    def _broken(self, store: Objects, fault: Fault) -> Breakable:
        broken = Breakable(store)
        done = 0

        def strikes(operation: str) -> bool:
            return fault.at <= done < fault.at + fault.count and (
                fault.kind != "refused" or operation in ("put", "delete")
            )

        def before(operation: str, key: str) -> None:
            nonlocal done
            done += 1
            if fault.kind != "lost" and strikes(operation):
                if fault.kind == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(f"store {fault.kind}")

        def after(operation: str, key: str) -> None:
            if fault.kind == "lost" and strikes(operation):
                raise OSError("the answer was lost")

        broken.before, broken.after = before, after
        return broken

    def ledger(self) -> FileLedger:
        return FileLedger(DirectoryObjects(str(self.directory / "ledger")))

    def effect(self, name: str) -> None:
        with open(self.directory / "effects" / name, "ab", buffering=0) as file:
            file.write(b".")

    def effects(self, name: str) -> int:
        path = self.directory / "effects" / name
        return path.stat().st_size if path.exists() else 0

    def launch(self, launch: Launch) -> str:
        refused = self.directory / "refused"
        if len(list(refused.iterdir())) < self.refusals:
            (refused / launch.id).touch()
            raise LaunchRefused("RESOURCE:CAPACITY")
        (self.directory / "tasks" / launch.id).write_text(launch.key)
        arn: str = stopped_event(launch.id)["detail"]["taskArn"]
        return arn

    def ended(self, arns: list[str]) -> Mapping[str, Stopped]:
        ended = self.directory / "ended"
        return {
            arn: Stopped((ended / arn.rpartition("/")[2]).read_text() or None)
            for arn in arns
            if (ended / arn.rpartition("/")[2]).exists()
        }

    def log_of(self, arn: str) -> str:
        return f"/overflow:{arn.rpartition('/')[2]}"

    def send_entries(self, entries: list[Entry]) -> list[Refused]:
        """The failure queue, as the worker's process sees it."""
        for number, entry in enumerate(entries):
            name = f"p-{os.getpid()}-{time.monotonic_ns()}-{number}"
            (self.directory / "pointers" / name).write_text(entry.body)
        return []

    # -- the processes

    def process(self, main: Callable[[], Any]) -> tuple[int, Any]:
        """Run this in a process of its own; gives its wait status, and what it returned."""
        self.processes += 1
        path = self.directory / f"answer-{self.processes}"
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                path.write_text(json.dumps(main()))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        deadline = time.monotonic() + PATIENCE
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise AssertionError("a process did not end")
            time.sleep(0.002)
        return done[1], json.loads(path.read_text()) if path.exists() else None

    def fault(self, process: str) -> Fault | None:
        faults = self.faults.get(process)
        return faults.pop(0) if faults else None

    def run_worker(self, messages: list[dict[str, Any]], seconds: float) -> list[str]:
        """Deliver a batch to the function; returns what came back."""
        fault = self.fault("worker")
        world = self

        class Wiring:
            ports = world
            max_receive_count = MAX_RECEIVE_COUNT
            failure_queue = world
            queue = world
            ledger = world.ledger()
            records = world.records(fault)

        def main() -> Any:
            return SqsHandler(decode, handle, Wiring)(event(*messages), LambdaContext(seconds))

        return self._answer("work", messages, self.process(main)[1])

    def change_visibility(self, receipt: str, seconds: float) -> None:
        pass

    def run_dispatcher(self, what: dict[str, Any]) -> Any:
        fault = self.fault("dispatcher")

        def main() -> Any:
            records = self.records(fault)
            return Dispatcher(records, self, self.limits, clock=self.clock)(what)

        return self.process(main)[1]

    def _answer(self, queue: str, messages: list[dict[str, Any]], answer: Any) -> list[str]:
        """What is not deleted: all of a batch whose process died, or whose answer was lost."""
        ids = [message["messageId"] for message in messages]
        if answer is None:
            return ids
        if self._lost.setdefault(queue, 0) < self.lost_answers:
            self._lost[queue] += 1
            return ids
        return failed(answer)

    def run_task(self, launch: str, key: str) -> int | None:
        """Run a task to its end; returns its exit code as ECS tells it, None: never started."""
        if self.stillborn:
            return None
        fault = self.fault("runner")
        window, self.window = self.window > 0, max(self.window - 1, 0)

        def load() -> Job:
            if self.broken_import:
                raise ModuleNotFoundError("No module named 'pydyf'")
            ledger = self.ledger()
            ledger.killed_in_window = window
            world = self

            class Wiring:
                ports = world
                max_receive_count = MAX_RECEIVE_COUNT
                queue = world

            Wiring.ledger = ledger  # type: ignore[attr-defined]
            return core(decode, handle, Wiring)  # type: ignore[arg-type]

        def main() -> None:
            runner = Runner(
                self.records(fault),
                launch,
                load,
                limits=self.limits,
                settings=RunnerSettings(lease=5, grace=1, retry_most=0.3),
                clock=self.clock,
            )
            runner.listen()
            if status := runner.run(key):
                os._exit(status)

        status, _ = self.process(main)
        return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    # -- the course of things

    def send(self, does: str, name: str = "1", message_id: str = "m1") -> None:
        body = msgspec.json.encode(Order(id=name, does=does)).decode()
        self.send_body("}{" if does == "malformed" else body, message_id)

    def send_body(self, body: str, message_id: str) -> None:
        message = record(body) | {"messageId": message_id}
        self.work.append(message)
        if self.duplicates:
            self.again.append(("work", message))

    def settle(self, rounds: int = 40) -> None:
        """Let everything happen until nothing is left to happen."""
        for _ in range(rounds):
            self._deliver_work()
            self._deliver_failures()
            self._run_tasks()
            self.offset += ANSWER_MOST + 60
            self.run_dispatcher(TICK)
            if self._quiet():
                if not self.again:
                    return
                for queue, message in self.again:
                    (self.work if queue == "work" else self.failures).append(message)
                self.again = []
        raise AssertionError(f"nothing settled after {rounds} rounds")

    def _quiet(self) -> bool:
        records = self.records()
        budget = Dispatcher(records, self, self.limits).budget.read()
        states = {each.state for each in records}
        waits = list((self.directory / "pointers").iterdir())
        return not (self.work or self.failures or waits or budget.tasks or states - {"parked"})

    def _deliver_work(self) -> None:
        for message in list(self.work):
            deadline = '"sleep"' in message["body"]
            if message["messageId"] in self.run_worker([message], 0.3 if deadline else 60):
                count = int(message["attributes"]["ApproximateReceiveCount"])
                if count < MAX_RECEIVE_COUNT:
                    message["attributes"]["ApproximateReceiveCount"] = str(count + 1)
                    continue
                dead = dead_message(message["messageId"], message["body"])
                self.failures.append(dead)
                if self.duplicates:
                    self.again.append(("failures", dead))
            self.work.remove(message)

    def _deliver_failures(self) -> None:
        for path in sorted((self.directory / "pointers").iterdir()):
            self.failures.append(dead_message(path.name, path.read_text()))
            path.unlink()
        while self.failures:
            batch = self.failures[:10]
            answer = self.run_dispatcher({"Records": batch})
            returned = self._answer("failures", batch, answer)
            kept = [message for message in batch if message["messageId"] in returned]
            self.failures = kept + self.failures[10:]

    def _run_tasks(self) -> None:
        while True:
            tasks = {path.name: path for path in (self.directory / "tasks").iterdir()}
            new = sorted(set(tasks) - self.started)
            if not new:
                return
            for launch in new:
                self.started.add(launch)
                if self.vanishing > 0:
                    self.vanishing -= 1
                    (self.directory / "ended" / launch).write_text(UNKNOWN_TASK)
                    continue
                code = self.run_task(launch, tasks[launch].read_text())
                why = "TaskFailedToStart" if code is None else "EssentialContainerExited"
                text = "" if code == 0 else f"exit {code}"
                (self.directory / "ended" / launch).write_text(text)
                happened = stopped_event(launch, code, why)
                for _ in range(3):  # EventBridge's call is retried twice; then it is the sweep's
                    if self.run_dispatcher(happened) is not None:
                        break


def handle(message: Order, context: Context[World]) -> None:
    """A job that fails in every way there is; ``context.remaining`` tells Lambda from a task."""
    on_lambda = context.remaining is not None
    match message.does:
        case "needs more time" if on_lambda:
            raise NeedsMoreTime("an hour of it")
        case "sleep" if on_lambda:
            time.sleep(PATIENCE)
        case "crash" if on_lambda:
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise ValueError("boom")
        case "reject":
            raise Reject("no such customer")
        case "fail in the task":
            if on_lambda:
                raise NeedsMoreTime
            raise ValueError("boom")
        case "reject in the task":
            if on_lambda:
                raise NeedsMoreTime
            raise Reject("no such customer")
        case "die in the task":
            if on_lambda:
                raise NeedsMoreTime
            os.kill(os.getpid(), signal.SIGKILL)
        case "retry in the task":
            if on_lambda:
                raise NeedsMoreTime
            if context.ports.effects("tries") < 3:
                context.ports.effect("tries")
                raise Retry("not yet", after=0.01)
    with context.once("effect") as first:
        if first:
            context.ports.effect(message.business_id)
