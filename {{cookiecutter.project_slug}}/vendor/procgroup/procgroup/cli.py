"""The command `procgroup`. Words and options are those of docker compose where they mean the same."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from procgroup.discovery import Discovery
from procgroup.errors import GroupLost, ProcgroupError, UnknownGroup
from procgroup.keeping import kept_by_pytest
from procgroup.logs import Follower, printable
from procgroup.sweep import group_document, keeper_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from procgroup.group import ProcessGroup, Role
    from procgroup.registry import GroupRow, Registry

_WATCH = 0.25  # seconds between looks at a group in the foreground
_FOLLOW = 0.05  # seconds between looks at followed logs
_ALIVE = 0.5  # seconds between looks whether the followed group still lives
_COLOURS = (36, 33, 32, 35, 34, 31, 96, 93, 92, 95)
# What each verb does to roles, one after the other: downwards the dependents first, upwards last.
_STEPS = {
    "stop": ("stop",),
    "start": ("start",),
    "restart": ("stop", "start"),
    "pause": ("pause",),
    "unpause": ("resume",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status."""
    _open_standard_streams()
    try:
        status = _carry_out(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except ProcgroupError as error:
        print(f"procgroup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # a full disk, say
        unread = isinstance(error, BrokenPipeError) and _nobody_reads()  # `procgroup logs | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the interpreter's last flush
        if unread:
            return 0
        print(f"procgroup: {error}", file=sys.stderr)
        return 1
    return status


def _carry_out(given: list[str]) -> int:
    command: list[str] | None = None
    if "--" in given:
        cut = given.index("--")
        given, command = given[:cut], given[cut + 1 :]
    try:
        options = _parser().parse_args(given)
    except SystemExit:  # --help, say
        sys.stdout.flush()
        raise
    options.command = command
    if command is not None and options.verb not in ("up", "run"):
        print(f"procgroup {options.verb}: takes no command after --", file=sys.stderr)
        return 2
    if options.state_dir:
        os.environ["PROCGROUP_STATE_DIR"] = os.path.abspath(options.state_dir)
    status: int = options.action(options)
    return status


def _open_standard_streams() -> None:
    """Those that the caller has closed: sockets would get their numbers, and be taken for them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what its encoding has no character for


def _nobody_reads() -> bool:
    """Whether the other end of standard output, a pipe, is closed."""
    import select

    poll = select.poll()
    poll.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


class _Tell(argparse.Action):
    """An option that prints what `const` returns and ends, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(self.const())
        parser.exit()


def _version() -> str:
    from importlib import metadata

    try:
        return f"procgroup {metadata.version('procgroup')}"
    except metadata.PackageNotFoundError:  # a copy on the path
        return f"procgroup in {Path(__file__).parent}"


def _schema() -> str:
    return str(Path(__file__).with_name("blueprint.schema.json"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="procgroup", description="Groups of processes that live and die together."
    )
    parser.add_argument(
        "--state-dir", help="where groups and the registry live (default: $PROCGROUP_STATE_DIR)"
    )
    parser.add_argument(
        "--version", action=_Tell, nargs=0, const=_version, help="print the version"
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
            "--timeout", type=_seconds, default=30.0, help="seconds to get ready (default: 30)"
        )

    up = verb("up", _up, "start a group; ctrl-C stops it")
    launching(up)
    up.add_argument("-d", "--detach", action="store_true", help="leave it running and return")
    run = verb("run", _run, "start a group, run the command after --, stop the group")
    launching(run)
    config = verb("config", _config, "print the resolved blueprint without starting anything")
    launching(config)
    config.add_argument("-q", "--quiet", action="store_true", help="only check, print nothing")
    config.add_argument("--services", action="store_true", help="print the roles' names only")
    config.add_argument(
        "--schema",
        action=_Tell,
        nargs=0,
        const=_schema,
        help="print where the JSON Schema of blueprints lies",
    )

    def of_group(
        added: argparse.ArgumentParser, roles: str | None, what: str = "the group"
    ) -> None:
        added.add_argument(
            "-g",
            "--group",
            help=f"{what}: id, its beginning, name or path (default: the only one running)",
        )
        if roles:
            added.add_argument("roles", nargs=roles, metavar="ROLE")

    def stopping(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "-t",
            "--timeout",
            type=_patience,
            metavar="SECONDS",
            help="how long a role may take to stop before it is killed (default: its stop_timeout)",
        )

    ps = verb("ps", _ps, "list the groups of the state directory; with -g the roles of one")
    of_group(ps, None, "the group whose roles to list")
    ps.add_argument("-q", "--quiet", action="store_true", help="only ids (with -g: only pids)")
    ps.add_argument("--format", choices=("table", "json"), default="table")

    logs = verb("logs", _logs, "print what roles have written")
    of_group(logs, "*")
    logs.add_argument(
        "-f", "--follow", action="store_true", help="go on as long as the group lives"
    )
    logs.add_argument(
        "-n", "--tail", type=_line_count, metavar="LINES", help="only the last lines, or `all`"
    )
    logs.add_argument("--no-color", action="store_true", help="no colours (also: NO_COLOR)")
    logs.add_argument("--no-log-prefix", action="store_true", help="the bare lines")
    for name, text in (
        ("restart", "restart roles (all, if none is named)"),
        ("stop", "stop roles, keep the group (all, if none is named)"),
        ("start", "start stopped roles (all, if none is named)"),
        ("pause", "SIGSTOP roles, or freeze their containers"),
        ("unpause", "the end of pause"),
    ):
        control = verb(name, _control, text)
        of_group(control, "*")
        if name in ("stop", "restart"):
            stopping(control)
    kill = verb("kill", _kill, "kill roles, or send them another signal; killed ones restart")
    of_group(kill, "*")
    kill.add_argument("-s", "--signal", default="KILL", help="KILL, HUP, USR1 ... (default: KILL)")
    down = verb("down", _down, "stop a group and remove it")
    of_group(down, None)
    stopping(down)
    down.add_argument("-a", "--all", action="store_true", help="every group of the state directory")
    gc = verb("gc", _gc, "remove what dead processes left behind")
    gc.add_argument(
        "-a",
        "--all",
        action="store_true",
        help="also the directories of failed runs, groups that `pytest --procgroup-keep` left, and "
        "detached ones whose group.json is gone",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, more than 0")
    return seconds


def _patience(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _line_count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of lines, or `all`")
    return int(text)


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
        except (yaml.YAMLError, ValueError):  # the latter of a date that no calendar has
            variables[name] = value
    roles: dict[str, dict[str, Any]] = {}
    for text in options.scale:
        name, value = _pair(text, "--scale")
        if not value.isdecimal():
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
        again=False,
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
    _on_hang_up_or_term(_interrupt)
    group = _launch(options, options.detach)
    if options.detach:
        try:
            _describe(group)
        except BrokenPipeError:
            raise
        except BaseException:  # nobody was told of it
            group.stop()
            raise
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


def _on_hang_up_or_term(handler: Callable[[int, Any], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup
            signal.signal(number, handler)


def _watch(group: ProcessGroup) -> None:
    """Say when a role crashes, restarts or is given up; ends when the group does."""
    seen: dict[tuple[str, int], int] = {}
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
            if report["restarts"] > seen.get(key, 0):
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
        _on_hang_up_or_term(lambda number, _: process.send_signal(number))
        status = process.wait()
        signal.signal(signal.SIGINT, before)
        group.failed = bool(status)
    if status:
        kept = f"; logs are kept in {group.directory}" if group.directory.exists() else ""
        print(f"procgroup: {options.command[0]} ended with {status}{kept}", file=sys.stderr)
    return status if status >= 0 else 128 - status


def _config(options: argparse.Namespace) -> int:
    from procgroup.blueprint import load
    from procgroup.preview import resolve

    arguments = _launch_arguments(options)
    blueprint = load(options.blueprint, arguments["variables"], arguments["overrides"])
    resolved = resolve(blueprint, options.supervisor)
    if options.services:
        print(*blueprint.roles, sep="\n")
    elif not options.quiet:
        import yaml

        print("# ports and the directory are examples: a launch leases its own")
        print(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), end="")
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
    if options.group:
        head, found, rows, ids = _roles_of(options)
    else:
        head, found, rows, ids = _groups()
    if options.quiet:
        for each in ids:
            print(each)
    elif options.format == "json":
        import json

        print(json.dumps(found, indent=1))
    else:
        _table(head, rows)
    return 0


_Listing = tuple[list[str], list[dict[str, Any]], list[list[str]], list[str]]


def _groups() -> _Listing:
    """Head, data, rows and ids of all groups."""
    registry = _registry()
    _live(registry)  # sweeps
    found: list[dict[str, Any]] = []
    rows = []
    for row in registry.groups():
        document = group_document(row.directory)
        roles = {name: role["replicas"] for name, role in document.get("roles", {}).items()}
        ports = {
            f"{request.role}.{request.replica}.{request.name}": port
            for port, request in registry.ports(row.id)
        }
        state = _group_state(row, document)
        owner = _command_of(row.owner.pid) if document.get("owner") else "detached"
        owner = f"{row.owner.pid} {owner}" if row.kept is None else "-"
        kept = kept_by_pytest(row.directory)
        age = time.time() - row.created
        found.append(
            {
                "id": row.id,
                "name": row.name,
                "owner": row.owner.pid,
                "age": age,
                "roles": {name: len(replicas) for name, replicas in roles.items()},
                "ports": ports,
                "state": state,
                "kept_by_pytest": kept,
                "blueprint": row.blueprint,
                "directory": row.directory,
            }
        )
        names = [
            name if len(replicas) == 1 else f"{name}*{len(replicas)}"
            for name, replicas in roles.items()
        ]
        rows.append(
            [
                row.id,
                row.name,
                "pytest --procgroup-keep" if kept else owner,
                _age(age),
                " ".join(names) or "-",
                " ".join(map(str, ports.values())) or "-",
                state,
                row.directory,
            ]
        )
    head = ["GROUP", "NAME", "OWNER", "AGE", "ROLES", "PORTS", "STATE", "DIRECTORY"]
    return head, found, rows, [str(each["id"]) for each in found]


def _group_state(row: GroupRow, document: dict[str, Any]) -> str:
    if row.kept is not None:
        return "kept"
    if not keeper_alive(document):
        if time.time() - row.created < 5:
            return "starting"
        return "dead" if document or not row.owner_alive() else "lost"
    states: dict[str, int] = {}
    for role in document["roles"].values():
        for replica in role["replicas"]:
            state = replica.get("state", "waiting")
            states[state] = states.get(state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in states.items())


def _command_of(pid: int) -> str:
    """The program that a process runs, for a person; empty when that cannot be known."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return printable(file.read().strip())
    except OSError:
        return ""


def _roles_of(options: argparse.Namespace) -> _Listing:
    """Head, data, rows and pids of one group's roles."""
    with _chosen(options) as group:
        reports = {(each["role"], each["replica"]): each for each in group.status()}
        found = [
            {
                **reports[role.name, role.replica],
                "ports": role.ports,
                "command": role.command,
                "log": str(role.log_path),
            }
            for role in group.all_roles()
        ]
    rows = [
        [
            f"{each['role']}.{each['replica']}",
            str(each["pid"] or "-"),
            each["state"],
            str(each["restarts"]),
            each["exit"] or "-",
            " ".join(f"{name}:{port}" for name, port in each["ports"].items()) or "-",
            each["log"],
        ]
        for each in found
    ]
    head = ["ROLE", "PID", "STATE", "RESTARTS", "LAST END", "PORTS", "LOG"]
    return head, found, rows, [str(each["pid"]) for each in found if each["pid"]]


def _chosen(options: argparse.Namespace) -> ProcessGroup:
    """The group that is named, or the one this process is in, or the only one that runs."""
    from procgroup.group import ProcessGroup

    return ProcessGroup.attach(_chosen_directory(options, running=True))


def _chosen_directory(options: argparse.Namespace, *, running: bool = False) -> Path:
    """Where the chosen group lies; unless it must be `running`, a kept one may be named."""
    from procgroup.group import directory_named, rows_meant

    named = options.group or os.environ.get("PROCGROUP_GROUP_FILE")
    if named and (directory := directory_named(named)) is not None:
        return directory
    registry = _registry()
    rows = _live(registry)
    if named:
        found = rows_meant(named, rows) or rows_meant(named, registry.groups())
        if running and found and all(row.kept is not None for row in found):
            raise GroupLost(
                f"the group {found[0].id} ({found[0].name}) no longer runs; its directory is kept, "
                "`procgroup gc --all` removes it"
            )
        return _only(found, f"there is no group {named!r}", rows)
    if len(rows) != 1:
        here = os.getcwd() + os.sep
        near = [row for row in rows if row.blueprint.startswith(here)]
        return _only(near or rows, "no group is running", rows)
    return Path(rows[0].directory)


def _only(found: list[GroupRow], missing: str, running: list[GroupRow]) -> Path:
    if len(found) == 1:
        return Path(found[0].directory)
    names = ", ".join(f"{row.id} ({row.name})" for row in found or running)
    if found:
        raise UnknownGroup(f"several groups are running, choose one with -g: {names}")
    raise UnknownGroup(f"{missing}; running: {names}" if running else missing)


def _chosen_roles(group: ProcessGroup | Discovery, names: Sequence[str]) -> list[Any]:
    """Replicas by role name or label (`worker` or `worker.1`); all if none is named."""
    everything: list[Any] = list(group.all_roles())
    if not names:
        return everything
    found = []
    for name in names:
        matching = [role for role in everything if name in (role.name, role.label)]
        if not matching:
            raise ProcgroupError(f"no role {name!r}; the group has {', '.join(group.roles)}")
        found += matching
    return found


def _control(options: argparse.Namespace) -> int:
    steps = _STEPS[options.verb]
    details = {"stop": {"patience": getattr(options, "timeout", None)}}
    with _chosen(options) as group:
        needed_first = _needed_first(group, _chosen_roles(group, options.roles))
        for step in steps:
            up = step in ("start", "resume")
            for role in needed_first if up else reversed(needed_first):
                getattr(role, step)(**details.get(step, {}))
                if step == steps[-1]:
                    print(f"{role.label}: {role.state}", flush=True)
    return 0


def _needed_first(group: ProcessGroup, roles: list[Role]) -> list[Role]:
    from procgroup.blueprint import start_order

    known = group_document(str(group.directory)).get("roles", {})
    order = start_order({name: role.get("needs", ()) for name, role in known.items()})
    places = {name: place for place, name in enumerate(order)}
    return sorted(roles, key=lambda role: places.get(role.name, 0))


def _kill(options: argparse.Namespace) -> int:
    wanted = options.signal.upper().removeprefix("SIG")
    signals = _signals()
    name = next((name for name, number in signals.items() if wanted in (name, str(number))), None)
    if name is None:
        raise ProcgroupError(f"--signal {options.signal!r}: there is no such signal")
    with _chosen(options) as group:
        idle = []
        roles = _chosen_roles(group, options.roles)
        for role in roles:
            runs = role.pid is not None
            if runs and name == "KILL":
                role.kill()  # and wait until it is dead
            elif not runs or not role.signal(signals[name]):
                idle.append(role.label)
                continue
            print(f"{role.label}: SIG{name}", flush=True)
        # Where none is named, those that run are meant.
        if idle and (options.roles or len(idle) == len(roles)):
            verb = "does" if len(idle) == 1 else "do"
            raise ProcgroupError(f"{', '.join(idle)} {verb} not run: nothing to signal")
    return 0


def _signals() -> dict[str, int]:
    """Every signal by its names, without SIG; the real-time ones also counted from both ends."""
    found = {
        name.removeprefix("SIG"): int(each) for name, each in signal.Signals.__members__.items()
    }
    first, last = found.get("RTMIN", 1), found.get("RTMAX", 0)
    for number in range(first, last + 1):
        found.setdefault(f"RTMIN+{number - first}", number)
        found.setdefault(f"RTMAX-{last - number}", number)
    return found


def _down(options: argparse.Namespace) -> int:
    from procgroup.group import ProcessGroup
    from procgroup.sweep import end_lost

    if options.all:
        registry = _registry()
        for row in _live(registry):
            try:
                ProcessGroup.attach(row.directory).stop(graceful=True, patience=options.timeout)
            except (GroupLost, UnknownGroup):
                if not end_lost(row):
                    continue  # another has taken it down
            print(f"{row.id} ({row.name}): stopped", flush=True)
        _live(registry)  # sweeps, where a keeper had to be killed
        return 0
    group = _chosen(options)
    group.stop(graceful=True, patience=options.timeout)
    print(f"{group.id} ({group.name}): stopped")
    return 0


def _gc(options: argparse.Namespace) -> int:
    from procgroup import containers
    from procgroup.group import ProcessGroup
    from procgroup.sweep import remove_strays, sweep

    registry = _registry()
    for row in registry.groups() if options.all else ():
        if row.kept is None and kept_by_pytest(row.directory):
            with contextlib.suppress(GroupLost, UnknownGroup):  # another has taken it down
                ProcessGroup.attach(row.directory).stop(graceful=True)
                print(f"{row.id} ({row.name}): stopped")
    removed = sweep(registry, kept=options.all)
    for row in removed:
        print(f"{row.id} ({row.name}): removed")
    for directory in remove_strays(registry):
        print(f"{directory}: removed (not in the registry)")
    for name in containers.remove_strays(registry):
        print(f"{name}: removed (a container that is not in the registry)")
    return 0


def _logs(options: argparse.Namespace) -> int:
    directory = _chosen_directory(options)
    if not group_document(str(directory)):
        raise UnknownGroup(f"{directory}: there is no readable group.json")
    roles = _chosen_roles(Discovery(directory / "group.json"), options.roles)
    coloured = sys.stdout.isatty() and not options.no_color and not os.environ.get("NO_COLOR")
    prefixes = _prefixes([role.label for role in roles], coloured)
    if options.no_log_prefix:
        prefixes = ["" for _ in roles]
    followers = [Follower(role.log_path, options.tail) for role in roles]
    # When a line was written is known only for those that arrive before our eyes.
    stamp = " " * 9 if options.follow else ""
    checked = 0.0
    while True:
        ended = not options.follow
        if time.monotonic() - checked > _ALIVE:
            checked = time.monotonic()
            ended = ended or not keeper_alive(group_document(str(directory)))
        for prefix, follower in zip(prefixes, followers, strict=True):
            for line in follower.finish() if ended else follower.read():
                shown = "" if options.no_log_prefix else stamp
                print(f"{shown}{prefix}{printable(line)}")
        sys.stdout.flush()
        if ended:
            return 0
        time.sleep(_FOLLOW)
        stamp = time.strftime("%H:%M:%S ")


def _prefixes(labels: list[str], coloured: bool) -> list[str]:
    width = max(map(len, labels), default=0)
    return [
        f"\x1b[{_COLOURS[place % len(_COLOURS)]}m{label.ljust(width)} |\x1b[0m "
        if coloured
        else f"{label.ljust(width)} | "
        for place, label in enumerate(labels)
    ]
