"""Each target's service, made once for every combination of the answers that shape a stack."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..baking import BakedProject, Template, combinations, described, offered
from .aws import aws
from .tools import (
    CACHE,
    STAGES,
    give_tasks,
    packaged,
    placeholder_zip,
    synthesised,
    translated,
)

CHOICES = offered()
TARGETS = CHOICES["deploy_target"]
SHAPES = combinations(
    {name: CHOICES[name] for name in ("example", "queue_type", "overflow", "fan_out")}
)
# Every shape as one stage; where there is overflow, as production too, which has subnets.
CASES = [
    (answers, stage)
    for stage in STAGES
    for answers in SHAPES
    if stage == STAGES[0] or answers["overflow"] == "fargate"
]
Make = Callable[..., dict[str, Any]]


def label(value: dict[str, str] | str) -> str:
    """Of a test's parameter: a set of answers, or a stage."""
    return value if isinstance(value, str) else "-".join(value.values())


@pytest.fixture(scope="session", autouse=True)
def _node() -> Iterator[None]:
    """The tools find the Node that was installed for them before the machine's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(CACHE / "node" / "bin"), prepend=os.pathsep)
        yield


@pytest.fixture
def account() -> Iterator[str]:
    """The address of a new, empty AWS account."""
    with aws() as address:
        yield address


@pytest.fixture(scope="session")
def project_for(
    template: Template, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., BakedProject]:
    """The service with these answers; made at the first call."""

    @functools.cache
    def make(**answers: str) -> BakedProject:
        output = tmp_path_factory.mktemp("deploy")
        process = template.cookiecutter(output, **answers)
        assert process.returncode == 0, described(process)
        project = BakedProject(output / "statement-service")
        placeholder_zip(project)
        if answers.get("overflow") == "fargate":
            subnets = ("subnet-0a1b", "subnet-2c3d")
            give_tasks(project, answers["deploy_target"], "production", subnets, "sg-4e5f")
        return project

    return make


@pytest.fixture(scope="session")
def cloudformation(project_for: Callable[..., BakedProject]) -> Make:
    """The template of one target, stage and set of answers; made at the first call."""

    @functools.cache
    def synthesis() -> list[dict[str, Any]]:
        return synthesised(
            [(project_for(deploy_target="cdk", **answers), stage) for answers, stage in CASES]
        )

    @functools.cache
    def make(target: str, stage: str, **answers: str) -> dict[str, Any]:
        if target == "cdk":
            return synthesis()[CASES.index((answers, stage))]
        project = project_for(deploy_target=target, **answers)
        return {"sam": translated, "serverless": packaged}[target](project, stage)

    return make
