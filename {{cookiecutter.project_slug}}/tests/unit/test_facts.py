"""One fact, one value: the deployment, the blueprint and the build agree."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import fields

from . import deployed

PROJECT = Path(__file__).parents[2]
BUILD = (PROJECT / "tools" / "build.py").read_text("utf-8")


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    text = (PROJECT / "blueprints" / "service.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)["variables"]
    return loaded


def test_the_local_queue_is_the_deployed_queue(variables: dict[str, Any]) -> None:
    assert deployed.NUMBERS.items() <= variables.items()
    assert int(deployed.ENVIRONMENT["MAX_RECEIVE_COUNT"]) == variables["max_receive_count"]


def test_what_a_batch_answers_is_heeded() -> None:
    """Or a batch with a failure in it would be taken for done, and what failed for handled."""
    assert deployed.RESPONSES == ["ReportBatchItemFailures"]


def test_every_setting_is_deployed_and_rendered_locally() -> None:
    from {{ cookiecutter.__package_name }}.core.settings import Settings

    settings = set(Settings.__struct_encode_fields__)
    required = {field.encode_name for field in fields(Settings) if field.required}
    rendered = (PROJECT / "blueprints" / "templates" / "settings.json.j2").read_text("utf-8")
    assert required <= set(deployed.ENVIRONMENT) <= settings
    assert set(re.findall(r'"([A-Z_]+)":', rendered)) == set(deployed.ENVIRONMENT)


@pytest.mark.parametrize(
    ("queue", "function"),
    [
        ("visibility_timeout", "function_timeout"),
        ("dispatcher_visibility_timeout", "dispatcher_timeout"),
    ],
)
def test_a_visibility_timeout_is_six_function_timeouts(
    variables: dict[str, Any], queue: str, function: str
) -> None:
    """As AWS advises: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html."""
    assert variables[queue] == 6 * variables[function]


def test_a_dead_letter_outlives_its_queue(variables: dict[str, Any]) -> None:
    """On a standard queue it keeps the time it was first sent."""
    assert variables["dead_letter_retention"] > variables["retention"]


def test_the_package_is_built_for_the_deployed_runtime() -> None:
    assert f'PYTHON = "{deployed.RUNTIME}"' in BUILD
    assert f'ARCHITECTURE = "{deployed.ARCHITECTURE}"' in BUILD
{%- if cookiecutter.overflow == 'fargate' %}


def test_tasks_run_on_what_the_package_is_built_for() -> None:
    """Or none of them could start."""
    assert deployed.ARCHITECTURE.upper() == deployed.TASK_ARCHITECTURE, (
        "change the task definition's CpuArchitecture in deploy/, too"
    )
    dockerfile = (PROJECT / "container" / "Dockerfile").read_text("utf-8")
    # A base image of one's own may say nothing of its Python.
    for python in re.findall(r"(?m)^ARG BASE=.*\bpython:(\d+\.\d+)", dockerfile):
        assert python == deployed.RUNTIME, "change the base image in container/Dockerfile, too"
{%- endif %}
{%- if cookiecutter.ci == 'github' %}


def test_the_workflow_builds_with_the_deployed_python() -> None:
    """Another writes no bytecode into the zip, and cannot run what is built."""
    text = (PROJECT / ".github" / "workflows" / "service.yml").read_text("utf-8")
    python = yaml.safe_load(text)["env"]["UV_PYTHON"]
    assert python == deployed.RUNTIME, "change UV_PYTHON in .github/workflows/service.yml, too"
{%- endif %}
