"""pytest fixtures: `group` and `launch_group`, and each role's log in the report of a failure.

    [pytest]
    procgroup_blueprint = blueprints/service.yaml

    @pytest.mark.procgroup(overrides={"roles": {"worker": {"replicas": 2}}})
    def test_two_workers(group): ...

Safe under xdist: each worker process has its own groups, and ports come from the node's registry.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from procgroup.group import ProcessGroup

_ARGUMENTS = ("blueprint", "variables", "overrides", "supervisor", "timeout", "state_dir")
_SCOPES = ("function", "class", "module", "package", "session")
_staying: set[ProcessGroup] = set()  # detached ones that a test uses
# Sections of a report, should another fixture's end yet fail: of the groups that this one has ended.
_ended: list[tuple[str, str]] = []
# Where kept groups live; reports bring those of xdist's workers.
_state_dirs: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "procgroup_blueprint",
        "the blueprint of the `group` fixture, relative to the root directory",
        default="",
    )
    parser.addini(
        "procgroup_scope",
        f"how long a `group` lives: {', '.join(_SCOPES)} (default: function)",
        default="function",
    )
    options = parser.getgroup("procgroup", "process groups")
    options.addoption(
        "--procgroup-scope",
        choices=_SCOPES,
        help="how long a `group` lives; before the ini option procgroup_scope",
    )
    options.addoption(
        "--procgroup-keep",
        action="store_true",
        help="leave groups running when their tests end, and take them up again in the next run "
        "with this option, if nothing they are made from has changed; python roles are restarted, "
        "other roles keep their data. `procgroup ps` shows them, `procgroup down` or "
        "`procgroup gc --all` ends them",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "procgroup(blueprint, variables, overrides, supervisor, timeout, state_dir): "
        "how the `group` fixture launches its process group",
    )


def _scope(fixture_name: str, config: pytest.Config) -> Any:
    chosen = config.getoption("procgroup_scope", None) or config.getini("procgroup_scope")
    if chosen not in _SCOPES:
        raise pytest.UsageError(f"procgroup_scope = {chosen}: expected one of {', '.join(_SCOPES)}")
    return chosen


def pytest_report_header(config: pytest.Config) -> list[str]:
    if not config.getoption("procgroup_keep"):
        return []
    return ["procgroup: groups stay up when their tests end (--procgroup-keep)"]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name what `--procgroup-keep` leaves running, of xdist's workers too."""
    if not config.getoption("procgroup_keep"):
        return
    import shlex

    from procgroup.keeping import kept_by_pytest
    from procgroup.registry import Registry, state_directory

    default = str(state_directory())
    lines = []
    for place in dict.fromkeys([default, *sorted(_state_dirs)]):
        registry = Registry.existing(place)
        if registry is None:
            continue
        kept = [row for row in registry.groups() if kept_by_pytest(row.directory) and not row.kept]
        registry.close()
        command = "procgroup" if place == default else f"procgroup --state-dir {shlex.quote(place)}"
        lines += [f"{row.name} {row.id}: {command} down -g {row.id}" for row in kept]
        lines += [f"all of them: {command} gc --all"] if kept else []
    if lines:
        terminalreporter.section("process groups that stay up")
    for line in lines:
        terminalreporter.line(line)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _state_dirs.update(getattr(report, "procgroup_state_dirs", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A marker that comes too late for a group that several tests share is a mistake."""
    if "group" not in getattr(item, "fixturenames", ()):
        return
    scope = _scope("group", item.config)
    for node, _ in item.iter_markers_with_node("procgroup"):
        if _rank(node) < _SCOPES.index(scope):
            raise pytest.UsageError(
                f"{item.nodeid}: its `group` has {scope} scope, so a procgroup marker must stand "
                f"on the {scope}, not on {node.name}"
            )


def _rank(node: object) -> int:
    """The widest scope for whose fixtures a marker on this node comes in time."""
    for rank, kind in enumerate((pytest.Item, pytest.Class, pytest.Module, pytest.Package)):
        if isinstance(node, kind):
            return rank
    return len(_SCOPES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """While a failed test's groups still stand: add their logs, and have their directories kept."""
    report = yield
    if _state_dirs:
        report.procgroup_state_dirs = sorted(_state_dirs)  # type: ignore[attr-defined]
    if report.failed and call.when in ("setup", "call"):
        import sys

        module = sys.modules.get("procgroup.group")  # not imported: nothing was launched
        groups = module.open_groups() if module is not None else []
        for group in groups:
            group.failed = True
            report.sections.append(_section(group, f"{_logs(group)}kept: {group.directory}"))
        for group in _staying:
            report.sections.append(_still_up(group, _logs(group)))
    if call.when == "teardown":
        if report.failed:
            report.sections.extend(_ended)
        _ended.clear()
    return report


def _section(group: ProcessGroup, text: str) -> tuple[str, str]:
    return f"process group {group.name} {group.id}", text


def _still_up(group: ProcessGroup, logs: str) -> tuple[str, str]:
    return _section(group, f"{logs}still up: {group.directory}, `procgroup logs -g {group.id}`")


def _tails(group: ProcessGroup) -> str:
    from procgroup.group import indented, tail

    return "".join(f"{role.label}:\n{indented(tail(role))}" for role in group.all_roles())


def _close(group: ProcessGroup) -> None:
    if not group.failed:  # else its directory is kept, and named already
        _ended.append(_section(group, f"{_tails(group)}stopped in good order, so it is not kept"))
    group.close()


def _leave(group: ProcessGroup, release: Callable[[], None]) -> None:
    _staying.discard(group)
    if group.file.exists():  # else the test has stopped it
        _ended.append(_still_up(group, _tails(group)))
    release()


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
    return text


@contextlib.contextmanager
def _launcher(config: pytest.Config) -> Iterator[Callable[..., ProcessGroup]]:
    """Launches groups and, at its end, stops them all or leaves them as `--procgroup-keep` says."""
    with contextlib.ExitStack() as launched:

        def launch(
            blueprint: str | Path | None = None,
            variables: Mapping[str, Any] | None = None,
            overrides: Mapping[str, Any] | None = None,
            *,
            detach: bool = False,
            again: bool = True,
            **arguments: Any,
        ) -> ProcessGroup:
            path = _blueprint(config, blueprint)
            if config.getoption("procgroup_keep"):  # a kept group is detached: `again` says nothing
                from procgroup.keeping import acquire

                worker = getattr(config, "workerinput", {}).get("workerid", "")
                kept = acquire(path, variables, overrides, user=worker, **arguments)
                _state_dirs.add(str(kept.group.state_dir))
                _staying.add(kept.group)
                launched.callback(_leave, kept.group, kept.release)
                return kept.group
            from procgroup.group import ProcessGroup

            group = ProcessGroup.launch(
                path, variables, overrides, detach=detach, again=again, **arguments
            )
            if detach:
                _staying.add(group)
                launched.callback(_leave, group, group.close)
            else:
                launched.callback(_close, group)
            return group

        yield launch


@pytest.fixture
def launch_group(request: pytest.FixtureRequest) -> Iterator[Callable[..., ProcessGroup]]:
    """`ProcessGroup.launch`, with the blueprint from the configuration unless given.

    Groups stop when the test ends, but for those launched with `detach`. With `--procgroup-keep` all
    stay up, and `detach` and `again` say nothing.
    """
    with _launcher(request.config) as launch:
        yield launch


def _blueprint(config: pytest.Config, given: str | Path | None) -> Path:
    chosen = given or config.getini("procgroup_blueprint")
    if not chosen:
        raise pytest.UsageError(
            "no blueprint: set `procgroup_blueprint` in pytest's configuration, or mark the test "
            "with @pytest.mark.procgroup(blueprint=...)"
        )
    return config.rootpath / chosen


@pytest.fixture(scope=_scope)
def group(request: pytest.FixtureRequest) -> Iterator[ProcessGroup]:
    """A process group, ready when the test begins; how long it lives is `procgroup_scope`'s to say.

    The `procgroup` markers say how; nearer ones win, `variables` and `overrides` add up. Indirect
    parameters come last: a blueprint, or a mapping of the marker's keywords.
    """
    arguments: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("procgroup"))):
        if marker.args:
            _refuse("@pytest.mark.procgroup", ["positional arguments"])
        arguments = _merged(arguments, _checked("@pytest.mark.procgroup", marker.kwargs))
    parameter = getattr(request, "param", None)
    if isinstance(parameter, dict):
        arguments = _merged(arguments, _checked("a parameter of `group`", parameter))
    elif isinstance(parameter, str | Path):
        arguments["blueprint"] = parameter
    elif parameter is not None:
        _refuse("a parameter of `group`", [repr(parameter)])
    with _launcher(request.config) as launch:
        yield launch(**arguments)


def _checked(what: str, keywords: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(keywords) - set(_ARGUMENTS)):
        _refuse(what, unknown)
    return keywords


def _refuse(what: str, unknown: list[str]) -> None:
    raise pytest.UsageError(
        f"{what} takes the keywords {', '.join(_ARGUMENTS)}; not {', '.join(unknown)}"
    )


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
