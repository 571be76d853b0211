"""RunTask and DescribeTasks, checked against botocore's models."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber
from lambda_shim.budget import Limits
from lambda_shim.dispatcher import (
    ANSWER_MOST,
    UNKNOWN_TASK,
    Dispatcher,
    Launch,
    LaunchRefused,
    Stopped,
)
from lambda_shim.ecs import (
    OVERRIDES_MOST,
    EcsLauncher,
    TaskSettings,
    dispatcher,
    launch_of,
    stopped,
    task_settings,
    token,
)
from lambda_shim.records import Records

from .overflow import SOURCE, TICK, Clock, dead_event, dead_message, stopped_event
from .stores import MemoryObjects

LAUNCH = Launch("m1.1", "m1", "own")
ARN = "arn:aws:ecs:eu-central-1:000000000000:task/overflow/0123"
SETTINGS: dict[str, Any] = {
    "cluster": "overflow",
    "task_definitions": {"own": "orders-overflow"},
    "container": "runner",
    "subnets": ("subnet-a", "subnet-b", "subnet-c"),
    "security_groups": ("sg-1",),
    "log_group": "/orders/overflow",
}


def launcher(**changes: Any) -> EcsLauncher:
    launcher = EcsLauncher(TaskSettings(**SETTINGS | changes))
    launcher._client = boto3.client(
        "ecs", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    return launcher


def subnets(launch: Launch) -> list[str]:
    """The order in which a launch tries the subnets."""
    names = list(SETTINGS["subnets"])
    first = int(token(launch.id), 16) % len(names)
    return names[first:] + names[:first]


def request(subnet: str, launch: Launch = LAUNCH) -> dict[str, Any]:
    return {
        "cluster": "overflow",
        "taskDefinition": "orders-overflow",
        "launchType": "FARGATE",
        "count": 1,
        "clientToken": token(f"{launch.id} {launch.booked_at} {subnet}"),
        "startedBy": f"overflow/{launch.id.replace('.', '_')}",
        "networkConfiguration": {
            "awsvpcConfiguration": {
                "subnets": [subnet],
                "securityGroups": ["sg-1"],
                "assignPublicIp": "DISABLED",
            }
        },
        "overrides": {
            "containerOverrides": [
                {
                    "name": "runner",
                    "environment": [
                        {"name": "OVERFLOW_LAUNCH", "value": launch.id},
                        {"name": "OVERFLOW_RECORD", "value": launch.key},
                        {"name": "OVERFLOW_POOL", "value": launch.pool},
                    ],
                }
            ]
        },
    }


NO_CAPACITY = {
    "tasks": [],
    "failures": [{"reason": "Capacity is unavailable at this time. Please try again later"}],
}


@pytest.fixture
def ecs() -> Iterator[tuple[EcsLauncher, Stubber]]:
    subject = launcher()
    with Stubber(subject._client) as stub:
        yield subject, stub
        stub.assert_no_pending_responses()


def test_a_launch_carries_a_pointer_and_a_token(ecs: tuple[EcsLauncher, Stubber]) -> None:
    subject, stub = ecs
    stub.add_response("run_task", {"tasks": [{"taskArn": ARN}]}, request(subnets(LAUNCH)[0]))
    assert subject.launch(LAUNCH) == ARN
    assert subject.log_of(ARN) == "/orders/overflow:overflow/runner/0123"


def test_without_capacity_the_other_subnets_are_tried_each_under_its_own_token(
    ecs: tuple[EcsLauncher, Stubber],
) -> None:
    subject, stub = ecs
    first, second, third = subnets(LAUNCH)
    stub.add_response("run_task", NO_CAPACITY, request(first))
    stub.add_client_error(
        "run_task",
        "ClientException",
        "Capacity is unavailable at this time",
        http_status_code=400,
        expected_params=request(second),
    )
    stub.add_response("run_task", {"tasks": [{"taskArn": ARN}]}, request(third))
    assert subject.launch(LAUNCH) == ARN
    assert len({request(subnet)["clientToken"] for subnet in (first, second, third)}) == 3


class Ecs:
    """ECS with one full subnet, which loses an answer; under the same token it starts one task."""

    def __init__(self, full: str, lost: BaseException | None = None) -> None:
        self.full: str | None = full
        self.lost = lost
        self.exceptions = boto3.client("ecs", region_name="eu-central-1").exceptions
        self.asked: list[str] = []
        self.tasks: dict[str, str] = {}

    def run_task(self, **parameters: Any) -> dict[str, Any]:
        (subnet,) = parameters["networkConfiguration"]["awsvpcConfiguration"]["subnets"]
        self.asked.append(subnet)
        if subnet == self.full:
            return NO_CAPACITY
        arn = self.tasks.setdefault(parameters["clientToken"], f"{ARN}-{subnet}")
        lost, self.lost = self.lost, None
        if lost is not None:
            raise lost
        return {"tasks": [{"taskArn": arn}]}

    def describe_tasks(self, **parameters: Any) -> dict[str, Any]:
        return {}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("lost", [TimeoutError("no answer"), Killed()], ids=["lost", "killed"])
def test_a_launch_without_an_answer_is_asked_for_again_in_the_subnet_that_gave_none(
    lost: BaseException,
) -> None:
    launch = Launch("a.1", "a", "own")
    first, second, _ = subnets(launch)
    ecs, clock = Ecs(first, lost), Clock()
    dispatch = Dispatcher(
        Records(MemoryObjects(), clock),
        EcsLauncher(TaskSettings(**SETTINGS), ecs),
        Limits(tasks=1),
        clock=clock,
    )
    with suppress(Killed):
        dispatch(dead_event("a"))
    ecs.full = None
    clock.time += ANSWER_MOST + 1
    dispatch(TICK)
    assert list(ecs.tasks.values()) == [f"{ARN}-{second}"]
    assert dispatch.budget.read().tasks["a.1"].arn == f"{ARN}-{second}"
    assert ecs.asked == [first, second, second]


def test_a_subnet_that_gave_no_answer_and_then_refuses_is_followed_by_the_others() -> None:
    launch = Launch("a.1", "a", "own")
    first, second, _ = subnets(launch)
    ecs = Ecs(second)
    noted: list[str] = []
    arn = EcsLauncher(TaskSettings(**SETTINGS), ecs).launch(
        launch._replace(subnet=second), noted.append
    )
    assert (arn, noted) == (f"{ARN}-{first}", [first])
    assert ecs.asked == [second, first]


def test_no_capacity_anywhere_is_a_refusal(ecs: tuple[EcsLauncher, Stubber]) -> None:
    subject, stub = ecs
    for subnet in subnets(LAUNCH):
        stub.add_response("run_task", NO_CAPACITY, request(subnet))
    with pytest.raises(LaunchRefused, match="Capacity is unavailable"):
        subject.launch(LAUNCH)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"tasks": [], "failures": []}, "no reason was given"),
        ({"tasks": [], "failures": [{"reason": "AGENT", "detail": "gone"}]}, "AGENT gone"),
    ],
)
def test_an_answer_without_a_task_is_a_refusal(
    answer: dict[str, Any], why: str, ecs: tuple[EcsLauncher, Stubber]
) -> None:
    subject, stub = ecs
    stub.add_response(
        "run_task", answer, {**request(ANY), "clientToken": ANY, "networkConfiguration": ANY}
    )
    with pytest.raises(LaunchRefused, match=why):
        subject.launch(LAUNCH)


def test_a_refused_permission_is_a_refusal(ecs: tuple[EcsLauncher, Stubber]) -> None:
    subject, stub = ecs
    stub.add_client_error("run_task", "AccessDeniedException", "no", http_status_code=400)
    with pytest.raises(LaunchRefused, match="AccessDeniedException: no"):
        subject.launch(LAUNCH)


def test_an_error_of_the_server_leaves_it_open_whether_there_is_a_task(
    ecs: tuple[EcsLauncher, Stubber],
) -> None:
    subject, stub = ecs
    stub.add_client_error("run_task", "ServerException", "oops", http_status_code=500)
    with pytest.raises(ClientError):
        subject.launch(LAUNCH)


def test_size_and_public_address_are_settings() -> None:
    subject = launcher(cpu=1024, memory=4096, public_ip=True, subnets=("subnet-a",))
    expected = request("subnet-a")
    expected["overrides"] |= {"cpu": "1024", "memory": "4096"}
    expected["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] = "ENABLED"
    with Stubber(subject._client) as stub:
        stub.add_response("run_task", {"tasks": [{"taskArn": ARN}]}, expected)
        assert subject.launch(LAUNCH) == ARN


def test_the_longest_key_is_within_all_limits() -> None:
    key = "k" * 200
    launch = Launch(f"{key}.1", key, "own")
    subject = launcher(subnets=("subnet-a",))
    seen: dict[str, Any] = {}
    subject._client.meta.events.register(
        "provide-client-params.ecs.RunTask", lambda params, **_: seen.update(params)
    )
    with Stubber(subject._client) as stub:
        stub.add_response("run_task", {"tasks": [{"taskArn": ARN}]})
        subject.launch(launch)
    assert len(seen["clientToken"]) == 64
    assert re.fullmatch(r"[A-Za-z0-9/_-]{1,128}", seen["startedBy"])  # as the API reference has it
    assert len(json.dumps(seen["overrides"])) <= OVERRIDES_MOST


def test_overrides_over_the_limit_are_refused_before_ecs_is_asked() -> None:
    with pytest.raises(LaunchRefused, match="over ECS's limit"):
        launcher().launch(Launch("x" * 9000, "x", "own"))


def test_a_pool_without_a_task_definition_is_refused() -> None:
    with pytest.raises(LaunchRefused, match="pool billing"):
        launcher().launch(Launch("m1.1", "m1", "billing"))


def test_stopped_and_unknown_tasks_are_found_a_hundred_at_a_time(
    ecs: tuple[EcsLauncher, Stubber],
) -> None:
    subject, stub = ecs
    arns = [f"{ARN}-{number}" for number in range(150)]
    running = {"taskArn": arns[0], "lastStatus": "RUNNING"}
    dead = {
        "taskArn": arns[1],
        "lastStatus": "STOPPED",
        "stopCode": "EssentialContainerExited",
        "containers": [{"name": "runner", "exitCode": 137, "reason": "OutOfMemoryError"}],
    }
    first = {"tasks": [running, dead], "failures": [{"arn": arns[2], "reason": "MISSING"}]}
    stub.add_response("describe_tasks", first, {"cluster": "overflow", "tasks": arns[:100]})
    stub.add_response("describe_tasks", {}, {"cluster": "overflow", "tasks": arns[100:]})
    assert subject.ended(arns) == {
        arns[1]: Stopped("exit 137; EssentialContainerExited; OutOfMemoryError"),
        arns[2]: Stopped(UNKNOWN_TASK),
    }


@pytest.mark.parametrize(
    ("exit_code", "why", "failed"),
    [
        (0, "EssentialContainerExited", None),
        (1, "EssentialContainerExited", "exit 1; EssentialContainerExited"),
        (None, "TaskFailedToStart", "TaskFailedToStart"),
    ],
)
def test_how_a_task_ended(exit_code: int | None, why: str, failed: str | None) -> None:
    detail = stopped_event("m1.1", exit_code, why)["detail"]
    assert stopped(detail) == Stopped(failed)
    assert launch_of(detail) == "m1.1"
    assert launch_of({}) is None
    assert stopped({}) == Stopped("no reason given")


@pytest.mark.usefixtures("aws")
def test_a_task_starts_and_is_described_by_motos_ecs() -> None:
    ec2, ecs = boto3.client("ec2"), boto3.client("ecs")
    network = ec2.describe_subnets()["Subnets"][0]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    ecs.create_cluster(clusterName="overflow")
    ecs.register_task_definition(
        family="orders-overflow",
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="256",
        memory="512",
        containerDefinitions=[{"name": "runner", "image": "runner", "memory": 512}],
    )
    subject = EcsLauncher(
        TaskSettings(**SETTINGS | {"subnets": (network["SubnetId"],), "security_groups": (group,)})
    )
    arn = subject.launch(LAUNCH)
    (task,) = ecs.describe_tasks(cluster="overflow", tasks=[arn])["tasks"]
    assert launch_of(task) == "m1.1"
    assert task["startedBy"] == "overflow/m1_1"
    ecs.stop_task(cluster="overflow", task=arn, reason="test")
    assert list(subject.ended([arn])) == [arn]


def test_settings_come_from_the_environment() -> None:
    environ = {
        "OVERFLOW_CLUSTER": "c",
        "OVERFLOW_TASK_DEFINITION": "d",
        "OVERFLOW_CONTAINER": "runner",
        "OVERFLOW_SUBNETS": "subnet-a, subnet-b",
        "OVERFLOW_MEMORY": "4096",
    }
    settings = task_settings(environ)
    assert settings.subnets == ("subnet-a", "subnet-b")
    assert settings.task_definitions == {"own": "d"}
    assert (settings.memory, settings.cpu, settings.public_ip) == (4096, None, False)
    with pytest.raises(ValueError, match="OVERFLOW_SUBNETS"):
        task_settings(environ | {"OVERFLOW_SUBNETS": ""})


def test_a_dispatcher_comes_from_the_environment(tmp_path: Path) -> None:
    environ = {"RECORDS_URL": f"file://{tmp_path}", "QUEUE_ARN": SOURCE}
    never, none = dispatcher(environ), dispatcher(environ | {"OVERFLOW_SUBNETS": ""})
    assert never.launcher is none.launcher is None
    assert (never.tasks_wanted, none.tasks_wanted) == (False, True)
    environ |= {
        "OVERFLOW_CLUSTER": "c",
        "OVERFLOW_TASK_DEFINITION": "d",
        "OVERFLOW_SUBNETS": "subnet-a",
        "OVERFLOW_LIMITS": '{"tasks": 7}',
    }
    made = dispatcher(environ)
    assert isinstance(made.launcher, EcsLauncher)
    assert made.limits.tasks == 7
    made.take([dead_message("a")])
    stored = made.records.get("a")
    assert stored is not None
    assert stored.state == "waiting"
    listed = tmp_path / "registry.json"
    listed.write_text(
        json.dumps(
            {
                "functions": [
                    {
                        "function": "arn:aws:lambda:eu-central-1:0:function:billing",
                        "pool": "billing",
                        "task_definition": "b",
                        "role": "arn:aws:iam::0:role/billing",
                    },
                    {
                        "function": "arn:aws:lambda:eu-central-1:0:function:scans",
                        "pool": "scans",
                        "role": "arn:aws:iam::0:role/scans",
                    },
                ]
            }
        )
    )
    made = dispatcher(environ | {"OVERFLOW_REGISTRY": str(listed)})
    assert isinstance(made.launcher, EcsLauncher)
    # Without one of its own, it is the service's, with the function's role.
    assert made.launcher.settings.task_definitions == {"own": "d", "billing": "b", "scans": "d"}
    assert made.launcher.settings.roles["scans"] == "arn:aws:iam::0:role/scans"
    assert made.sources.pools == ("own", "billing", "scans")


def test_a_registry_that_lists_the_services_own_queue_keeps_no_dispatcher_from_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    function = "arn:aws:lambda:eu-central-1:0:function:billing"
    others = f"{SOURCE}-bills"
    listed = tmp_path / "registry.json"
    billing = {"function": function, "pool": "billing", "role": "r", "sources": [SOURCE, others]}
    listed.write_text(json.dumps({"functions": [billing]}))
    records = f"file://{tmp_path}/records"
    environ = {"RECORDS_URL": records, "QUEUE_ARN": SOURCE, "OVERFLOW_REGISTRY": str(listed)}
    made = dispatcher(environ)
    (told,) = caplog.records
    assert told.levelname == "ERROR"
    assert f"take it out of the sources of {function}" in told.getMessage()
    theirs = dead_message("b")
    theirs["attributes"]["DeadLetterQueueSourceArn"] = others
    assert made.take([dead_message("a"), theirs]) == []
    assert [record.pool for record in made.records] == ["own", "billing"]
