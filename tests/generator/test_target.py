"""What a stage is deployed with, as the tools next to deploy/ put it to SAM; and what is packed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from ..baking import BakedProject, described

COMMAND = "from tools.target import deploy_command; print(*deploy_command('dev', 'abc'), sep='\\n')"


def quoted_parameters(project: BakedProject, overrides: str) -> dict[str, str]:
    """The parameters that `make deploy` names for a stage with these overrides and no others."""
    config = project.path / "deploy" / "samconfig.toml"
    stage = f"version = 0.1\n[dev.deploy.parameters]\nparameter_overrides = {overrides}\n"
    config.write_text(stage, "utf-8")
    process = project.run(sys.executable, "-c", COMMAND, DEPLOY_TOOL="sam")
    assert process.returncode == 0, described(process)
    words = process.stdout.split("--parameter-overrides\n")[1].splitlines()
    return dict(word.split("=", 1) for word in words)


def parameters(project: BakedProject, overrides: str) -> dict[str, str]:
    """The same, with their values as they are."""
    quoted = quoted_parameters(project, overrides)
    return {name: json.loads(value) for name, value in quoted.items()}


@pytest.mark.parametrize(
    "overrides",
    [
        '["Stage=dev", "Subnets=subnet-0a,subnet-0b"]',
        '["Stage=dev", \'Subnets="subnet-0a,subnet-0b"\']',
        '"Stage=dev Subnets=subnet-0a,subnet-0b"',
    ],
)
def test_overrides_are_read_as_sam_reads_them(
    overrides: str, bake: Callable[..., BakedProject]
) -> None:
    assert parameters(bake(example="minimal"), overrides)["Subnets"] == "subnet-0a,subnet-0b"


def test_what_samconfig_leaves_out_has_its_default(bake: Callable[..., BakedProject]) -> None:
    """CloudFormation keeps the former value of a parameter that is not named."""
    found = parameters(bake(example="minimal"), '["Stage=dev"]')
    assert found["Subnets"] == found["SecurityGroups"] == ""
    assert found["PublicIp"] == "false"
    assert found["TrafficShift"] == "Canary10Percent5Minutes"
    assert found["ImageTag"] == "abc"


def test_a_default_is_read_as_cloudformation_has_it(bake: Callable[..., BakedProject]) -> None:
    project = bake(example="minimal")
    template = project.path / "deploy" / "template.yaml"
    text = template.read_text("utf-8")
    template.write_text(text.replace('Default: "false"', "Default: true"), "utf-8")
    assert parameters(project, '["Stage=dev"]')["PublicIp"] == "true"


def test_a_parameter_without_a_value_is_refused(bake: Callable[..., BakedProject]) -> None:
    """CloudFormation would keep the former one, or find none at the first deployment."""
    project = bake(example="statements")
    config = project.path / "deploy" / "samconfig.toml"
    config.write_text('[dev.deploy.parameters]\nparameter_overrides = ["Stage=dev"]\n', "utf-8")
    process = project.run(sys.executable, "-c", COMMAND, DEPLOY_TOOL="sam")
    assert process.returncode == 1
    assert process.stdout == (
        "deploy/samconfig.toml: parameter_overrides of dev lack what has no default in the "
        "template: CustomersUrl, MailFrom\n"
    )


def test_a_value_is_quoted_as_sam_unquotes_it(bake: Callable[..., BakedProject]) -> None:
    """SAM knows no escapes but that of a quote."""
    sender = r'"Jürgen \"J\" <j@example.com>"'
    url = "CustomersUrl=https://c.example.com"
    found = quoted_parameters(bake(example="statements"), f"['{url}', 'MailFrom={sender}']")
    assert found["MailFrom"] == sender


def test_what_sam_would_read_otherwise_is_refused(bake: Callable[..., BakedProject]) -> None:
    project = bake(example="minimal")
    config = project.path / "deploy" / "samconfig.toml"
    text = config.read_text("utf-8")
    config.write_text(text.replace("Stage=dev", "ParameterKey=Stage,ParameterValue=dev"), "utf-8")
    process = project.run(sys.executable, "-c", COMMAND, DEPLOY_TOOL="sam")
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


def test_what_is_read_at_run_time_stays(bake: Callable[..., BakedProject]) -> None:
    """Some libraries load what their stubs list; msgspec's are for type checkers alone."""
    project = bake(example="minimal")
    names = {"lazy/__init__.pyi", "msgspec/__init__.pyi", "lazy-1.dist-info/uv_cache.json"}
    for name in names | {"lazy/bin/tool.py", "bin/tool"}:
        (project.path / "packed" / name).parent.mkdir(parents=True, exist_ok=True)
        (project.path / "packed" / name).touch()
    code = "from pathlib import Path; from tools.build import prune; prune(Path('packed'))"
    process = project.run(sys.executable, "-c", code)
    assert process.returncode == 0, described(process)
    assert set(BakedProject(project.path / "packed").files()) == {
        "lazy/__init__.pyi",
        "lazy/bin/tool.py",
    }


def test_a_file_that_does_not_compile_ends_the_build(bake: Callable[..., BakedProject]) -> None:
    project = bake(example="minimal")
    code = (
        "import sys; from pathlib import Path; from tools import build; "
        "build.PYTHON = f'{sys.version_info.major}.{sys.version_info.minor}'; "
        "print(build.compile_bytecode(Path('packed')))"
    )
    (project.path / "packed" / "theirs").mkdir(parents=True)
    (project.path / "packed" / "sound.py").write_text("x = 1\n")
    process = project.run(sys.executable, "-c", code)
    assert process.stdout == "True\n"
    (project.path / "packed" / "theirs" / "old.py").write_text("print 'x'\n")
    process = project.run(sys.executable, "-c", code)
    assert process.returncode == 1
    assert process.stdout.startswith("theirs/old.py does not compile: ")


def test_what_uv_refuses_ends_the_build_with_its_own_words(
    bake: Callable[..., BakedProject],
) -> None:
    """A dependency without wheels, say."""
    project = bake(example="minimal")
    uv = project.path / "uv"
    uv.write_text("#!/bin/sh\necho 'no usable wheels' >&2\nexit 3\n")
    uv.chmod(0o755)
    process = project.run(sys.executable, "-m", "tools.build", UV=str(uv))
    assert (process.returncode, process.stdout) == (3, "no usable wheels\n")
