"""A task agent: plays ECS for a function that launches tasks, and EventBridge for what it is told.

`python -m local_sqs.task_agent TASKS.json` listens until SIGTERM. RunTask starts the task's command as a
process group of the agent's own, which dies with it. When a task stops, the function is invoked with
EventBridge's "ECS Task State Change" event; and every `sweep_every` seconds with a schedule's tick. As
with any asynchronous invocation, an event that the function fails at is tried twice more.

`local_sqs.tasks.TaskClient` speaks to it.

Limits and answers: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
"""

import contextlib
import json
import os
import select
import signal
import socket
import string
import sys
import time
from collections import deque
from typing import Any

import msgspec

from . import log
from .child import ChildProcess
from .environment import Environment, EnvironmentExited, ForkedEnvironment
from .event import ACCOUNT, REGION
from .invocation import ERROR, INIT_DONE, INIT_FAILED, Invocation
from .message import new_id
from .settings import Settings, SettingsError, load_settings
from .tasks import ClientError

OVERRIDES_MOST = 8192
CLIENT_TOKEN_MOST = 64
STARTED_BY_MOST = 128
STARTED_BY_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-/_")
REQUEST_MOST = 1 << 20

_FOREVER = float("inf")
_TRIES = 3
_REMEMBERED = 1000
_FAULTS = ("failures", "empty", "capacity", "stillborn", "silent")


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The agent's settings. Times are in seconds.

    `port`: on loopback. `dispatcher`: path of the settings of the function that is told of stopped
    tasks. `worker`: path of the settings of the function whose variables the task has, too. `family`:
    the task definition's name. `container`: its one container's. `command`: what that runs; `python` is
    this interpreter. `environment`: its own variables. `stop_timeout`: from StopTask's SIGTERM to
    SIGKILL. `sweep_every`: between two ticks. `retry_after`: until an event that failed is tried again;
    then twice as long.
    """

    port: int
    dispatcher: str
    worker: str
    family: str
    command: tuple[str, ...]
    container: str = "runner"
    environment: dict[str, str] = {}
    stop_timeout: float = 30.0
    sweep_every: float = 300.0
    retry_after: float = 60.0


class _Task:
    """One task: its description as ECS gives it, and its process."""

    def __init__(self, description: dict[str, Any], silent: bool) -> None:
        self.description = description
        self.silent = silent
        self.process: ChildProcess | None = None
        self.kill_at = _FOREVER


class _Invoker:
    """Asynchronous invocations of a function: one at a time, each event tried three times."""

    def __init__(self, settings: Settings, retry_after: float) -> None:
        self._settings = settings
        self._retry_after = retry_after
        self._events: deque[tuple[bytes, int]] = deque()
        self._environment: Environment | None = None
        self._ready = False
        self._busy = False
        self._deadline = _FOREVER
        self._not_before = 0.0

    def push(self, event: dict[str, Any]) -> None:
        self._events.append((json.dumps(event).encode(), 1))

    @property
    def timer(self) -> float:
        if self._environment is not None and (self._busy or not self._ready):
            return self._deadline
        return self._not_before if self._events else _FOREVER

    def fileno(self) -> int | None:
        return None if self._environment is None else self._environment.fileno()

    def step(self, ours: list[int]) -> None:
        """Do what can be done now. `ours`: the descriptors that an environment must not inherit."""
        if self._environment is not None:
            try:
                while (outcome := self._environment.outcome()) is not None:
                    if outcome.kind == INIT_FAILED:
                        self._failed("its init phase failed")
                        break
                    if outcome.kind == INIT_DONE:
                        self._ready = True
                        continue
                    self._busy = False
                    if outcome.kind == ERROR:
                        self._failed("it raised", keep=True)
                    else:
                        self._events.popleft()
            except EnvironmentExited as error:
                self._failed(str(error))
        now = time.monotonic()
        waits = self._environment is not None and (self._busy or not self._ready)
        if waits and self._deadline <= now:
            self._failed("it ran out of time")
        if not self._events or self._not_before > now or self._busy:
            return
        if self._environment is None:
            self._start(ours)
        elif self._ready:
            self._deadline = now + self._settings.function.timeout
            payload = self._events[0][0]
            self._busy = True
            self._environment.invoke(Invocation(new_id(), self._deadline, payload))

    def _start(self, ours: list[int]) -> None:
        self._ready, self._busy = False, False
        self._deadline = time.monotonic() + self._settings.function.init_timeout
        if self._settings.function.environments == "runtime":
            from .runtime_environment import RuntimeEnvironment

            self._environment = RuntimeEnvironment(self._settings)
        else:
            self._environment = ForkedEnvironment(self._settings, ours)

    def _failed(self, why: str, *, keep: bool = False) -> None:
        """The event at hand is tried again later, or given up; the environment goes unless kept."""
        if not keep:
            self.close()
        if not self._events:
            return
        payload, tries = self._events.popleft()
        if tries == _TRIES:
            log.line(f"{self._settings.function.name} failed {tries} times ({why}); event given up")
            return
        log.line(f"{self._settings.function.name} failed at an event: {why}")
        self._events.appendleft((payload, tries + 1))
        self._not_before = time.monotonic() + self._retry_after * 2 ** (tries - 1)

    def close(self) -> None:
        if self._environment is not None:
            self._environment.kill()
        self._environment, self._busy, self._ready = None, False, False


class TaskAgent:
    """See the module. `run` returns after SIGTERM or SIGINT, with every task ended."""

    def __init__(self, settings: AgentSettings) -> None:
        """Raises SettingsError naming the file and the field."""
        self._settings = settings
        self._invoker = _Invoker(load_settings(settings.dispatcher), settings.retry_after)
        self._variables = load_settings(settings.worker).function.environment
        self._tasks: dict[str, _Task] = {}
        self._by_token: dict[str, tuple[str, str]] = {}  # token -> (parameters, ARN)
        self._faults = dict.fromkeys(_FAULTS, 0)
        self._next_tick = time.monotonic() + settings.sweep_every
        self._stopping = False

    def run(self) -> None:
        server = socket.create_server(("127.0.0.1", self._settings.port), backlog=64)
        wakeup, sender = os.pipe()
        for descriptor in (wakeup, sender):
            os.set_blocking(descriptor, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
        ours = [server.fileno(), wakeup, sender]
        try:
            while not self._stopping:
                self._reap()
                self._invoker.step(ours + self._lifelines())
                self._wait(server, wakeup)
        finally:
            signal.set_wakeup_fd(-1)
            self._invoker.close()
            for task in self._tasks.values():
                if task.process is not None:
                    task.process.kill()
            server.close()
            os.close(wakeup)
            os.close(sender)

    def _on_stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _lifelines(self) -> list[int]:
        return [task.process.lifeline for task in self._tasks.values() if task.process is not None]

    def _wait(self, server: socket.socket, wakeup: int) -> None:
        now = time.monotonic()
        timers = [self._next_tick, self._invoker.timer]
        timers += [task.kill_at for task in self._tasks.values() if task.process is not None]
        poller = select.poll()
        poller.register(server, select.POLLIN)
        poller.register(wakeup, select.POLLIN)
        if (descriptor := self._invoker.fileno()) is not None:
            poller.register(descriptor, select.POLLIN)
        pause = max(0.0, min(timers) - now) * 1000
        for descriptor, _ in poller.poll(pause):
            if descriptor == wakeup:
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup, 4096)
            elif descriptor == server.fileno():
                self._answer(server)
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + self._settings.sweep_every
            self._tick({})
        for task in self._tasks.values():
            if task.process is not None and now >= task.kill_at:
                task.process.signal_kill()
                task.kill_at = _FOREVER

    # The API

    def _answer(self, server: socket.socket) -> None:
        """One request a connection; callers are few, near and quick."""
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError, ValueError):
            connection.settimeout(5.0)
            with connection.makefile("rb") as requests:
                request = json.loads(requests.readline(REQUEST_MOST))
            answer: dict[str, Any]
            try:
                answer = self._actions()[request["action"]](request["parameters"])
            except ClientError as error:
                answer = {"error": {"code": error.code, "message": error.message}}
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _actions(self) -> dict[str, Any]:
        return {
            "RunTask": self._run_task,
            "DescribeTasks": self._describe_tasks,
            "StopTask": self._stop_task,
            "Tasks": self._list,
            "Kill": self._kill,
            "Tick": self._tick,
            "SetFaults": self._set_faults,
        }

    def _run_task(self, parameters: dict[str, Any]) -> dict[str, Any]:
        settings = self._settings
        token = parameters.get("clientToken", new_id())
        overrides = parameters.get("overrides", {})
        if len(token) > CLIENT_TOKEN_MOST:
            raise _invalid(f"clientToken is longer than {CLIENT_TOKEN_MOST} characters")
        started_by = parameters.get("startedBy", "")
        if len(started_by) > STARTED_BY_MOST:
            raise _invalid(f"startedBy is longer than {STARTED_BY_MOST} characters")
        if not set(started_by) <= STARTED_BY_CHARACTERS:
            raise _invalid("startedBy may hold letters, digits, hyphens, slashes and underscores")
        if len(json.dumps(overrides)) > OVERRIDES_MOST:
            raise _invalid(f"Container Overrides length must be at most {OVERRIDES_MOST}")
        if parameters.get("taskDefinition") != settings.family:
            raise ClientError("ClientException", "TaskDefinition not found.")
        for container in overrides.get("containerOverrides", ()):
            if container.get("name") != settings.container:
                name = container.get("name")
                raise _invalid(f"Override for container named {name} is not a container in it")
        same = json.dumps(parameters, sort_keys=True)
        if token in self._by_token:
            known, arn = self._by_token[token]
            if known != same:
                raise ClientError("ConflictException", "this token was used with other parameters")
            return {"tasks": [self._tasks[arn].description], "failures": []}
        if self._take("capacity"):
            raise ClientError(
                "ClientException",
                "Capacity is unavailable at this time. Please try again later or in a different "
                "availability zone",
            )
        if self._take("failures"):
            return {"tasks": [], "failures": [{"reason": "MISSING", "detail": "told to fail"}]}
        if self._take("empty"):
            return {"tasks": [], "failures": []}
        task = self._start(parameters)
        self._by_token[token] = same, task.description["taskArn"]
        return {"tasks": [task.description], "failures": []}

    def _take(self, fault: str) -> bool:
        """Whether a fault is on; if it is, it has struck once more."""
        if self._faults[fault] == 0:
            return False
        self._faults[fault] -= 1
        return True

    def _start(self, parameters: dict[str, Any]) -> _Task:
        settings = self._settings
        cluster = parameters.get("cluster", "default")
        place = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
        identifier = new_id().replace("-", "")
        container: dict[str, Any] = {"name": settings.container, "lastStatus": "RUNNING"}
        description: dict[str, Any] = {
            "taskArn": f"{place}:task/{cluster}/{identifier}",
            "clusterArn": f"{place}:cluster/{cluster}",
            "taskDefinitionArn": f"{place}:task-definition/{settings.family}:1",
            "launchType": parameters.get("launchType", "FARGATE"),
            "lastStatus": "RUNNING",
            "desiredStatus": "RUNNING",
            "startedBy": parameters.get("startedBy", ""),
            "overrides": parameters.get("overrides", {}),
            "containers": [container],
            "createdAt": time.time(),
        }
        task = _Task(description, self._take("silent"))
        self._forget_old_tasks()
        self._tasks[description["taskArn"]] = task
        if self._take("stillborn"):
            self._stopped(task, None, "TaskFailedToStart", "CannotPullContainerError: told to fail")
            return task
        variables = _inherited() | self._variables | settings.environment
        variables["AWS_EXECUTION_ENV"] = "AWS_ECS_FARGATE"
        for override in description["overrides"].get("containerOverrides", ()):
            for variable in override.get("environment", ()):
                variables[variable["name"]] = variable["value"]
        command = [sys.executable if part == "python" else part for part in settings.command]

        def main(lifeline: int) -> None:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.set_inheritable(lifeline, True)
            os.execvpe(command[0], command, variables)

        task.process = ChildProcess(main, [])
        log.line(f"task {identifier} started, process {task.process.pid}")
        return task

    def _forget_old_tasks(self) -> None:
        """ECS tells of a stopped task for an hour; here it is the last thousand."""
        while len(self._tasks) >= _REMEMBERED:
            oldest = next((arn for arn, task in self._tasks.items() if task.process is None), None)
            if oldest is None:
                return
            del self._tasks[oldest]
            self._by_token = {t: known for t, known in self._by_token.items() if known[1] != oldest}

    def _describe_tasks(self, parameters: dict[str, Any]) -> dict[str, Any]:
        asked = parameters["tasks"]
        if len(asked) > 100:
            raise _invalid("tasks: at most 100")
        known = [self._tasks[arn].description for arn in asked if arn in self._tasks]
        missing = [{"arn": arn, "reason": "MISSING"} for arn in asked if arn not in self._tasks]
        return {"tasks": known, "failures": missing}

    def _stop_task(self, parameters: dict[str, Any]) -> dict[str, Any]:
        task = self._find(parameters["task"])
        if task.process is not None:
            task.description["desiredStatus"] = "STOPPED"
            task.description["stopCode"] = "UserInitiated"
            task.description["stoppedReason"] = parameters.get("reason", "")
            task.kill_at = time.monotonic() + self._settings.stop_timeout
            os.kill(task.process.pid, signal.SIGTERM)
        return {"task": task.description}

    def _find(self, name: str) -> _Task:
        for arn, task in self._tasks.items():
            if name in (arn, arn.rpartition("/")[2]):
                return task
        raise _invalid("The referenced task was not found.")

    def _list(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {
            "tasks": [
                {**task.description, "pid": None if task.process is None else task.process.pid}
                for task in self._tasks.values()
            ]
        }

    def _kill(self, parameters: dict[str, Any]) -> dict[str, Any]:
        task = self._find(parameters["task"])
        if task.process is not None:
            task.process.signal_kill()
        return {}

    def _tick(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self._invoker.push({"source": "aws.scheduler", "detail-type": "Scheduled Event"})
        return {}

    def _set_faults(self, parameters: dict[str, Any]) -> dict[str, Any]:
        for name, count in parameters.items():
            if name not in self._faults or count < 0:
                raise _invalid(f"no such fault: {name}={count}; there are {', '.join(_FAULTS)}")
            self._faults[name] = count
        return {}

    # Ends

    def _reap(self) -> None:
        for task in self._tasks.values():
            if task.process is None or (status := task.process.exit_status()) is None:
                continue
            task.process.kill()  # whatever it left in its process group
            task.process = None
            # As a container tells of a signal.
            code = 128 - status if status < 0 else status
            self._stopped(
                task, code, "EssentialContainerExited", "Essential container in task exited"
            )

    def _stopped(self, task: _Task, code: int | None, stop_code: str, reason: str) -> None:
        description = task.description
        (container,) = description["containers"]
        container["lastStatus"] = description["lastStatus"] = "STOPPED"
        description["desiredStatus"] = "STOPPED"
        description.setdefault("stopCode", stop_code)
        description.setdefault("stoppedReason", reason)
        if code is not None:
            container["exitCode"] = code
        arn = description["taskArn"]
        log.line(f"task {arn.rpartition('/')[2]} stopped: exit {code}, {description['stopCode']}")
        if task.silent:
            return
        self._invoker.push(
            {
                "version": "0",
                "id": new_id(),
                "detail-type": "ECS Task State Change",
                "source": "aws.ecs",
                "account": ACCOUNT,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "region": REGION,
                "resources": [arn],
                "detail": description,
            }
        )


def _invalid(message: str) -> ClientError:
    return ClientError("InvalidParameterException", message)


def _inherited() -> dict[str, str]:
    """What a task's process has of the agent's environment: all but the agent's own readiness."""
    return {name: value for name, value in os.environ.items() if name != "PROCGROUP_NOTIFY"}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with open(arguments[0], "rb") as file:
            settings = msgspec.json.decode(file.read(), type=AgentSettings)
        agent = TaskAgent(settings)
    except (OSError, msgspec.DecodeError, SettingsError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 2
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
