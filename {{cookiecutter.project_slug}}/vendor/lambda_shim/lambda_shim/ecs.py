"""Overflow tasks on Fargate, by ECS RunTask.

Limits (AWS documentation, "RunTask"): overrides of at most 8,192 characters, clientToken of 64,
startedBy of 128 letters, digits, hyphens, slashes and underscores; ``tasks`` may be empty and
``failures`` filled in an answer with HTTP 200.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from lambda_shim.budget import limits_of
from lambda_shim.dispatcher import UNKNOWN_TASK, Dispatcher, Launch, LaunchRefused, Stopped
from lambda_shim.records import OWN, open_records

if TYPE_CHECKING:
    from lambda_shim.registry import Registry

OVERRIDES_MOST = 8192
CLIENT_TOKEN_MOST = 64
STARTED_BY_MOST = 128
DESCRIBE_MOST = 100

# The environment of a runner.
LAUNCH, RECORD, POOL = "OVERFLOW_LAUNCH", "OVERFLOW_RECORD", "OVERFLOW_POOL"


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How tasks are run.

    Attributes:
        cluster: name or ARN.
        task_definitions: by pool; ``own`` is the service's. Each names family, or family:revision.
        roles: by pool: ARNs of the roles that tasks take on in place of their definition's.
        container: the runner's container in each of them.
        subnets: tried in turn when one has no capacity or no free address.
        security_groups: of the task's network interface.
        public_ip: give it a public address; needed in a subnet without a NAT gateway or endpoints.
        log_group, log_prefix: awslogs' settings of the container, to say where a log lies.
        cpu, memory: in CPU units and MiB, in place of the task definition's.
    """

    cluster: str
    task_definitions: dict[str, str]
    roles: dict[str, str] = {}
    container: str
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...] = ()
    public_ip: bool = False
    log_group: str = ""
    log_prefix: str = "overflow"
    cpu: int | None = None
    memory: int | None = None


class EcsLauncher:
    """Starts one Fargate task a launch. Raises LaunchRefused, or what boto3 raises.

    Args:
        settings: see there.
        client: what is asked; default: boto3's client for ECS. Another has its ``run_task``,
            ``describe_tasks`` and ``exceptions.ClientError``.
    """

    def __init__(self, settings: TaskSettings, client: Any = None) -> None:
        if not settings.subnets:
            raise ValueError("a Fargate task needs at least one subnet")
        self.settings = settings
        self._client = client

    def _ecs(self) -> Any:
        if self._client is None:
            import boto3

            self._client = boto3.client("ecs")
        return self._client

    def launch(self, launch: Launch, ask_in: Callable[[str], object] = lambda subnet: None) -> str:
        subnets = self.settings.subnets
        # Launches begin at different subnets, but one that is asked for again begins where it was
        # left without an answer: under the same token, ECS answers with the task it has started then.
        first = int(token(launch.id), 16) % len(subnets)
        begin = launch.subnet or subnets[first]
        others = [each for each in (*subnets[first:], *subnets[:first]) if each != begin]
        for subnet in (begin, *others):
            if subnet != begin:
                ask_in(subnet)
            refusal = self._run(launch, subnet)
            if isinstance(refusal, str):
                return refusal
            last = refusal
            if not last.capacity:
                break
        raise LaunchRefused(last.why)

    def _run(self, launch: Launch, subnet: str) -> str | _Refusal:
        """The task's ARN, or why there is none."""
        settings = self.settings
        definition = settings.task_definitions.get(launch.pool)
        if definition is None:
            return _Refusal(f"no task definition for the pool {launch.pool}", False)
        overrides: dict[str, Any] = {
            "containerOverrides": [
                {
                    "name": settings.container,
                    "environment": [
                        {"name": LAUNCH, "value": launch.id},
                        {"name": RECORD, "value": launch.key},
                        {"name": POOL, "value": launch.pool},
                    ],
                }
            ]
        }
        if launch.pool in settings.roles:
            overrides["taskRoleArn"] = settings.roles[launch.pool]
        if settings.cpu is not None:
            overrides["cpu"] = str(settings.cpu)
        if settings.memory is not None:
            overrides["memory"] = str(settings.memory)
        if (size := len(json.dumps(overrides))) > OVERRIDES_MOST:
            return _Refusal(f"overrides of {size:,} characters are over ECS's limit", False)
        ecs = self._ecs()
        try:
            answer = ecs.run_task(
                cluster=settings.cluster,
                taskDefinition=definition,
                launchType="FARGATE",
                count=1,
                # Other parameters under the same token are a ConflictException: the subnet is one.
                clientToken=token(f"{launch.id} {launch.booked_at} {subnet}"),
                # The only other character of a launch's name is its dot.
                startedBy=f"overflow/{launch.id}".replace(".", "_")[:STARTED_BY_MOST],
                networkConfiguration={
                    "awsvpcConfiguration": {
                        "subnets": [subnet],
                        "securityGroups": list(settings.security_groups),
                        "assignPublicIp": "ENABLED" if settings.public_ip else "DISABLED",
                    }
                },
                overrides=overrides,
            )
        except ecs.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
            why = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
            if status >= 500 and not _is_capacity(why):
                raise  # the task may have been started all the same
            return _Refusal(why, _is_capacity(why))
        if answer.get("tasks"):
            arn: str = answer["tasks"][0]["taskArn"]
            return arn
        failures = answer.get("failures") or [{"reason": "no task and no reason was given"}]
        why = "; ".join(
            f"{failure.get('reason', '')} {failure.get('detail', '')}".strip()
            for failure in failures
        )
        return _Refusal(why, _is_capacity(why))

    def ended(self, arns: list[str]) -> Mapping[str, Stopped]:
        found: dict[str, Stopped] = {}
        for start in range(0, len(arns), DESCRIBE_MOST):
            answer = self._ecs().describe_tasks(
                cluster=self.settings.cluster, tasks=arns[start : start + DESCRIBE_MOST]
            )
            for task in answer.get("tasks", ()):
                if task.get("lastStatus") == "STOPPED":
                    found[task["taskArn"]] = stopped(task)
            for failure in answer.get("failures", ()):
                if failure.get("reason") == "MISSING" and failure.get("arn") in arns:
                    found[failure["arn"]] = Stopped(UNKNOWN_TASK)
        return found

    def log_of(self, arn: str) -> str:
        settings = self.settings
        stream = f"{settings.log_prefix}/{settings.container}/{arn.rpartition('/')[2]}"
        return f"{settings.log_group}:{stream}" if settings.log_group else stream


class _Refusal(msgspec.Struct):
    why: str
    capacity: bool


def _is_capacity(why: str) -> bool:
    """Whether another subnet, thus another availability zone, may do."""
    text = why.lower()
    return (
        "capacity" in text or text.startswith("resource:") or "insufficient free addresses" in text
    )


def token(text: str) -> str:
    """64 hexadecimal digits, the same for the same launch."""
    return sha256(text.encode()).hexdigest()[:CLIENT_TOKEN_MOST]


def launch_of(task: Mapping[str, Any]) -> str | None:
    """The launch that started a task, out of DescribeTasks' or EventBridge's description of it."""
    for container in task.get("overrides", {}).get("containerOverrides", ()):
        for variable in container.get("environment", ()):
            if variable.get("name") == LAUNCH:
                value: str = variable["value"]
                return value
    return None


def stopped(task: Mapping[str, Any]) -> Stopped:
    """How a stopped task ended, out of the same description.

    A task that never started has containers without an exit code.
    """
    containers = task.get("containers") or [{}]
    codes = [container.get("exitCode") for container in containers]
    if all(code == 0 for code in codes):
        return Stopped(None)
    reasons = [task.get("stopCode", ""), task.get("stoppedReason", "")]
    reasons += [container.get("reason", "") for container in containers]
    exits = [f"exit {code}" for code in codes if code is not None]
    return Stopped("; ".join(part for part in [*exits, *reasons] if part) or "no reason given")


def dispatcher(environ: Mapping[str, str], client: Any = None) -> Dispatcher:
    """The dispatcher that a function's environment describes.

    ``RECORDS_URL`` and ``QUEUE_ARN``, the service's own queue, are required. Where
    ``OVERFLOW_SUBNETS`` is empty there are no tasks, and all is parked for that reason; where it is
    not set there were never to be any, and all is parked for its own; otherwise see
    ``task_settings``. ``OVERFLOW_LIMITS`` and ``OVERFLOW_REGISTRY`` are optional.

    Args:
        environ: the function's variables.
        client: see EcsLauncher.

    Raises:
        KeyError, ValueError: a variable is missing or bad; the message names it.
        OSError: the registry cannot be read.
    """
    from lambda_shim.registry import Registry, load

    path = environ.get("OVERFLOW_REGISTRY")
    listed = load(path) if path else Registry((), ())
    registry = Registry(tuple(listed.own), listed.functions, environ["QUEUE_ARN"])
    subnets = environ.get("OVERFLOW_SUBNETS")
    launcher = EcsLauncher(task_settings(environ, registry), client) if subnets else None
    records = open_records(environ["RECORDS_URL"])
    return Dispatcher(
        records, launcher, limits_of(environ), registry, tasks_wanted=subnets is not None
    )


def task_settings(environ: Mapping[str, str], registry: Registry | None = None) -> TaskSettings:
    """Settings out of a function's environment.

    ``OVERFLOW_CLUSTER``, ``OVERFLOW_TASK_DEFINITION`` and ``OVERFLOW_SUBNETS`` (commas between) are
    required; ``OVERFLOW_CONTAINER`` (``runner``), ``OVERFLOW_SECURITY_GROUPS``,
    ``OVERFLOW_PUBLIC_IP`` (``true``), ``OVERFLOW_LOG_GROUP``, ``OVERFLOW_CPU`` and
    ``OVERFLOW_MEMORY`` are not.

    Raises:
        ValueError: one is missing; the message names it.
    """

    def required(name: str) -> str:
        if not environ.get(name):
            raise ValueError(f"the environment variable {name} is not set")
        return environ[name]

    def names(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    def number(name: str) -> int | None:
        return int(environ[name]) if environ.get(name) else None

    own = required("OVERFLOW_TASK_DEFINITION")
    pools = registry.pools if registry else (OWN,)
    return TaskSettings(
        cluster=required("OVERFLOW_CLUSTER"),
        task_definitions={
            **dict.fromkeys(pools, own),
            **(registry.task_definitions if registry else {}),
        },
        roles=registry.roles if registry else {},
        container=environ.get("OVERFLOW_CONTAINER") or "runner",
        subnets=names(required("OVERFLOW_SUBNETS")),
        security_groups=names(environ.get("OVERFLOW_SECURITY_GROUPS", "")),
        public_ip=environ.get("OVERFLOW_PUBLIC_IP", "").lower() == "true",
        log_group=environ.get("OVERFLOW_LOG_GROUP", ""),
        cpu=number("OVERFLOW_CPU"),
        memory=number("OVERFLOW_MEMORY"),
    )
