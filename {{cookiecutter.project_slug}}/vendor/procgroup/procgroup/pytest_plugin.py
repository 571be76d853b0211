"""pytest fixtures: `group` and `launch_group`, and each role's log in the report of a failure.

    [pytest]
    procgroup_blueprint = blueprints/service.yaml

    @pytest.mark.procgroup(overrides={"roles": {"worker": {"replicas": 2}}})
    def test_two_workers(group): ...

Safe under xdist: each worker process has its own groups, and ports come from the node's registry.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from procgroup.group import ProcessGroup

_ARGUMENTS = ("blueprint", "variables", "overrides", "supervisor", "timeout", "state_dir")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "procgroup_blueprint",
        "the blueprint of the `group` fixture, relative to the root directory",
        default="",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "procgroup(blueprint, variables, overrides, supervisor, timeout): "
        "how the `group` fixture launches its process group",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """While a failed test's groups still stand: add their logs, and have their directories kept."""
    report = yield
    if report.failed and call.when in ("setup", "call"):
        import sys

        module = sys.modules.get("procgroup.group")  # not imported: nothing was launched
        for group in module.open_groups() if module is not None else ():
            group.failed = True
            report.sections.append((f"process group {group.name} {group.id}", _logs(group)))
    return report


def _logs(group: ProcessGroup) -> str:
    from procgroup.errors import GroupLost
    from procgroup.group import indented, tail

    try:
        reports = {(each["role"], each["replica"]): each for each in group.status()}
    except GroupLost as lost:
        reports = {}
        text = f"{lost}\n"
    else:
        text = ""
    for role in group.all_roles():
        found = reports.get((role.name, role.replica), {})
        facts = [str(found.get("state", "unknown"))]
        if found.get("exit"):
            facts.append(f"last end: {found['exit']}, restarted {found['restarts']} times")
        text += f"{role.label}: {'; '.join(facts)}\n{indented(tail(role))}"
    return text + f"kept: {group.directory}"


@pytest.fixture
def launch_group(request: pytest.FixtureRequest) -> Iterator[Callable[..., ProcessGroup]]:
    """`ProcessGroup.launch`, with the blueprint from the configuration unless given.

    Groups stop when the test ends.
    """
    from procgroup.group import ProcessGroup

    launched: list[ProcessGroup] = []

    def launch(blueprint: str | Path | None = None, **arguments: Any) -> ProcessGroup:
        group = ProcessGroup.launch(_blueprint(request.config, blueprint), **arguments)
        launched.append(group)
        return group

    yield launch
    for group in reversed(launched):
        group.close()


def _blueprint(config: pytest.Config, given: str | Path | None) -> Path:
    chosen = given or config.getini("procgroup_blueprint")
    if not chosen:
        raise pytest.UsageError(
            "no blueprint: set `procgroup_blueprint` in pytest's configuration, or mark the test "
            "with @pytest.mark.procgroup(blueprint=...)"
        )
    return config.rootpath / chosen


@pytest.fixture
def group(
    request: pytest.FixtureRequest, launch_group: Callable[..., ProcessGroup]
) -> ProcessGroup:
    """A process group of this test's own, ready when the test begins.

    The test's `procgroup` markers say how; nearer ones win, `variables` and `overrides` add up.
    """
    arguments: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("procgroup"))):
        unknown = sorted(set(marker.kwargs) - set(_ARGUMENTS))
        if unknown or marker.args:
            raise pytest.UsageError(
                f"@pytest.mark.procgroup takes the keywords {', '.join(_ARGUMENTS)}; "
                f"not {', '.join(unknown) or 'positional arguments'}"
            )
        for name, value in marker.kwargs.items():
            both = isinstance(value, dict) and isinstance(arguments.get(name), dict)
            arguments[name] = _merged(arguments[name], value) if both else value
    return launch_group(**arguments)


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
