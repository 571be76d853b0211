"""Each target's service, made once for every combination of the answers that shape a stack."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..baking import BakedProject, Template, combinations, described, offered
from .aws import aws
from .tools import CACHE, placeholder_zip, template_of

CHOICES = offered()
TARGETS = CHOICES["deploy_target"]
SHAPES = combinations(
    {name: CHOICES[name] for name in ("example", "queue_type", "overflow", "fan_out")}
)
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
        return project

    return make


@pytest.fixture(scope="session")
def cloudformation(project_for: Callable[..., BakedProject]) -> Make:
    """The template of one target, stage and set of answers; made at the first call."""

    @functools.cache
    def make(target: str, stage: str, **answers: str) -> dict[str, Any]:
        return template_of(project_for(deploy_target=target, **answers), target, stage)

    return make
