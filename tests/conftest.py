"""Fixtures that make services from the template as it is now."""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .baking import ROOT, BakedProject, Template, snapshot

# However pytest was started: what is imported from the template tree leaves no bytecode there. It
# lies elsewhere, since thousands of processes that compile all they import take minutes to do so.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(ROOT / ".cache" / "bytecode")

# Nor does it matter that a shell started pytest in the background, where ctrl-C is not for it, or
# that nohup did: what is started here is to be interrupted.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


STDERR = pytest.StashKey[int]()
# What this process is at, for whoever finds it stuck.
RUNNING = ROOT / ".cache" / "running" / os.environ.get("PYTEST_XDIST_WORKER", "alone")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-seed", type=int, metavar="N", help="run K of a chaos test has the seed N + K"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.chaos_seed is None:  # drawn here, so that pytest-xdist's workers get the same
        config.option.chaos_seed = random.SystemRandom().randrange(10**9)
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        config.stash[STDERR] = os.dup(2)
    RUNNING.parent.mkdir(parents=True, exist_ok=True)


def pytest_report_header(config: pytest.Config) -> str:
    return f"--chaos-seed {config.option.chaos_seed}"


# `timeout` in pyproject.toml fails a test by an alarm. That does not end all that hangs: code that has
# taken the alarm for itself, a call that no signal interrupts, a fixture's end after the alarm. A tenth
# later the process says where it stands and ends, and pytest-xdist takes another.
def watch(item: pytest.Item) -> None:
    if not item.get_closest_marker("stress"):
        seconds = float(item.config.getini("timeout")) * 1.1
        faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    RUNNING.write_text(f"{item.nodeid}\n")
    watch(item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """pytest ends any such watch here, for a debugger's sake; the fixtures' ends are still to come."""
    if isinstance(node, pytest.Item):
        watch(node)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be told to stay away
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadgroup":
        return None
    from .scheduling import GroupScheduling

    return GroupScheduling(config, log)


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`--dist loadgroup`: a file's tests that are marked `together` stay on one worker."""
    for item in items:
        if item.get_closest_marker("together"):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
        if item.get_closest_marker("stress"):  # it takes as long as it was asked to
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A committed copy of the working tree, tagged v0.1.0; not to be changed by tests."""
    directory = tmp_path_factory.mktemp("template")
    snapshot(directory)
    return Template(directory, tmp_path_factory.mktemp("settings"))


@pytest.fixture
def own_template(template: Template, tmp_path: Path) -> Template:
    """A copy of the template with its history, for a test that changes it."""
    shutil.copytree(template.path, tmp_path / "template")
    return Template(tmp_path / "template", tmp_path / "settings")


@pytest.fixture
def bake(cookies: Any, template: Template) -> Callable[..., BakedProject]:
    """Make a service with the given answers by cookiecutter, in this process."""

    def _bake(**answers: str) -> BakedProject:
        result = cookies.bake(extra_context=answers, template=str(template.path))
        if result.exception is not None:
            raise result.exception
        return BakedProject(result.project_path)

    return _bake
