"""What a stage is deployed with, as the tools next to deploy/ put it to SAM; and what is packed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

import pytest

from ..baking import BakedProject, described

COMMAND = "from tools.target import deploy_command; print(*deploy_command('dev'{tag}), sep='\\n')"


def parameters(project: BakedProject, overrides: str, tag: str = ", 'abc'") -> dict[str, str]:
    """The parameters that `make deploy` names, with these overrides in samconfig.toml."""
    config = project.path / "deploy" / "samconfig.toml"
    text = re.sub(
        r"(?s)(parameter_overrides = )\[.*?\n\]",
        lambda found: found[1] + overrides,
        config.read_text("utf-8"),
        count=1,
    )
    config.write_text(text, "utf-8")
    process = project.run(sys.executable, "-c", COMMAND.format(tag=tag), DEPLOY_TOOL="sam")
    assert process.returncode == 0, described(process)
    words = process.stdout.split("--parameter-overrides\n")[1].splitlines()
    pairs = (word.split("=", 1) for word in words)
    return {name: json.loads(value) for name, value in pairs}


@pytest.mark.parametrize(
    "overrides",
    [
        '["Stage=dev", "Subnets=subnet-0a,subnet-0b"]',
        '["Stage=dev", \'Subnets="subnet-0a,subnet-0b"\']',
        '"Stage=dev Subnets=subnet-0a,subnet-0b"',
    ],
)
def test_what_is_taken_out_of_samconfig_goes_back_to_its_default(
    overrides: str, bake: Callable[..., BakedProject]
) -> None:
    """CloudFormation keeps the former value of a parameter that is not named."""
    project = bake(example="minimal")
    found = parameters(project, overrides)
    assert found["Subnets"] == "subnet-0a,subnet-0b"
    found = parameters(project, '["Stage=dev"]') if overrides.startswith("[") else found
    if overrides.startswith("["):
        assert found["Subnets"] == found["SecurityGroups"] == ""
    assert found["PublicIp"] == "false"
    assert found["TrafficShift"] == "Canary10Percent5Minutes"
    assert found["ImageTag"] == "abc"


def test_what_sam_would_read_otherwise_is_refused(bake: Callable[..., BakedProject]) -> None:
    project = bake(example="minimal")
    config = project.path / "deploy" / "samconfig.toml"
    text = config.read_text("utf-8")
    config.write_text(text.replace("Stage=dev", "ParameterKey=Stage,ParameterValue=dev"), "utf-8")
    process = project.run(sys.executable, "-c", COMMAND.format(tag=", 'abc'"), DEPLOY_TOOL="sam")
    assert process.returncode == 1
    assert "is not Name=value, with one of the template's parameters: Stage," in process.stdout


def test_what_stays_here_is_known_by_its_place(bake: Callable[..., BakedProject]) -> None:
    """A team's own file may have any name, and nothing hidden ships."""
    project = bake(example="minimal")
    package = project.path / "src" / "statement_service"
    (package / "adapters" / "cli.py").write_text("")
    (package / "core" / "shims").mkdir()
    (package / "core" / "shims" / "cli.py").write_text("")
    (package / ".env").write_text("SECRET=1\n")
    code = (
        "import functools, shutil; from pathlib import Path; from tools.build import stays; "
        f"top = Path({str(package)!r}); "
        "shutil.copytree(top, 'packed', ignore=functools.partial(stays, top))"
    )
    process = project.run(sys.executable, "-c", code)
    assert process.returncode == 0, described(process)
    packed = BakedProject(project.path / "packed")
    assert packed.has_file("adapters/cli.py")
    assert packed.has_file("core/shims/cli.py")
    assert not packed.has_file("shims/cli.py")
    assert not packed.has_file("adapters/redis_queue.py")
    assert not packed.has_file(".env")
