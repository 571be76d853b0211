"""A service's own unit tests, for every deployment tool and every kind of queue.

tests/generated runs all that a few services have, each in an environment of its own; these run in
the one at hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..baking import BakedProject, Template, combinations, described, offered


def answers() -> list[Any]:
    """Every tool with every kind of queue and overflow; the examples take turns."""
    choices = offered()
    of_each = {name: choices[name] for name in ("deploy_target", "queue_type", "overflow")}
    found = []
    queues = len(combinations(of_each)) // len(of_each["deploy_target"])
    for number, each in enumerate(combinations(of_each)):
        turn = sum(divmod(number, queues)) % len(choices["example"])
        given = {**each, "example": choices["example"][turn]}
        found.append(pytest.param(given, id="-".join(given.values())))
    return found


@pytest.mark.parametrize("given", answers())
def test_unit_tests_pass_as_generated(
    given: dict[str, str], template: Template, tmp_path: Path
) -> None:
    """As `make test` runs them."""
    # They draw a PDF, with a library that only services have.
    ignored = ["--ignore=tests/unit/test_jobs.py"] if given["example"] == "statements" else []
    made = template.here.cookiecutter(tmp_path, **given)
    assert made.returncode == 0, described(made)
    service = BakedProject(tmp_path / "statement-service")
    process = service.pytest(*ignored, "tests/unit")
    assert process.returncode == 0, described(process)


# By tool: a file of deploy/, and lines in it that are changed. The worker's own settings come behind
# one that it has.
OWN = {
    "sam": (
        "template.yaml",
        (
            "      AutoPublishAlias: live\n",
            "      AutoPublishAlias: live\n      MemorySize: 1024\n      Runtime: python3.12\n"
            "      Architectures: [arm64]\n      ReservedConcurrentExecutions: 1\n",
        ),
        ("      FunctionResponseTypes: [ReportBatchItemFailures]\n", ""),
    ),
    "serverless": (
        "serverless.yml",
        (
            "    role: WorkerRole\n",
            "    role: WorkerRole\n    memorySize: 1024\n    runtime: python3.12\n"
            "    architecture: arm64\n    reservedConcurrency: 1\n",
        ),
        ("        FunctionResponseTypes: [ReportBatchItemFailures]\n", ""),
    ),
    "cdk": (
        "stack.py",
        (
            "            tracing=lambda_.Tracing.ACTIVE,\n",
            "            reserved_concurrent_executions=1,\n",
        ),
        ('            function_response_types=["ReportBatchItemFailures"],\n', ""),
    ),
}
READ = """
from tests.unit import deployed
print([deployed.NUMBERS[name] for name in ("memory_mb", "reserved_concurrency")])
print(deployed.RUNTIME, deployed.ARCHITECTURE, deployed.RESPONSES)
"""


@pytest.mark.parametrize("target", OWN)
def test_the_workers_own_settings_are_what_is_compared(
    target: str, bake: Callable[..., BakedProject]
) -> None:
    project = bake(deploy_target=target, example="minimal")
    usual = "[512, None]\n3.13 x86_64 ['ReportBatchItemFailures']\n"
    assert project.run(sys.executable, "-c", READ).stdout == usual
    name, *changes = OWN[target]
    for old, new in changes:
        change(project, f"deploy/{name}", old, new)
    # The CDK's functions have these from deploy/numbers.py, all the same.
    shared = "[512, 1]\n3.13 x86_64 None\n"
    own = "[1024, 1]\n3.12 arm64 None\n"
    said = project.run(sys.executable, "-c", READ).stdout
    assert said == (shared if target == "cdk" else own)


# By tool: changes of deploy/ alone, and what its unit tests say of them.
ASTRAY = {
    "receives in cdk": (
        "cdk",
        ("deploy/stack.py", "max_receive_count=numbers.MAX_RECEIVE_COUNT", "max_receive_count=7"),
        "numbers.MAX_RECEIVE_COUNT",
    ),
    "tasks' architecture in cdk": (
        "cdk",
        ("deploy/overflow.py", "numbers.ARCHITECTURE.upper()", '"ARM64"'),
        "these numbers are not taken wherever they should be",
    ),
    "extended worker in serverless": (
        "serverless",
        (
            "deploy/serverless.yml",
            "        LoggingConfig: { LogFormat: JSON, LogGroup: !Ref WorkerLog }\n",
            "        Timeout: 99\n",
        ),
        "WorkerLambdaFunction: what extensions say of {'Timeout'} belongs where it is said first",
    ),
    "tasks' architecture in sam": (
        "sam",
        ("deploy/template.yaml", "CpuArchitecture: X86_64", "CpuArchitecture: ARM64"),
        "change the task definition's CpuArchitecture in deploy/, too",
    ),
    "tasks' architecture in serverless": (
        "serverless",
        ("deploy/serverless.yml", "CpuArchitecture: X86_64", "CpuArchitecture: ARM64"),
        "change the task definition's CpuArchitecture in deploy/, too",
    ),
    "image": (
        "sam",
        ("container/Dockerfile", "python:3.13.", "python:3.12."),
        "change the base image in container/Dockerfile, too",
    ),
    "workflow": (
        "sam",
        (".github/workflows/service.yml", 'UV_PYTHON: "3.13"', 'UV_PYTHON: "3.12"'),
        "change UV_PYTHON in .github/workflows/service.yml, too",
    ),
}


@pytest.mark.parametrize("place", ASTRAY)
def test_what_goes_astray_is_named(place: str, bake: Callable[..., BakedProject]) -> None:
    target, (name, old, new), words = ASTRAY[place]
    project = bake(deploy_target=target, example="minimal", overflow="fargate", ci="github")
    change(project, name, old, new)
    files = [f"tests/unit/test_{each}.py" for each in ("facts", "numbers")]
    process = project.pytest(*(file for file in files if (project.path / file).exists()))
    assert process.returncode != 0
    assert words in process.stdout, described(process)


def test_a_version_has_the_variables_of_all_functions_too(
    bake: Callable[..., BakedProject],
) -> None:
    """SAM makes one mapping of those under Globals and the worker's own."""
    project = bake(deploy_target="sam", example="minimal")
    check = (
        "from tests.unit import test_versions as its;"
        "its.test_every_parameter_of_the_worker_is_in_its_versions_description()"
    )
    process = project.run(sys.executable, "-c", check)
    assert process.returncode == 0, described(process)
    variables = "    Environment: { Variables: { SHIFT: !Ref TrafficShift } }\n"
    change(
        project,
        "deploy/template.yaml",
        "    Tracing: Active\n",
        "    Tracing: Active\n" + variables,
    )
    process = project.run(sys.executable, "-c", check)
    assert process.returncode == 1
    assert "AssertionError" in process.stdout


def change(project: BakedProject, name: str, old: str, new: str) -> None:
    """In a file, where it is first."""
    path = project.path / name
    before, found, after = path.read_text("utf-8").partition(old)
    assert found
    path.write_text(before + new + after, "utf-8")
