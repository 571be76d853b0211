"""Services made once for all tests of this tier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..baking import BakedProject, Template, commit_all, described

SERVICES = {
    "statements": {"example": "statements"},
    "minimal": {"example": "minimal"},
    "fifo": {"example": "minimal", "queue_type": "fifo"},
}


def made(template: Template, output: Path, kind: str) -> BakedProject:
    process = template.cookiecutter(output, **SERVICES[kind])
    assert process.returncode == 0, described(process)
    project = BakedProject(output / "statement-service")
    commit_all(project.path, "Start from the template")
    return project


def of(kind: str, *more: str) -> Any:
    """A kind of service as a parameter: its tests stay on one worker (`--dist loadgroup`), where its
    environment is made once."""
    return pytest.param(kind, *more, marks=pytest.mark.xdist_group(kind))


@pytest.fixture(scope="session", params=[of(kind) for kind in SERVICES])
def service(
    request: pytest.FixtureRequest, template: Template, tmp_path_factory: pytest.TempPathFactory
) -> BakedProject:
    """A service of each kind, committed."""
    return made(template, tmp_path_factory.mktemp("service"), request.param)


@pytest.fixture(scope="session")
def fullest(template: Template, tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """The service that has the most of everything, with its environment: for what once is enough."""
    project = made(template, tmp_path_factory.mktemp("fullest"), "statements")
    process = project.run("make", "setup")
    assert process.returncode == 0, described(process)
    return project
