"""The generated GitHub workflow: one artefact, from the tests to production, and no key kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ..baking import BakedProject, described
from .conftest import TARGETS
from .tools import program

pytestmark = pytest.mark.together

WORKFLOW = ".github/workflows/service.yml"
Job = dict[str, Any]


@pytest.fixture(
    params=[*((target, "fargate") for target in TARGETS), ("sam", "none")], ids="-".join
)
def project(
    request: pytest.FixtureRequest, project_for: Callable[..., BakedProject]
) -> BakedProject:
    target, overflow = request.param
    return project_for(deploy_target=target, overflow=overflow, ci="github")


@pytest.fixture
def jobs(project: BakedProject) -> dict[str, Job]:
    found: dict[str, Job] = yaml.safe_load(project.read(WORKFLOW))["jobs"]
    return found


def commands(job: Job) -> list[str]:
    return [step["run"].partition(" #")[0] for step in job["steps"] if "run" in step]


def arguments(job: Job, action: str) -> list[dict[str, Any]]:
    """What the job gives this action, each time it uses it."""
    return [step["with"] for step in job["steps"] if step.get("uses", "").startswith(f"{action}@")]


@pytest.mark.slow
def test_actionlint_has_nothing_to_say(project: BakedProject) -> None:
    process = project.run(program("actionlint"), "-shellcheck=", "-pyflakes=", WORKFLOW)
    assert process.returncode == 0, described(process)


def test_actions_are_pinned_to_commits_with_their_release_beside(project: BakedProject) -> None:
    used = re.findall(r"uses: (.+)", project.read(WORKFLOW))
    assert len(used) >= 8
    assert not [line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line)]


def test_what_was_built_and_tested_is_what_both_stages_get(
    project: BakedProject, jobs: dict[str, Job]
) -> None:
    """The zip, and the image of the overflow's tasks; test_image.py has how that gets there."""
    assert list(jobs) == ["test", "staging", "production"]
    has_image = project.has_file("container/Dockerfile")
    image = " IMAGE=build/image.tar" if has_image else ""
    assert commands(jobs["test"])[3:] == [
        "make validate",
        "make test-runtime ZIP=build/lambda.zip",
        *([f"make image{image}"] if has_image else []),
    ]
    assert commands(jobs["staging"]) == [
        f"make deploy STAGE=staging ZIP=build/lambda.zip{image}",
        "make test-staging STAGE=staging",
    ]
    assert commands(jobs["production"]) == [
        f"make deploy STAGE=production ZIP=build/lambda.zip{image}"
    ]


def test_both_stages_find_what_was_built_where_they_look_for_it(
    project: BakedProject, jobs: dict[str, Job]
) -> None:
    """An artifact's files lie below the directory that they had in common."""
    (kept,) = arguments(jobs["test"], "actions/upload-artifact")
    files = ["build/lambda.zip"]
    if project.has_file("container/Dockerfile"):
        files.append("build/image.tar")
    assert kept["path"].split() == files
    assert kept["if-no-files-found"] == "error"
    for stage in ("staging", "production"):
        assert arguments(jobs[stage], "actions/download-artifact") == [
            {"name": kept["name"], "path": "build"}
        ]


def test_each_stage_waits_for_the_one_before_and_for_its_environment(jobs: dict[str, Job]) -> None:
    """The environment is where GitHub asks for an approval, and what AWS trusts."""
    waits = {name: (job.get("needs"), job.get("environment")) for name, job in jobs.items()}
    assert waits == {
        "test": (None, None),
        "staging": ("test", "staging"),
        "production": ("staging", "production"),
    }


def test_only_deployments_may_ask_aws_for_credentials(
    project: BakedProject, jobs: dict[str, Job]
) -> None:
    assert yaml.safe_load(project.read(WORKFLOW))["permissions"] == {"contents": "read"}
    allowed = {name for name, job in jobs.items() if "id-token" in job.get("permissions", {})}
    assert allowed == {"staging", "production"}
    assert "secrets." not in project.read(WORKFLOW)


def test_bytecode_is_that_of_lambdas_runtime(project: BakedProject) -> None:
    python = re.search(r'UV_PYTHON: "(.*)"', project.read(WORKFLOW))
    assert python is not None
    assert f'\nPYTHON = "{python[1]}"\n' in project.read("tools/build.py")


def test_every_target_it_makes_exists(project: BakedProject, jobs: dict[str, Job]) -> None:
    known = set(re.findall(r"^([a-z-]+):", project.read("Makefile"), re.MULTILINE))
    made = [line.split()[1] for job in jobs.values() for line in commands(job) if "make" in line]
    assert len(made) >= 6
    assert set(made) <= known


def test_without_ci_there_is_no_workflow(bake: Callable[..., BakedProject]) -> None:
    assert not (bake(ci="none").path / ".github").exists()
