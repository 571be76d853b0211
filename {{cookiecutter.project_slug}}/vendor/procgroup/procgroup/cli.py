"""The command `procgroup`: up, run, ps, logs, restart, stop, start, down, gc, config."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from procgroup.errors import GroupLost, ProcgroupError, UnknownGroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from procgroup.group import ProcessGroup
    from procgroup.registry import GroupRow, Registry

_WATCH = 0.25  # seconds between looks at a group in the foreground
_FOLLOW = 0.05  # seconds between looks at followed logs
_COLOURS = (36, 33, 32, 35, 34, 31, 96, 93, 92, 95)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command: list[str] | None = None
    if "--" in given:
        cut = given.index("--")
        given, command = given[:cut], given[cut + 1 :]
    options = _parser().parse_args(given)
    options.command = command
    if command is not None and options.verb not in ("up", "run"):
        print(f"procgroup {options.verb}: takes no command after --", file=sys.stderr)
        return 2
    if options.state_dir:
        os.environ["PROCGROUP_STATE_DIR"] = os.path.abspath(options.state_dir)
    try:
        status: int = options.action(options)
    except ProcgroupError as error:
        print(f"procgroup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `procgroup logs | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the interpreter's last flush
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="procgroup", description="Groups of processes that live and die together."
    )
    parser.add_argument(
        "--state-dir", help="where groups and the registry live (default: $PROCGROUP_STATE_DIR)"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, action: Any, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(action=action)
        return added

    def launching(added: argparse.ArgumentParser) -> None:
        added.add_argument("blueprint", type=Path)
        added.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="VARIABLE=VALUE",
            help="set a variable of the blueprint (the value is read as YAML)",
        )
        added.add_argument(
            "--scale", action="append", default=[], metavar="ROLE=N", help="replicas of a role"
        )
        added.add_argument(
            "--no-start",
            action="append",
            default=[],
            metavar="ROLE",
            help="prepare the role (ports, configuration) but do not start it",
        )
        added.add_argument("--supervisor", choices=("runit", "builtin"))
        added.add_argument(
            "--timeout", type=float, default=30.0, help="seconds to get ready (default: 30)"
        )

    up = verb("up", _up, "start a group; ctrl-C stops it")
    launching(up)
    up.add_argument("-d", "--detach", action="store_true", help="leave it running and return")
    run = verb("run", _run, "start a group, run the command after --, stop the group")
    launching(run)
    config = verb("config", _config, "print the resolved blueprint without starting anything")
    launching(config)

    ps = verb("ps", _ps, "list the groups of this node")
    ps.add_argument("--json", action="store_true")

    def of_group(added: argparse.ArgumentParser, roles: str | None) -> None:
        added.add_argument(
            "-g", "--group", help="id, its beginning, name or path (default: the only one running)"
        )
        if roles:
            added.add_argument("roles", nargs=roles, metavar="ROLE")

    logs = verb("logs", _logs, "print what roles have written")
    of_group(logs, "*")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("-n", "--tail", type=int, metavar="LINES", help="only the last lines")
    for name, text in (
        ("restart", "restart roles (all, if none is named)"),
        ("stop", "stop roles, keep the group (all, if none is named)"),
        ("start", "start stopped roles (all, if none is named)"),
    ):
        of_group(verb(name, _control, text), "*")
    down = verb("down", _down, "stop a group and remove it")
    of_group(down, None)
    down.add_argument("-a", "--all", action="store_true", help="every group of this node")
    gc = verb("gc", _gc, "remove what dead processes left behind")
    gc.add_argument(
        "-a", "--all", action="store_true", help="also the kept directories of failed runs"
    )
    return parser


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ProcgroupError(f"{option} {text!r}: expected NAME=VALUE")
    return name, value


def _launch_arguments(options: argparse.Namespace) -> dict[str, Any]:
    import yaml

    variables = {}
    for text in options.set:
        name, value = _pair(text, "--set")
        try:
            variables[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            variables[name] = value
    roles: dict[str, dict[str, Any]] = {}
    for text in options.scale:
        name, value = _pair(text, "--scale")
        if not value.isdigit():
            raise ProcgroupError(f"--scale {text!r}: expected ROLE=N, with N a number")
        roles.setdefault(name, {})["replicas"] = int(value)
    for name in options.no_start:
        roles.setdefault(name, {})["autostart"] = False
    return {"variables": variables, "overrides": {"roles": roles} if roles else None}


def _launch(options: argparse.Namespace, detach: bool = False) -> ProcessGroup:
    from procgroup.group import ProcessGroup

    return ProcessGroup.launch(
        options.blueprint,
        **_launch_arguments(options),
        supervisor=options.supervisor,
        timeout=options.timeout,
        detach=detach,
    )


def _interrupt(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def _describe(group: ProcessGroup) -> None:
    print(f"{group.name} is up: group {group.id}, supervisor {group.supervisor}")
    rows = [
        [
            role.label,
            ", ".join(f"{name} {role.host}:{port}" for name, port in role.ports.items()) or "-",
            str(role.log_path),
        ]
        for role in group.all_roles()
    ]
    _table(["ROLE", "PORTS", "LOG"], rows)
    if group.hint:
        print()
        print(group.hint.rstrip())
    sys.stdout.flush()


def _table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(padded).rstrip())


def _up(options: argparse.Namespace) -> int:
    if options.command is not None:
        if options.detach:
            raise ProcgroupError("up: --detach and a command after -- exclude each other")
        return _run(options)
    # Also when closed terminals or `kill` end this command, the group ends in good order.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    group = _launch(options, options.detach)
    if options.detach:
        _describe(group)
        group.close()
        return 0
    try:
        _describe(group)
        print("\nctrl-C stops it.", flush=True)
        _watch(group)
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        group.stop(graceful=True)
    return 0


def _watch(group: ProcessGroup) -> None:
    """Say when a role crashes, restarts or is given up; ends when the group does."""
    seen = {(each["role"], each["replica"]): each["restarts"] for each in group.status()}
    given_up = set()
    while True:
        time.sleep(_WATCH)
        try:
            reports = group.status()
        except GroupLost:
            print("the group has ended", flush=True)
            return
        for report in reports:
            key = report["role"], report["replica"]
            label = f"{report['role']}.{report['replica']}"
            if report["restarts"] > seen[key]:
                print(
                    f"{label}: {report['exit']}; restarted {report['restarts']} times", flush=True
                )
                seen[key] = report["restarts"]
            if report["state"] == "failed" and key not in given_up:
                given_up.add(key)
                print(
                    f"{label}: given up after a row of crashes, see its log; "
                    f"`procgroup start -g {group.id} {report['role']}` tries again",
                    flush=True,
                )


def _run(options: argparse.Namespace) -> int:
    import subprocess

    if not options.command:
        raise ProcgroupError(f"{options.verb}: expected a command after --")
    with _launch(options) as group:
        environment = os.environ | {"PROCGROUP_GROUP_FILE": str(group.file)}
        try:
            process = subprocess.Popen(options.command, env=environment)
        except OSError as error:
            raise ProcgroupError(f"cannot run {options.command[0]}: {error.strerror}") from error
        # ctrl-C is the command's to answer: it is in the same foreground process group.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: process.send_signal(number))
        status = process.wait()
        signal.signal(signal.SIGINT, before)
        if status:
            group.failed = True
            print(
                f"procgroup: {options.command[0]} ended with {status}; "
                f"logs are kept in {group.directory}",
                file=sys.stderr,
            )
    return status if status >= 0 else 128 - status


def _config(options: argparse.Namespace) -> int:
    import tempfile

    import yaml

    from procgroup.blueprint import load
    from procgroup.launching import Builder, choose_supervisor, port_requests
    from procgroup.registry import port_range

    arguments = _launch_arguments(options)
    blueprint = load(options.blueprint, arguments["variables"], arguments["overrides"])
    supervisor, programs = choose_supervisor(options.supervisor)
    requests = port_requests(blueprint)
    first = port_range()[0]
    with tempfile.TemporaryDirectory(prefix="procgroup-") as scratch:
        ports = list(range(first, first + len(requests)))
        builder = Builder(blueprint, "example", Path(scratch), ports, supervisor, programs)
        plan = builder.build(detach=False, timeout=options.timeout)
        roles: dict[str, Any] = {}
        for entry in plan["roles"]:
            role = entry["plan"]
            shown = {key: role[key] for key in ("needs", "ready", "stop_timeout") if role[key]}
            own = {
                name: value
                for name, value in role["environment"].items()
                if not name.startswith("PROCGROUP_")
            }
            roles[f"{entry['name']}.{role['replica']}"] = {
                "command": role["argv"],
                "ports": role["public"]["ports"],
                "environment": own,
                "stop_signal": signal.Signals(role["stop_signal"]).name,
                **shown,
                "configs": {
                    name: Path(path).read_text(encoding="utf-8")
                    for name, path in role["public"]["configs"].items()
                },
            }
        resolved = {
            "name": blueprint.name,
            "supervisor": supervisor,
            "variables": dict(blueprint.variables),
            "roles": roles,
        }
        text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)
    print("# ports and the directory are examples: a launch leases its own")
    print(text.replace(scratch, "<state dir>"), end="")
    return 0


def _registry() -> Registry:
    from procgroup.registry import Registry, state_directory

    return Registry(state_directory())


def _live(registry: Registry) -> list[GroupRow]:
    from procgroup.sweep import sweep

    sweep(registry)
    return [row for row in registry.groups() if row.kept is None]


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def _ps(options: argparse.Namespace) -> int:
    from procgroup.sweep import group_document, keeper_alive

    registry = _registry()
    _live(registry)  # sweeps
    found = []
    for row in registry.groups():
        document = group_document(row.directory)
        states: dict[str, int] = {}
        replicas = [
            replica
            for role in document.get("roles", {}).values()
            for replica in role.get("replicas", [])
        ]
        for replica in replicas:
            state = replica.get("state", "waiting")
            states[state] = states.get(state, 0) + 1
        if row.kept is not None:
            state = "kept"
        elif not keeper_alive(document):
            state = "starting" if time.time() - row.created < 5 else "dead"
        else:
            state = ", ".join(f"{count} {state}" for state, count in states.items())
        found.append(
            {
                "id": row.id,
                "name": row.name,
                "owner": row.owner.pid,
                "age": time.time() - row.created,
                "roles": len(replicas),
                "ports": {
                    f"{request.role}.{request.replica}.{request.name}": port
                    for port, request in registry.ports(row.id)
                },
                "state": state,
                "directory": row.directory,
            }
        )
    if options.json:
        import json

        print(json.dumps(found, indent=1))
        return 0
    rows = [
        [
            str(each["id"]),
            str(each["name"]),
            str(each["owner"]),
            _age(float(str(each["age"]))),
            str(each["roles"]),
            " ".join(map(str, each["ports"].values())) or "-",  # type: ignore[attr-defined]
            str(each["state"]),
            str(each["directory"]),
        ]
        for each in found
    ]
    _table(["GROUP", "NAME", "OWNER", "AGE", "ROLES", "PORTS", "STATE", "DIRECTORY"], rows)
    return 0


def _chosen(options: argparse.Namespace) -> ProcessGroup:
    """The group that is named, or the one this process is in, or the only one that runs."""
    from procgroup.group import ProcessGroup

    named = options.group or os.environ.get("PROCGROUP_GROUP_FILE")
    if named:
        return ProcessGroup.attach(named)
    rows = _live(_registry())
    here = os.getcwd() + os.sep
    near = [row for row in rows if row.blueprint.startswith(here)]
    candidates = rows if len(rows) == 1 else near
    if len(candidates) == 1:
        return ProcessGroup.attach(candidates[0].directory)
    if not rows:
        raise UnknownGroup("no group is running")
    names = ", ".join(f"{row.id} ({row.name})" for row in rows)
    raise UnknownGroup(f"several groups are running, choose one with -g: {names}")


def _chosen_roles(group: ProcessGroup, names: Sequence[str]) -> list[Any]:
    """Replicas by role name or label (`worker` or `worker.1`); all if none is named."""
    if not names:
        return group.all_roles()
    found = []
    for name in names:
        matching = [role for role in group.all_roles() if name in (role.name, role.label)]
        if not matching:
            raise ProcgroupError(f"no role {name!r}; the group has {', '.join(group.roles)}")
        found += matching
    return found


def _control(options: argparse.Namespace) -> int:
    with _chosen(options) as group:
        for role in _chosen_roles(group, options.roles):
            getattr(role, options.verb)()
            print(f"{role.label}: {role.state}", flush=True)
    return 0


def _down(options: argparse.Namespace) -> int:
    from procgroup.group import ProcessGroup

    if options.all:
        rows = _live(_registry())
        for row in rows:
            with contextlib.suppress(GroupLost):
                ProcessGroup.attach(row.directory).stop(graceful=True)
                print(f"{row.id} ({row.name}): stopped", flush=True)
        return 0
    group = _chosen(options)
    group.stop(graceful=True)
    print(f"{group.id} ({group.name}): stopped")
    return 0


def _gc(options: argparse.Namespace) -> int:
    from procgroup.sweep import remove_strays, sweep

    registry = _registry()
    removed = sweep(registry, kept=options.all)
    for row in removed:
        print(f"{row.id} ({row.name}): removed")
    for directory in remove_strays(registry):
        print(f"{directory}: removed (not in the registry)")
    return 0


def _logs(options: argparse.Namespace) -> int:
    from procgroup.logs import printable

    group = _chosen(options)
    roles = _chosen_roles(group, options.roles)
    width = max(len(role.label) for role in roles)
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    prefixes = []
    for place, role in enumerate(roles):
        label = role.label.ljust(width)
        colour = _COLOURS[place % len(_COLOURS)]
        prefixes.append(f"\x1b[{colour}m{label}\x1b[0m" if coloured else label)
    readers = [_lines(role.log_path, options.tail) for role in roles]
    try:
        while True:
            stamp = time.strftime("%H:%M:%S ") if options.follow else ""
            for prefix, reader in zip(prefixes, readers, strict=True):
                for line in next(reader):
                    print(f"{stamp}{prefix} | {printable(line)}")
            sys.stdout.flush()
            if not options.follow or not group.directory.exists():
                return 0
            time.sleep(_FOLLOW)
    finally:
        group.close()


def _lines(path: Path, last: int | None) -> Iterator[list[str]]:
    """The new whole lines of a growing file, each time it is asked; at first the `last` ones."""
    offset, rest, first = 0, b"", True
    while True:
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(offset)
            rest += file.read()
            offset = file.tell()
        *whole, rest = rest.split(b"\n")
        lines = [line.decode("utf-8", "replace") for line in whole]
        yield lines[-last:] if first and last else lines
        first = False
