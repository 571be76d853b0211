"""A service on the machines that people have, without an installation: by its sources alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ..baking import BakedProject, environment

Bake = Callable[..., BakedProject]


def start(service: BakedProject, state: Path, *arguments: str) -> subprocess.Popen[str]:
    """Python in the service's directory, with what the service imports."""
    variables = {
        "PYTHONPATH": service.imports,
        "PROCGROUP_STATE_DIR": str(state),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=service.path,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("queue_type", ["standard", "fifo"])
def test_a_state_directory_may_have_any_name(bake: Bake, queue_type: str, tmp_path: Path) -> None:
    service = bake(example="minimal", queue_type=queue_type)
    process = start(service, tmp_path / "st'ä \"te\\ dir", "tools/demo.py")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert "Everything is stopped." in output


def test_ctrl_c_ends_the_demo_quietly(bake: Bake, tmp_path: Path) -> None:
    service = bake(example="minimal")
    blueprint = service.path / "blueprints" / "service.yaml"
    text = blueprint.read_text(encoding="utf-8")
    idle = text.replace("  worker:\n", "  worker:\n    autostart: false\n")  # it never gets done
    assert idle != text
    blueprint.write_text(idle, encoding="utf-8")
    process = start(service, tmp_path / "state", "tools/demo.py")
    assert process.stdout is not None
    with process.stdout:
        assert "ready after" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.wait(60) == 130, output
    assert "Traceback" not in output
    assert list((tmp_path / "state" / "groups").iterdir()) == []


FOREIGN = """\
import os, sys
from unittest import mock
from minimal.shims import cli
from procgroup.registry import Owner, Registry, state_directory

registry = Registry(state_directory())
with mock.patch("procgroup.registry._new_id", lambda: "minimalx"):
    registry.register("foreign", "foreign.yaml", Owner.of(os.getpid()), [])
registry.close()
sys.exit(cli.main())
"""


def test_another_group_whose_id_begins_with_the_services_name_is_not_its_own(
    bake: Bake, tmp_path: Path
) -> None:
    service = bake(project_slug="minimal", example="minimal")
    process = start(service, tmp_path / "state", "-c", FOREIGN, "queues")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "there is no group 'minimal'; running: minimalx (foreign)" in output


@pytest.mark.parametrize("example", ["statements", "minimal"])
@pytest.mark.parametrize("queue_type", ["standard", "fifo"])
def test_the_readme_sends_to_the_queue_that_there_is(
    bake: Bake, example: str, queue_type: str
) -> None:
    service = bake(example=example, queue_type=queue_type)
    variables = yaml.safe_load(service.read("blueprints/service.yaml"))["variables"]
    line = f"RPUSH {variables['queue_name']} '{variables['example_message']}'\n"
    assert line in service.read("README.md")


@pytest.mark.parametrize("queue_type", ["standard", "fifo"])
def test_the_readme_asks_for_no_uv_to_work_locally(bake: Bake, queue_type: str) -> None:
    """Where it was missing, it lies hidden beside the project."""
    assert "uv run" not in bake(queue_type=queue_type).read("README.md")
