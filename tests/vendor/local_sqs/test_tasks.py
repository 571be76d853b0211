"""The task agent: what ECS promises of tasks, and what it may do to them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_sqs.tasks import ClientError, TaskClient

from .conftest import HERE, PORTS, VENDOR, _start

WaitUntil = Callable[..., Any]


class Agent:
    """An agent whose tasks run `task.py`."""

    def __init__(self, directory: Path, does: str, **settings: Any) -> None:
        self.directory = directory
        self.events_path = directory / "events"
        self.events_path.touch()
        function = {
            "redis": {"port": 1},
            "queue": {"name": "dead"},
            "function": {
                "handler": "events.note",
                "name": "dispatcher",
                "environment": {"EVENTS": str(self.events_path)},
            },
        }
        worker = {
            "redis": {"port": 1},
            "queue": {"name": "work"},
            "function": {"handler": "a.b", "environment": {"PLACE": str(directory)}},
        }
        (directory / "dispatcher.json").write_text(json.dumps(function))
        (directory / "worker.json").write_text(json.dumps(worker))
        for _ in range(20):
            # Two test runs may draw the same port: whoever fails to bind draws again.
            self.port = next(PORTS)
            given = {
                "port": self.port,
                "dispatcher": str(directory / "dispatcher.json"),
                "worker": str(directory / "worker.json"),
                "family": "runner",
                "command": ["python", str(HERE / "task.py")],
                "environment": {"DO": does},
                "retry_after": 0.01,
                **settings,
            }
            (directory / "tasks.json").write_text(json.dumps(given))
            self.process = self._started()
            if self.process.poll() is None:
                return
        raise RuntimeError((directory / "log").read_text())

    def _started(self) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join([str(VENDOR), str(HERE)])
        command = [sys.executable, "-m", "local_sqs.task_agent", str(self.directory / "tasks.json")]
        process = _start(command, self.directory / "log", env=os.environ | {"PYTHONPATH": paths})
        self.client = TaskClient(f"127.0.0.1:{self.port}", patience=0.1)
        while process.poll() is None:
            try:
                self.client.tasks()
                break
            except OSError:
                continue
        return process

    def run(self, pointer: str = "", **parameters: Any) -> dict[str, Any]:
        environment = [{"name": "POINTER", "value": pointer}]
        overrides = {"containerOverrides": [{"name": "runner", "environment": environment}]}
        return self.client.run_task(
            **{"cluster": "c", "taskDefinition": "runner", "overrides": overrides, **parameters}
        )

    def ran(self) -> list[Path]:
        return list(self.directory.glob("ran-*"))

    def events(self) -> list[dict[str, Any]]:
        whole, _, _ = self.events_path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def described(self, arn: str) -> dict[str, Any]:
        (task,) = self.client.describe_tasks(cluster="c", tasks=[arn])["tasks"]
        found: dict[str, Any] = task
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def make(does: str = "wait", **settings: Any) -> Agent:
        agents.append(Agent(tmp_path, does, **settings))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_task_runs_with_the_workers_variables_and_the_overrides(
    start: Callable[..., Agent], wait_until: WaitUntil
) -> None:
    agent = start("exit 0")
    (task,) = agent.run("record-1")["tasks"]
    (ran,) = wait_until(agent.ran)
    (event,) = wait_until(agent.events, "the event")
    assert ran.read_text() == "record-1"
    assert event["detail-type"] == "ECS Task State Change"
    assert event["detail"]["taskArn"] == task["taskArn"]
    assert event["detail"]["lastStatus"] == "STOPPED"
    assert event["detail"]["containers"][0]["exitCode"] == 0
    assert event["detail"]["overrides"] == task["overrides"]
    assert agent.described(task["taskArn"])["lastStatus"] == "STOPPED"


def test_a_task_that_fails_tells_its_exit_status(
    start: Callable[..., Agent], wait_until: WaitUntil
) -> None:
    agent = start("exit 7")
    agent.run()
    (event,) = wait_until(agent.events, "the event")
    assert event["detail"]["containers"][0]["exitCode"] == 7
    assert event["detail"]["stopCode"] == "EssentialContainerExited"


def test_the_same_token_starts_one_task_and_with_other_parameters_none(
    start: Callable[..., Agent],
) -> None:
    agent = start()
    first = agent.run("a", clientToken="t")
    again = agent.run("a", clientToken="t")
    assert [task["taskArn"] for task in first["tasks"]] == [
        task["taskArn"] for task in again["tasks"]
    ]
    with pytest.raises(ClientError, match="ConflictException"):
        agent.run("b", clientToken="t")
    assert len(agent.client.tasks()) == 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"clientToken": "t" * 65},
        {"startedBy": "s" * 129},
        {"startedBy": "overflow/m1.1"},
        {"overrides": {"containerOverrides": [{"name": "runner", "command": ["x" * 8192]}]}},
        {"overrides": {"containerOverrides": [{"name": "another"}]}},
        {"taskDefinition": "another"},
    ],
    ids=["token", "startedBy", "startedBy's characters", "overrides", "container", "definition"],
)
def test_what_ecs_refuses_is_refused(
    parameters: dict[str, Any], start: Callable[..., Agent]
) -> None:
    agent = start()
    with pytest.raises(ClientError) as caught:
        agent.run(**parameters)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert agent.client.tasks() == []


def test_overrides_of_8192_characters_are_taken(start: Callable[..., Agent]) -> None:
    agent = start()
    container = {"name": "runner", "command": [""]}
    overrides = {"containerOverrides": [container]}
    container["command"] = ["x" * (8192 - len(json.dumps(overrides)))]
    assert agent.run(overrides=overrides)["tasks"]
    container["command"] = [container["command"][0] + "x"]
    with pytest.raises(ClientError, match="at most 8192"):
        agent.run(overrides=overrides)


def test_a_stopped_task_may_save_its_work(
    start: Callable[..., Agent], wait_until: WaitUntil, tmp_path: Path
) -> None:
    agent = start("save")
    (task,) = agent.run()["tasks"]
    wait_until(agent.ran)
    agent.client.stop_task(cluster="c", task=task["taskArn"], reason="a deployment")
    (event,) = wait_until(agent.events, "the event")
    assert (tmp_path / "saved").exists()
    assert (event["detail"]["stopCode"], event["detail"]["stoppedReason"]) == (
        "UserInitiated",
        "a deployment",
    )
    assert event["detail"]["containers"][0]["exitCode"] == 0


def test_a_task_that_ignores_its_stop_is_killed_after_the_timeout(
    start: Callable[..., Agent], wait_until: WaitUntil
) -> None:
    agent = start("ignore", stop_timeout=0.2)
    (task,) = agent.run()["tasks"]
    wait_until(agent.ran)
    agent.client.stop_task(cluster="c", task=task["taskArn"])
    (event,) = wait_until(agent.events, "the event")
    assert event["detail"]["containers"][0]["exitCode"] == 128 + signal.SIGKILL


def test_a_killed_task_takes_its_children_along(
    start: Callable[..., Agent], wait_until: WaitUntil, tmp_path: Path
) -> None:
    agent = start("family")
    (task,) = agent.run()["tasks"]
    wait_until(agent.ran)
    child = int((tmp_path / "child").read_text())
    agent.client.kill(task["taskArn"])
    wait_until(agent.events, "the event")
    wait_until(lambda: not alive(child), "the child's end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_tasks_die_with_their_agent(
    number: int, start: Callable[..., Agent], wait_until: WaitUntil, tmp_path: Path
) -> None:
    agent = start("family")
    agent.run()
    (ran,) = wait_until(agent.ran)
    pids = [int(ran.name.removeprefix("ran-")), int((tmp_path / "child").read_text())]
    agent.process.send_signal(number)
    agent.process.wait(10)
    wait_until(lambda: not any(map(alive, pids)), "the task's end")


@pytest.mark.parametrize("fault", ["failures", "empty", "capacity", "stillborn", "silent"])
def test_faults(fault: str, start: Callable[..., Agent], wait_until: WaitUntil) -> None:
    agent = start("exit 0")
    agent.client.set_faults(**{fault: 1})
    if fault == "capacity":
        with pytest.raises(ClientError, match="Capacity is unavailable"):
            agent.run("1")
    else:
        answer = agent.run("1")
        assert bool(answer["tasks"]) == (fault in ("stillborn", "silent"))
        assert bool(answer["failures"]) == (fault == "failures")
    if fault == "stillborn":
        (event,) = wait_until(agent.events, "the event")
        assert "exitCode" not in event["detail"]["containers"][0]
        assert event["detail"]["stopCode"] == "TaskFailedToStart"
    if fault == "silent":
        arn = agent.client.tasks()[0]["taskArn"]
        wait_until(lambda: agent.described(arn)["lastStatus"] == "STOPPED", "the task's end")
        assert agent.events() == []
    # It strikes once.
    before = len(agent.events())
    assert agent.run("2")["tasks"]
    wait_until(lambda: len(agent.events()) == before + 1, "the event")
    with pytest.raises(ClientError, match="no such fault: weather=1"):
        agent.client.set_faults(weather=1)


def test_an_unknown_task_is_missing(start: Callable[..., Agent]) -> None:
    agent = start()
    answer = agent.client.describe_tasks(cluster="c", tasks=["arn:nothing"])
    assert answer == {"tasks": [], "failures": [{"arn": "arn:nothing", "reason": "MISSING"}]}
    with pytest.raises(ClientError, match="not found"):
        agent.client.stop_task(cluster="c", task="arn:nothing")


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_an_event_is_tried_three_times(
    fails: int, start: Callable[..., Agent], wait_until: WaitUntil, tmp_path: Path
) -> None:
    agent = start("exit 0")
    (tmp_path / "fail").write_text("x" * fails)
    agent.run()
    tries = min(fails + 1, 3)
    wait_until(lambda: len(agent.events()) == tries, f"{tries} tries")
    agent.client.tick()
    wait_until(lambda: len(agent.events()) == tries + 1, "the tick")
    assert agent.events()[-1]["source"] == "aws.scheduler"
    assert ("event given up" in (tmp_path / "log").read_text()) == (fails == 3)


def test_a_function_that_dies_is_started_again(
    start: Callable[..., Agent], wait_until: WaitUntil, tmp_path: Path
) -> None:
    agent = start("exit 0")
    (tmp_path / "exit").touch()
    agent.run()
    wait_until(lambda: len(agent.events()) == 2, "two tries")


def test_the_clock_ticks(start: Callable[..., Agent], wait_until: WaitUntil) -> None:
    agent = start(sweep_every=0.05)
    wait_until(lambda: len(agent.events()) >= 2, "two ticks")


def test_bad_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text('{"port": "none"}')
    command = [sys.executable, "-m", "local_sqs.task_agent", str(path)]
    environment = os.environ | {"PYTHONPATH": str(VENDOR)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert f"{path}: " in done.stderr
    assert "$.port" in done.stderr
