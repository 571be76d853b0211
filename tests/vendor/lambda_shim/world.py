"""Queues, a worker function, a dispatcher function and tasks, each run in a process of its own.

What AWS does around the code is played by the parent: it delivers at least once, keeps what was not
acknowledged, dead-letters after three deliveries, starts and reaps tasks, and lets time pass. The
code under test runs in forked processes, which can be killed at any operation on the store.

Another service's dead letters come of the queues in ANOTHERS; its functions are BILLING, which
works, and SCANS, which is a container image.
"""

from __future__ import annotations

import io
import json
import os
import platform
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from botocore.exceptions import ClientError
from botocore.session import Session
from botocore.validate import validate_parameters
from lambda_shim.batch import SqsHandler
from lambda_shim.budget import LaunchBudget, Limits
from lambda_shim.contract import Context, NeedsMoreTime, Reject, Retry
from lambda_shim.dispatcher import ANSWER_MOST, Dispatcher, OwnMessages, Sources
from lambda_shim.ecs import LAUNCH, POOL, RECORD, EcsLauncher, TaskSettings
from lambda_shim.foreign import ARCHITECTURES, functions
from lambda_shim.objects import ABSENT, Conflict, DirectoryObjects, Objects
from lambda_shim.records import OWN, Records
from lambda_shim.registry import Function, Registry
from lambda_shim.runner import Job, Runner, RunnerSettings, core
from lambda_shim.sqs import Entry, Refused

from .overflow import SOURCE, TICK, dead_message, failed, pointer_message, stopped_event
from .stores import Breakable
from .support import MAX_RECEIVE_COUNT, LambdaContext, Order, decode, event, record

PATIENCE = 30.0
# Seconds for which a runner holds a record without a heartbeat.
LEASE = 5.0
# Seconds that a function has whose time is to run out, and what an SQS trigger delivers at once.
QUICK = 0.3
BATCH = 10

ACCOUNT = "eu-central-1:000000000000"
BILLING, SCANS = (f"arn:aws:lambda:{ACCOUNT}:function:{name}" for name in ("billing", "scans"))
# What a message "does", and the queue that it was dead-lettered from.
ANOTHERS = {
    "is another service's": f"arn:aws:sqs:{ACCOUNT}:bills",
    "is an image function's": f"arn:aws:sqs:{ACCOUNT}:scans",
    "is nobody's": f"arn:aws:sqs:{ACCOUNT}:unheard-of",
}
# The code of BILLING: another service has no ledger, so it notes every effect.
CODE = """
import json, os

def handler(event, context):
    (record,) = event["Records"]
    order = json.loads(record["body"])["id"]
    with open(os.path.join(os.environ["EFFECTS"], "order-" + order), "ab", buffering=0) as file:
        file.write(b".")
"""


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
        init_fails: the function's environments end before its handler is there to be called.
        subnets: none: the deployment has no tasks.
        tasks_wanted: without subnets: whether it was to have any.
        sources: whose dead letters the dispatcher takes.
        answers: of RunTask, one after the other, see ``ANSWERS``; then it starts tasks.
        stillborn: tasks stop before their container starts.
        vanishing: so many tasks end at once, and no event tells of it.
        window: so many runners are killed between the effect and the ledger's note of it.
        broken_import: the service's jobs cannot be imported in a task.
    """

    def __init__(self, directory: Path, **limits: Any) -> None:
        self.directory = directory
        for name in ("tasks", "ended", "answered", "effects", "pointers"):
            (directory / name).mkdir()
        for name in ("RunTask", "DescribeTasks"):
            shapes(name)  # read once, for all the processes
        self.limits = Limits(**{"launches": 1000, "failures": 1000, **limits})
        self.faults: dict[str, list[Fault]] = {}
        self.duplicates = False
        self.lost_answers = 0
        self.init_fails = False
        self.subnets: tuple[str, ...] = ("subnet-a", "subnet-b")
        self.tasks_wanted = True
        self.sources: Sources = OwnMessages()
        self.answers: tuple[str, ...] = ()
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

    def lose_leases(self) -> None:
        """What a sweep makes of a runner that stood still for longer than its lease."""
        records = self.records()
        records.clock = lambda: self.clock() + 10 * LEASE
        Dispatcher(records, self.launcher(), self.limits, clock=records.clock).sweep()

    def launcher(self) -> EcsLauncher | None:
        if not self.subnets:
            return None
        settings = TaskSettings(
            cluster="overflow",
            task_definitions=dict.fromkeys(self.sources.pools, "overflow"),
            container="runner",
            subnets=self.subnets,
        )
        return EcsLauncher(settings, Ecs(self))

    def send_entries(self, entries: list[Entry]) -> list[Refused]:
        """The failure queue, as the worker's process sees it."""
        for number, entry in enumerate(entries):
            name = f"p-{os.getpid()}-{time.monotonic_ns()}-{number}"
            (self.directory / "pointers" / name).write_text(entry.body)
        return []

    # -- the processes

    def process(self, main: Callable[[], Any], most: float | None = None) -> tuple[int, Any]:
        """Run this in a process of its own; gives its wait status, and what it returned.

        Args:
            main: what to run.
            most: it is killed after so many seconds; default: it has to end.
        """
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
        deadline = time.monotonic() + (PATIENCE if most is None else most)
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)
                assert most is not None, "a process did not end"
                break
            time.sleep(0.002)
        return done[1], json.loads(path.read_text()) if path.exists() else None

    def fault(self, process: str) -> Fault | None:
        faults = self.faults.get(process)
        return faults.pop(0) if faults else None

    def run_worker(self, messages: list[dict[str, Any]]) -> list[str]:
        """Deliver a batch to the function; returns what came back."""
        fault = self.fault("worker")
        world = self
        does = {word for word in ("sleep", "hang") for m in messages if f'"{word}"' in m["body"]}

        class Wiring:
            ports = world
            max_receive_count = MAX_RECEIVE_COUNT
            failure_queue = world if world.subnets else None
            queue = world
            ledger = world.ledger()
            records = world.records(fault)

        def main() -> Any:
            if self.init_fails:
                raise ModuleNotFoundError("No module named 'pydyf'")
            context = LambdaContext(QUICK if does else 60)
            return SqsHandler(decode, handle, Wiring)(event(*messages), context)

        # With the guard to rely on, a busy machine is given the time to put the record down.
        most = QUICK if "hang" in does else None
        return self._answer("work", messages, self.process(main, most)[1])

    def change_visibility(self, receipt: str, seconds: float) -> None:
        pass

    def run_dispatcher(self, what: dict[str, Any]) -> Any:
        fault = self.fault("dispatcher")

        def main() -> Any:
            records = self.records(fault)
            launcher = self.launcher()
            wanted = self.tasks_wanted
            return Dispatcher(
                records, launcher, self.limits, self.sources, self.clock, tasks_wanted=wanted
            )(what)

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

    def run_task(self, launch: str, key: str, pool: str) -> int | None:
        """Run a task to its end; returns its exit code as ECS tells it, None: never started."""
        if self.stillborn:
            return None
        fault = self.fault("runner")
        window, self.window = self.window > 0, max(self.window - 1, 0)

        def load() -> Job:
            if pool != OWN:
                assert isinstance(self.sources, Registry)
                opt = str(self.directory / "opt")
                return functions(self.sources, Functions(self), opt, lambda url: zipped(CODE))
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
                pool,
                self.limits,
                RunnerSettings(lease=LEASE, grace=1, retry_most=0.3),
                self.clock,
            )
            runner.listen()
            if status := runner.run(key):
                os._exit(status)

        status, _ = self.process(main)
        return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    # -- the course of things

    def send(self, does: str, name: str = "1", message_id: str = "m1") -> str:
        """Send a message, or dead-letter another service's; returns its body."""
        body = msgspec.json.encode(Order(id=name, does=does)).decode()
        body = "}{" if does == "malformed" else body
        if does in ANOTHERS:
            message = dead_message(message_id, body)
            message["attributes"]["DeadLetterQueueSourceArn"] = ANOTHERS[does]
        else:
            message = record(body) | {"messageId": message_id}
        queue, messages = ("failures", self.failures) if does in ANOTHERS else ("work", self.work)
        messages.append(message)
        if self.duplicates:
            self.again.append((queue, message))
        return body

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
        budget = LaunchBudget(records.objects, self.limits).read()
        states = {each.state for each in records}
        waits = list((self.directory / "pointers").iterdir())
        return not (self.work or self.failures or waits or budget.tasks or states - {"parked"})

    def _deliver_work(self) -> None:
        messages, self.work = self.work, []
        for start in range(0, len(messages), BATCH):
            batch = messages[start : start + BATCH]
            returned = self.run_worker(batch)
            for message in batch:
                if message["messageId"] in returned:
                    self._return(message)

    def _return(self, message: dict[str, Any]) -> None:
        """A message was not deleted: it is delivered again, or dead-lettered."""
        count = int(message["attributes"]["ApproximateReceiveCount"])
        if count < MAX_RECEIVE_COUNT:
            message["attributes"]["ApproximateReceiveCount"] = str(count + 1)
            self.work.append(message)
            return
        dead = dead_message(message["messageId"], message["body"])
        self.failures.append(dead)
        if self.duplicates:
            self.again.append(("failures", dead))

    def _deliver_failures(self) -> None:
        for path in sorted((self.directory / "pointers").iterdir()):
            self.failures.append(pointer_message(path.name, path.read_text()))
            path.unlink()
        for _ in range(100):
            if not self.failures:
                return
            batch = self.failures[:10]
            answer = self.run_dispatcher({"Records": batch})
            returned = self._answer("failures", batch, answer)
            kept = [message for message in batch if message["messageId"] in returned]
            self.failures = kept + self.failures[10:]
        raise AssertionError("the dispatcher takes nothing")

    def _run_tasks(self) -> None:
        while True:
            tasks = {path.name: path for path in (self.directory / "tasks").iterdir()}
            new = sorted(set(tasks) - self.started)
            if not new:
                return
            for name in new:
                self.started.add(name)
                if self.vanishing > 0:
                    self.vanishing -= 1
                    (self.directory / "ended" / name).touch()
                    continue
                variables = json.loads(tasks[name].read_text())
                launch = variables[LAUNCH]
                code = self.run_task(launch, variables[RECORD], variables[POOL])
                why = "TaskFailedToStart" if code is None else "EssentialContainerExited"
                happened = stopped_event(launch, code, why)
                happened["detail"]["taskArn"] = Ecs.ARN + name
                (self.directory / "ended" / name).write_text(json.dumps(happened["detail"]))
                for _ in range(3):  # EventBridge's call is retried twice; then it is the sweep's
                    if self.run_dispatcher(happened) is not None:
                        break


@cache
def shapes(name: str) -> Any:
    """An operation of ECS, as botocore describes it."""
    return Session().get_service_model("ecs").operation_model(name)


# No task is started; but "no answer" is an error of the server's, after one was.
ANSWERS: dict[str, Any] = {
    "no tasks": {"tasks": [], "failures": []},
    "failures": {"tasks": [], "failures": [{"reason": "AGENT", "detail": "gone"}]},
    "no capacity": {"failures": [{"reason": "Capacity is unavailable at this time."}]},
    "denied": ("AccessDeniedException", 400),
    "no answer": ("ServerException", 500),
}


class Ecs:
    """ECS, as boto3's client speaks to it; both sides are held to botocore's model."""

    class exceptions:  # noqa: N801  boto3's name
        ClientError = ClientError

    ARN = f"arn:aws:ecs:{ACCOUNT}:task/overflow/"

    def __init__(self, world: World) -> None:
        self.world = world

    def run_task(self, **request: Any) -> Any:
        validate_parameters(request, shapes("RunTask").input_shape)
        answered = self.world.directory / "answered"
        number = len(list(answered.iterdir()))
        (answered / str(number)).touch()
        kind = self.world.answers[number] if number < len(self.world.answers) else None
        answer: Any = {"tasks": [{"taskArn": self.ARN + request["clientToken"]}]}
        if kind in (None, "no answer"):
            self._start(request)
        if kind is not None:
            answer = ANSWERS[kind]
        if isinstance(answer, tuple):
            code, status = answer
            error: Any = {"Error": {"Code": code, "Message": "no"}}
            raise ClientError({**error, "ResponseMetadata": {"HTTPStatusCode": status}}, "RunTask")
        validate_parameters(answer, shapes("RunTask").output_shape)
        return answer

    def _start(self, request: dict[str, Any]) -> None:
        """The same token twice is one task."""
        (container,) = request["overrides"]["containerOverrides"]
        variables = {each["name"]: each["value"] for each in container["environment"]}
        task = self.world.directory / "tasks" / request["clientToken"]
        task.write_text(json.dumps(variables))

    def describe_tasks(self, **request: Any) -> Any:
        validate_parameters(request, shapes("DescribeTasks").input_shape)
        answer: Any = {"tasks": [], "failures": []}
        for arn in request["tasks"]:
            ended = self.world.directory / "ended" / arn.removeprefix(self.ARN)
            if not ended.exists():
                answer["tasks"].append({"taskArn": arn, "lastStatus": "RUNNING"})
            elif text := ended.read_text():
                answer["tasks"].append(json.loads(text))
            else:
                answer["failures"].append({"arn": arn, "reason": "MISSING"})
        validate_parameters(answer, shapes("DescribeTasks").output_shape)
        return answer


def registry() -> Registry:
    """The service's own queue, and two functions of other services."""
    billing, scans = (
        Function(
            function=arn, pool=pool, role=f"arn:aws:iam::0:role/{pool}", sources=(ANOTHERS[does],)
        )
        for arn, pool, does in (
            (BILLING, "billing", "is another service's"),
            (SCANS, "scans", "is an image function's"),
        )
    )
    return Registry((SOURCE,), (billing, scans))


class Functions:
    """Lambda, as boto3's client speaks to it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def get_function(self, FunctionName: str) -> Any:  # noqa: N803  boto3's name
        if FunctionName == SCANS:
            return {"Configuration": {"PackageType": "Image"}, "Code": {"ImageUri": "scans"}}
        return {
            "Configuration": {
                "FunctionName": "billing",
                "PackageType": "Zip",
                "Runtime": f"python{sys.version_info.major}.{sys.version_info.minor}",
                "Architectures": [ARCHITECTURES[platform.machine().lower()]],
                "Handler": "app.handler",
                "Environment": {"Variables": {"EFFECTS": str(self.world.directory / "effects")}},
            },
            "Code": {"Location": "https://code.example/billing.zip"},
        }


def zipped(code: str) -> io.BytesIO:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("app.py", code)
    data.seek(0)
    return data


def handle(message: Order, context: Context[World]) -> None:
    """A job that fails in every way there is; ``context.remaining`` tells Lambda from a task."""
    on_lambda = context.remaining is not None
    match message.does:
        case "needs more time" if on_lambda:
            raise NeedsMoreTime("an hour of it")
        case "sleep" if on_lambda:
            time.sleep(PATIENCE)
        case "hang" if on_lambda:  # as code stuck in a C call, to which no signal comes through
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
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
        case "be stopped in the task":
            if on_lambda:
                raise NeedsMoreTime
            if not context.ports.effects("stops"):
                context.ports.effect("stops")
                os.kill(os.getpid(), signal.SIGTERM)
                while context.remaining is None:
                    time.sleep(0.05)
                raise NeedsMoreTime("it has saved how far it has come")
        case "lose the lease in the task":
            if on_lambda:
                raise NeedsMoreTime
            if not context.ports.effects("losses"):
                context.ports.effect("losses")
                context.ports.lose_leases()
        case "retry in the task":
            if on_lambda:
                raise NeedsMoreTime
            if context.ports.effects("tries") < 3:
                context.ports.effect("tries")
                raise Retry("not yet", after=0.01)
    with context.once("effect") as first:
        if first:
            context.ports.effect(message.business_id)
