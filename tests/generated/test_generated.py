"""A service passes its own `make lint` and `make test`, run as its team would run them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ..baking import BakedProject, Template, described, git, path_without
from .conftest import of

# Everything under runit, on the system's Redis; then a machine that has neither: the built-in
# supervisor and the server of a Python package.
SYSTEMS = {"runit": {"PROCGROUP_SUPERVISOR": "runit"}, "neither": {}}
NEEDED = {"runit": ["redis-server", "runsv"], "neither": []}
ABSENT = ("redis-server", "valkey-server", "runsv", "runsvdir", "sv", "chpst")


def passes(service: BakedProject, verb: str, **variables: str) -> None:
    process = service.run("make", verb, **variables)
    assert process.returncode == 0, described(process)
    assert "no tests ran" not in process.stdout
    # All that it writes is ignored, but for the team's own lock file.
    assert git(service.path, "status", "--porcelain") == "?? uv.lock"


def test_lint(service: BakedProject) -> None:
    passes(service, "lint")


# "fifo" is the minimal example, too.
@pytest.mark.parametrize(
    ("service", "system"),
    [
        of("statements", "runit"),
        of("statements", "neither"),
        of("minimal", "neither"),
        of("fifo", "runit"),
        of("fifo", "neither"),
    ],
    indirect=["service"],
)
def test_test(service: BakedProject, system: str, tmp_path: Path) -> None:
    for tool in NEEDED[system]:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    variables = dict(SYSTEMS[system])
    if system == "neither":
        variables["PATH"] = path_without(ABSENT, tmp_path / "bin")
        assert all(shutil.which(tool, path=variables["PATH"]) is None for tool in ABSENT)
    passes(service, "test", **variables)


@pytest.mark.parametrize("service", [of("statements"), of("fifo")], indirect=True)
def test_test_runtime(service: BakedProject) -> None:
    passes(service, "test-runtime")


def test_make_alone_lists_the_targets(service: BakedProject) -> None:
    process = service.run("make")
    assert process.returncode == 0
    listed = [line.split()[1] for line in process.stdout.splitlines()]
    assert {
        "setup",
        "test",
        "test-runtime",
        "test-staging",
        "lint",
        "run",
        "demo",
        "debug",
        "build",
        "validate",
    } <= set(listed)


def test_the_demo_on_a_machine_with_nothing_installed(template: Template, tmp_path: Path) -> None:
    """The README's first command, where uv, Redis and runit are missing."""
    checkout = tmp_path / "checkout"
    git(tmp_path, "clone", str(template.path), str(checkout))
    path = path_without((*ABSENT, "uv", "uvx", "cookiecutter", "copier"), tmp_path / "bin")
    process = BakedProject(checkout).run("make", "demo", PATH=path)
    assert process.returncode == 0, described(process)
    made = BakedProject(checkout / ".demo" / "statement-service")
    assert str(made.path) in process.stdout
    assert list((made.path / "build" / "demo").rglob("*.pdf"))
    # Again: the old one makes way.
    assert BakedProject(checkout).run("make", "demo", PATH=path).returncode == 0
    assert git(checkout, "status", "--porcelain") == ""
