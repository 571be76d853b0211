"""Launching, finding and driving groups: the package's main interface."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from procgroup import processes, wardens
from procgroup.channel import Channel, connect_unix
from procgroup.discovery import RoleInfo
from procgroup.errors import (
    GroupLost,
    LaunchError,
    NotReady,
    ProcgroupError,
    RegistryError,
    UnknownGroup,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from procgroup.blueprint import Blueprint
    from procgroup.registry import GroupRow, Registry
    from procgroup.wardens import Warden

_lock = threading.RLock()  # guards the two tables below, and the registry's connection
_registries: dict[Path, Registry] = {}
_open_groups: set[ProcessGroup] = set()

_SLACK = 5.0  # seconds beyond a keeper's own time limit until it counts as hung
_SIGNAL_LATE = 0.2  # seconds, at most, until a signal is heard


def _registry(state_dir: Path) -> Registry:
    """This process's connection, to be used under the lock; reopened when the file was replaced."""
    from procgroup.registry import Registry

    registry = _registries.pop(state_dir, None)
    if registry is not None and registry.replaced():
        registry.close()
        registry = None
    if registry is None:
        while len(_registries) >= wardens.MOST:
            _registries.pop(next(iter(_registries))).close()  # the one used least lately
        registry = Registry(state_dir)
    _registries[state_dir] = registry
    return registry


def open_groups() -> list[ProcessGroup]:
    """The groups that this process launched and has not stopped yet, oldest first."""
    return sorted(_open_groups, key=lambda group: group.created)


def shut_down(timeout: float = 20.0) -> None:
    """Stop every group and warden of this process. Runs at exit; may be called earlier."""
    for group in list(_open_groups):
        with contextlib.suppress(ProcgroupError, OSError):
            group.stop()
    wardens.close_all(timeout)
    with _lock:
        for registry in _registries.values():
            registry.close()
        _registries.clear()


def _after_fork_in_child() -> None:
    """A forked child must hold none of the leases, or its life would keep the groups alive."""
    global _lock
    _lock = threading.RLock()
    wardens.forget_all()
    for group in _open_groups:
        group._forget()
    _open_groups.clear()
    _abandoned.append(dict(_registries))  # SQLite forbids even closing across a fork
    _registries.clear()


_abandoned: list[dict[Path, Registry]] = []
os.register_at_fork(after_in_child=_after_fork_in_child)


def _shut_down_at_exit() -> None:
    while True:
        try:
            return shut_down()
        except KeyboardInterrupt:  # that ends a wait, and nothing that is to be done
            pass


atexit.register(_shut_down_at_exit)


class _Connection:
    """Requests to a keeper, one at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._channel = Channel(connection)
        self._lock = threading.Lock()
        self._number = 0
        self._lost = "killed, or its group was stopped by another process"

    def call(self, name: str, limit: float, /, **arguments: Any) -> Any:
        """The result of a request, or GroupLost when the keeper is gone or silent for `limit` s.

        Raises _Refused when the keeper says no.
        """
        with self._lock:
            if self._channel.closed:
                raise GroupLost("the group has ended")
            self._number += 1
            number = self._number
            self._channel.connection.settimeout(limit)
            if not self._channel.send({"call": name, "id": number, **arguments}):
                self._channel.closed = True
            deadline = time.monotonic() + limit
            while not self._channel.closed:
                if (left := deadline - time.monotonic()) <= 0:
                    self._channel.closed = True
                    raise GroupLost(
                        f"the group's keeper did not answer {name!r} within {limit:.1f} s"
                    )
                for message in self._receive(left):
                    if message.get("id") == number:
                        if "error" in message:
                            raise _Refused(message)
                        return message["result"]
            raise self._gone()

    def hello(self, limit: float) -> int:
        """The keeper's pid, with which it greets. Raises GroupLost when it does not."""
        deadline = time.monotonic() + limit
        while not self._channel.closed and (left := deadline - time.monotonic()) > 0:
            for message in self._receive(left):
                if "hello" in message:
                    return int(message["hello"])
        raise self._gone()

    def _gone(self) -> GroupLost:
        return GroupLost(
            f"the group's keeper is gone ({self._lost}); its processes are gone with it"
        )

    def _receive(self, left: float) -> list[dict[str, Any]]:
        """What arrives within `left` seconds, or a part of them: a signal that comes between Python's
        last look and the wait is not heard before that ends, and ctrl-C would be lost."""
        self._channel.connection.settimeout(min(left, _SIGNAL_LATE))
        messages = self._channel.receive()
        for message in messages:
            self._lost = message.get("lost", self._lost)
        return messages

    def wait_closed(self, limit: float) -> bool:
        """Wait for the keeper's end, which closes its side."""
        deadline = time.monotonic() + limit
        while not self._channel.closed and (left := deadline - time.monotonic()) > 0:
            self._receive(left)
        return self._channel.closed

    def close(self) -> None:
        self._channel.close()


class _Refused(ProcgroupError):
    """The keeper's no; turned into an error that says more where more is known."""

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__(message["error"])
        self.text: str = message["error"]
        self.roles: list[dict[str, Any]] = message.get("roles", [])


class Role(RoleInfo):
    """One replica of a role of a running group."""

    def __init__(self, group: ProcessGroup, name: str, document: dict[str, Any]) -> None:
        super().__init__(name, document)
        self._group = group

    @property
    def replicas(self) -> list[Role]:
        """All replicas of this role."""
        return self._group._replicas[self.name]

    def status(self) -> dict[str, Any]:
        """The keeper's view: state, pid, exit (of the last incarnation, as text), restarts."""
        for report in self._group.status():
            if report["role"] == self.name and report["replica"] == self.replica:
                return report
        raise GroupLost(f"the keeper knows no role {self.label}")

    @property
    def pid(self) -> int | None:
        """The main process now; None while there is none."""
        pid: int | None = self.status()["pid"]
        return pid

    @property
    def state(self) -> str:
        """waiting, starting, ready, paused, back-off, stopping, stopped or failed."""
        state: str = self.status()["state"]
        return state

    @property
    def running(self) -> bool:
        """Whether there is a process and it is not about to be stopped."""
        return self.state in ("starting", "ready", "paused")

    def children(self) -> list[int]:
        """The live descendants of the role's main process."""
        pid = self.pid
        return [] if pid is None else processes.descendants(pid)

    def stop(self, timeout: float | None = None, *, patience: float | None = None) -> None:
        """Signal the whole process group (`stop_signal`), SIGKILL it after `patience` seconds, by
        default the role's `stop_timeout`.

        Returns when it is gone; it stays down until `start`. Raises NotReady after `timeout` seconds,
        by default a minute more than the group's roles may take to stop.
        """
        self._control("stop", self._limit(timeout, patience), patience)

    def start(self, timeout: float = 30.0) -> None:
        """Start a stopped or given-up role, or resume a paused one, and wait until it is ready.

        Raises NotReady.
        """
        self._control("start", timeout)

    def restart(self, timeout: float | None = None, *, patience: float | None = None) -> None:
        """`stop`, then `start`: returns when the role is ready again, on the same ports."""
        self._control("restart", self._limit(timeout, patience), patience)

    def _limit(self, timeout: float | None, patience: float | None) -> float:
        if timeout is not None:
            return timeout
        return self._group._stop_timeout + (patience or 0.0) + 60.0

    def kill(self, timeout: float = 30.0) -> None:
        """SIGKILL the main process; returns when it is dead. The supervisor starts it again."""
        self._control("kill", timeout)

    def pause(self) -> None:
        """SIGSTOP the whole process group, until `resume`; returns when the main process stands."""
        self._control("pause", 30.0)

    def resume(self) -> None:
        """SIGCONT the whole process group."""
        self._control("resume", 30.0)

    def signal(self, number: int | signal.Signals) -> bool:
        """Send a signal to the main process alone; False when there is none.

        Raises ProcgroupError when there is no such signal, or the role may not be sent it.
        """
        if number not in {0, *signal.valid_signals()}:
            raise ProcgroupError(f"there is no signal {number}")
        sent: bool = self._group._call(
            "signal", 30.0, role=self.name, replica=self.replica, number=int(number)
        )
        return sent

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the role is ready. Raises NotReady after `timeout` seconds."""
        self._control("wait_ready", timeout)

    def _control(self, call: str, timeout: float, patience: float | None = None) -> None:
        began = time.monotonic()
        which = {"role": self.name, "replica": self.replica}
        try:
            self._group._call(call, timeout + _SLACK, **which, timeout=timeout, patience=patience)
        except _Refused as refusal:
            waited = time.monotonic() - began
            described = [
                describe(self, report, refusal.text, waited, _MISSED.get(call, "is not ready"))
                for report in refusal.roles
                if report["role"] == self.name and report["replica"] == self.replica
            ]
            problem = "".join(described) or refusal.text
            raise NotReady(f"{call} of {self.label}: {problem}") from None


_MISSED = {"stop": "has not stopped", "kill": "is not dead"}


def describe(
    role: RoleInfo,
    report: Mapping[str, Any],
    reason: str,
    waited: float,
    missed: str = "is not ready",
) -> str:
    """A role's trouble for a person: state, command, exit status, log tail."""
    import shlex

    states = {
        "failed": "gave up after a row of crashes",
        "back-off": "crashed, waiting for its next start",
        "waiting": "waits for the roles it needs",
        "starting": "runs, but is not ready",
        "stopping": "has its stop signal, and time to obey",
    }
    state = states.get(report["state"], str(report["state"]))
    text = f"{role.label} {missed} after {waited:.2f} s ({reason}): {state}\n"
    text += f"  command: {shlex.join(role.command)}\n"
    if report.get("problem"):
        text += f"  problem: {report['problem']}\n"
    if report.get("exit"):
        text += f"  last end: {report['exit']}, restarted {report['restarts']} times\n"
    return text + f"  log ({role.log_path}):\n{indented(tail(role))}"


def tail(role: RoleInfo, lines: int = 20) -> str:
    """The last lines of a role's log, made safe for a terminal."""
    from procgroup import logs

    return logs.tail(role.log_path, lines)


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


class _PortTaken(LaunchError):
    """A port was free when it was leased, and somebody who has no lease was quicker to use it."""

    def __init__(self, message: str, group: ProcessGroup) -> None:
        super().__init__(message)
        self.group = group


_ATTEMPTS = 3  # to launch a group, when its ports are taken by others, or its warden is killed
_DYING = 0.1  # seconds that a killed warden takes to end, at most


def _listening(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


class ProcessGroup:
    """A running group of processes. Use `launch` or `attach`."""

    def __init__(self, document: dict[str, Any], connection: _Connection, *, owned: bool) -> None:
        self.id: str = document["id"]
        self.name: str = document["name"]
        self.directory = Path(document["directory"])
        self.file = self.directory / "group.json"
        self.supervisor: str = document["supervisor"]
        self.variables: dict[str, Any] = document["variables"]
        self.state_dir = Path(document["state_dir"])
        self.created: float = document["created"]  # seconds since the epoch
        self._stop_timeout: float = document["stop_timeout"]
        self.hint: str | None = None
        self.failed = False
        """Set to keep the directory (logs, configs) when the group stops."""
        self._connection = connection
        self._owned = owned
        self._stopped = False
        self._replicas = {
            name: [Role(self, name, replica) for replica in role["replicas"]]
            for name, role in document["roles"].items()
        }
        self.roles = {name: found[0] for name, found in self._replicas.items() if found}

    @classmethod
    def launch(
        cls,
        blueprint: str | os.PathLike[str],
        variables: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        supervisor: str | None = None,
        timeout: float = 30.0,
        detach: bool = False,
        again: bool = True,
        _mark: Callable[[Path], Path] | None = None,
    ) -> ProcessGroup:
        """Start a group and wait until every role is ready.

        `variables` replace the blueprint's; `overrides` are laid over it (see `blueprint.load`);
        `state_dir` is where groups and the registry live; `supervisor` is "runit", "builtin" or
        None for the best there is; `timeout` is in seconds. With `detach` the group outlives this
        process. `again`: whether this process is likely to launch more; roles' `preload` modules
        are then imported in the background, for the next group to be forked with.

        Raises BlueprintError, PortsExhausted and other RegistryErrors, GroupLost when its keeper is
        killed meanwhile, and LaunchError, which leaves the group's directory for inspection;
        nothing else of a failed launch remains.
        """
        from procgroup.registry import state_directory

        state = state_directory(state_dir)
        wardens.expect(state)  # it gets ready while this process reads YAML
        from procgroup.blueprint import load
        from procgroup.launching import choose_supervisor, preloads

        chosen, programs = choose_supervisor(supervisor, state)
        read: Blueprint = load(blueprint, variables, overrides)
        modules = preloads(read, supervisor)
        for attempt in range(1, _ATTEMPTS + 1):
            warden, lease = wardens.new_keeper(state, modules)
            connection = _Connection(lease)
            try:
                group = cls._launch(
                    connection, warden, state, read, chosen, programs, timeout, detach, _mark
                )
                break
            except _PortTaken as error:
                connection.close()
                if attempt == _ATTEMPTS:
                    raise LaunchError(str(error)) from None
                error.group._discard()
            except GroupLost:
                connection.close()
                # Killed a moment ago, it still took the request; any other keeper's end is told.
                if attempt == _ATTEMPTS or not warden.ends_within(_DYING):
                    raise
            except BaseException:
                connection.close()  # which ends the keeper, if it has not ended
                raise
        if modules and again and not detach:
            wardens.warm_up(state, modules)
        return group

    @classmethod
    def _launch(
        cls,
        connection: _Connection,
        warden: Warden,
        state: Path,
        blueprint: Blueprint,
        chosen: str,
        programs: dict[str, str],
        timeout: float,
        detach: bool,
        mark: Callable[[Path], Path] | None,
    ) -> ProcessGroup:
        from procgroup.launching import Builder, port_requests
        from procgroup.registry import Owner
        from procgroup.sweep import sweep

        # A detached group is its keeper's from the first: whenever this process dies, it has an owner.
        keeper = connection.hello(timeout + _SLACK) if detach else None
        with _lock:
            registry = _registry(state)
            running = wardens.running()
            one_is_lost = registry.wardens is None or not registry.wardens <= running
            registry.wardens = running
            sweep(registry, keepers=one_is_lost)
            owner = _this_owner() if keeper is None else Owner.of(keeper)
            group_id = registry.unused_id()
        began = time.monotonic()
        group = None
        try:
            with _lock:
                _, ports = registry.register(
                    blueprint.name,
                    str(blueprint.file),
                    owner,
                    port_requests(blueprint),
                    group_id,
                )
            warm = warden if isinstance(warden, wardens.WarmWarden) else None
            builder = Builder(blueprint, group_id, state, ports, chosen, programs, warm)
            plan = builder.build(detach=detach, timeout=timeout)
            plan["environment"] = warden.changes()
            group = cls(plan["document"], connection, owned=not detach)
            group.hint = builder.hint()
            if not detach:
                _open_groups.add(group)
            if mark is not None:
                plan["mark"] = str(mark(group.directory))
            connection.call("begin", timeout + _SLACK, plan=plan)
            warden.detached = warden.detached or detach
        except _Refused as refusal:
            assert group is not None
            message = group._failure(refusal, time.monotonic() - began)
            group._owned = True
            group.failed = True
            group.stop()
            if group._port_taken(refusal):
                raise _PortTaken(message, group) from None
            raise LaunchError(message) from None
        except BaseException:
            if group is not None:
                group._owned = True
                with contextlib.suppress(ProcgroupError):
                    group.stop()
            connection.close()
            # A keeper that was not told to begin knows of no directory.
            processes.remove_tree(str(state / "groups" / group_id))
            with _lock, contextlib.suppress(RegistryError):  # it may be why this fails
                _registry(state).release(group_id)
            raise
        return group

    def _port_taken(self, refusal: _Refused) -> bool:
        """Whether somebody listens on a port of a role that failed, now that the group is gone."""
        for report in refusal.roles:
            role = self._replicas[report["role"]][report["replica"]]
            if report["state"] not in ("ready", "stopped") and any(
                _listening(role.host, port) for port in role.ports.values()
            ):
                return True
        return False

    def _discard(self) -> None:
        """Remove what a failed group that has stopped has left for inspection."""
        processes.remove_tree(str(self.directory))
        with _lock:
            _registry(self.state_dir).release(self.id)

    def _failure(self, refusal: _Refused, waited: float) -> str:
        text = f"the group {self.name} ({self.id}) did not get ready\n"
        for report in refusal.roles:
            if report["state"] in ("ready", "stopped"):
                continue
            role = self._replicas[report["role"]][report["replica"]]
            gave_up = refusal.text == "crash loop" and report["state"] != "failed"
            reason = "another role gave up" if gave_up else refusal.text
            text += describe(role, report, reason, waited)
        if not refusal.roles:
            text += f"{refusal.text}\n"
        return text + f"kept for inspection: {self.directory}"

    @classmethod
    def attach(
        cls,
        group: str | os.PathLike[str],
        state_dir: str | os.PathLike[str] | None = None,
        *,
        by_name: bool = False,
    ) -> ProcessGroup:
        """Drive a group that another process launched.

        `group` is the path of its group.json or directory, or else, in this order, its id, its
        blueprint's name when only one such group runs, or the beginning of its id; with `by_name`
        it is that name and nothing else. Closing an attached group only disconnects; `stop` stops
        it. Raises UnknownGroup and GroupLost.
        """
        from procgroup.registry import state_directory
        from procgroup.sweep import group_document

        directory = _find_group(os.fspath(group), state_directory(state_dir), by_name)
        document = group_document(str(directory))
        if not document:
            raise UnknownGroup(
                f"{directory}: there is no readable group.json; if its group runs, "
                "`procgroup gc --all` ends it"
            )
        try:
            connection = connect_unix(document["control"], 5.0)
        except OSError as error:
            raise GroupLost(
                f"the group {document['id']} does not run: its keeper does not answer ({error}); "
                "`procgroup gc --all` removes what it left"
            ) from error
        return cls(document, _Connection(connection), owned=False)

    def __getitem__(self, which: str | tuple[str, int]) -> Role:
        """`group["worker"]` is replica 0, `group["worker", 1]` the next. Raises KeyError."""
        name, replica = (which, 0) if isinstance(which, str) else which
        if name not in self._replicas:
            raise KeyError(f"no role {name!r}; the group has {', '.join(self._replicas)}")
        found = self._replicas[name]
        if not 0 <= replica < len(found):
            raise KeyError(f"role {name!r} has {len(found)} replica(s), none numbered {replica}")
        return found[replica]

    def __repr__(self) -> str:
        return f"<ProcessGroup {self.name} {self.id}>"

    def all_roles(self) -> list[Role]:
        """Every replica of every role, in the blueprint's order."""
        return [role for replicas in self._replicas.values() for role in replicas]

    def status(self) -> list[dict[str, Any]]:
        """The keeper's view of every replica; see `Role.status`."""
        reports: list[dict[str, Any]] = self._call("status", 30.0)
        return reports

    def _call(self, name: str, limit: float, /, **arguments: Any) -> Any:
        if self._stopped:
            raise GroupLost(f"the group {self.id} has been stopped")
        return self._connection.call(name, limit, **arguments)

    def stop(self, *, graceful: bool = False, patience: float | None = None) -> None:
        """End every process of the group, free its ports, remove its directory.

        Fast by default: SIGKILL for all but roles that ask for `graceful: true`. With `graceful`
        every role gets its stop signal and `patience` seconds, by default its `stop_timeout`,
        dependents first. With `failed` set, the directory stays. A second call does nothing.
        """
        if self._stopped:
            return
        try:
            try:
                self._end(graceful, patience)
            except KeyboardInterrupt:  # a person who presses ctrl-C again means it
                self._end(graceful=False)
                raise
        except GroupLost:
            self._clear_after_lost_keeper()
        finally:
            self._stopped = True
            _open_groups.discard(self)
            self._connection.close()
            with _lock:
                registry = _registry(self.state_dir)
                if self.failed and self.directory.exists():
                    registry.keep(self.id)
                else:
                    registry.release(self.id)

    def _end(self, graceful: bool, patience: float | None = None) -> None:
        limit = self._stop_timeout + 2 * _SLACK
        if patience is not None:
            limit += patience * len(self.all_roles())  # one after the other, at the most
        ended = self._call(
            "teardown", limit, graceful=graceful, patience=patience, keep=self.failed
        )
        if ended and ended["kept"]:  # an older keeper says nothing
            self.failed = True  # its directory may be one that could not be removed
        self._connection.wait_closed(_SLACK)

    def _clear_after_lost_keeper(self) -> None:
        """The warden kills what a killed keeper leaves; if it was killed too, that is up to us."""
        from procgroup.sweep import clear_groups, group_document, keeper_alive, remove_groups

        self._connection.close()
        directory = str(self.directory)
        document = group_document(directory)
        if keeper_alive(document):  # hung: it did not answer
            processes.send(document["keeper"]["pid"], signal.SIGKILL)
        if self.failed:
            clear_groups({self.id: directory})
        elif remove_groups({self.id: directory}):
            self.failed = True  # what is left of it stays known

    def close(self) -> None:
        """Stop a group that this process launched; disconnect from any other."""
        if self._owned:
            self.stop()
        elif not self._stopped:
            self._stopped = True
            self._connection.close()

    def _forget(self) -> None:
        self._stopped = True
        self._connection.close()

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_owner: list[Any] = []


def _this_owner() -> Any:
    from procgroup.registry import Owner

    if not _owner or _owner[0].pid != os.getpid():
        _owner[:] = [Owner.of(os.getpid())]
    return _owner[0]


def directory_named(wanted: str) -> Path | None:
    """The group's directory, where it is named by that or by its group.json; None: by id or name."""
    path = Path(wanted)
    if path.name == "group.json":
        return path.parent.absolute()
    # Else only a directory that happens to have that name.
    there = path.is_absolute() or os.path.isfile(path / "group.json")  # no name is too long for it
    return path.absolute() if there else None


def rows_meant(wanted: str, rows: Sequence[GroupRow]) -> list[GroupRow]:
    """The rows of that id, else of that name, else those whose id begins so."""
    return (
        [row for row in rows if row.id == wanted]
        or [row for row in rows if row.name == wanted]
        or [row for row in rows if row.id.startswith(wanted)]
    )


def _find_group(wanted: str, state_dir: Path, by_name: bool) -> Path:
    if not by_name and (directory := directory_named(wanted)) is not None:
        return directory
    with _lock:
        rows = [row for row in _registry(state_dir).groups() if row.kept is None]
    found = [row for row in rows if row.name == wanted] if by_name else rows_meant(wanted, rows)
    if len(found) == 1:
        return Path(found[0].directory)
    if found:
        names = ", ".join(f"{row.id} ({row.name})" for row in found)
        raise UnknownGroup(f"{wanted!r} names several groups: {names}")
    names = ", ".join(f"{row.id} ({row.name})" for row in rows) or "none"
    raise UnknownGroup(f"there is no group {wanted!r}; running: {names}")
