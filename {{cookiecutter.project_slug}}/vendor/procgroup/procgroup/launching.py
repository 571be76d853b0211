"""From a blueprint to a group's directory and the plan that its keeper follows."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from procgroup.blueprint import Blueprint, RoleSpec, is_template, wrong_path, wrong_pattern
from procgroup.containers import container_name
from procgroup.errors import BlueprintError, ProcgroupError
from procgroup.programs import describe_missing, find_program
from procgroup.registry import PortRequest
from procgroup.supervisors import RUNIT_FINISH, RUNIT_RUN, runit_programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from procgroup.wardens import WarmWarden

HOST = "127.0.0.1"
SUPERVISORS = ("runit", "builtin")


def wanted_supervisor(wanted: str | None) -> str | None:
    """The supervisor that is asked for, by argument or by $PROCGROUP_SUPERVISOR; None: any."""
    return wanted or os.environ.get("PROCGROUP_SUPERVISOR") or None


def choose_supervisor(wanted: str | None, state_dir: Path) -> tuple[str, dict[str, str]]:
    """The supervisor to use and the paths of its programs.

    As asked, else $PROCGROUP_SUPERVISOR, else runit when it is installed and may run its scripts in
    the state directory. Raises ProcgroupError when runit is asked for and one of these is not so.
    """
    wanted = wanted_supervisor(wanted)
    if wanted is not None and wanted not in SUPERVISORS:
        raise ProcgroupError(f"supervisor {wanted!r}: expected {' or '.join(SUPERVISORS)}")
    if wanted == "builtin":
        return "builtin", {}
    programs = runit_programs()
    if programs is None:
        problem = "runsv or chpst is not on PATH"
    elif _noexec(state_dir):
        problem = f"{state_dir} is on a file system mounted noexec, where runsv can run no scripts"
    else:
        return "runit", programs
    if wanted == "runit":
        raise ProcgroupError(f"supervisor 'runit' is asked for, but {problem}")
    return "builtin", {}


def _noexec(directory: Path) -> bool:
    try:
        flags = os.statvfs(directory).f_flag
    except OSError:  # it does not exist yet
        return False
    return bool(flags & getattr(os, "ST_NOEXEC", 0))


def preloads(blueprint: Blueprint, supervisor: str | None) -> tuple[str, ...]:
    """The modules that any role wants preloaded, each once, in the blueprint's order.

    None with PROCGROUP_PRELOAD=0; none either when runit is asked for by name: then every role
    runs under runsv.
    """
    if wanted_supervisor(supervisor) == "runit" or os.environ.get("PROCGROUP_PRELOAD") == "0":
        return ()
    wanted = (module for role in blueprint.roles.values() for module in role.preload)
    return tuple(dict.fromkeys(wanted))


def port_requests(blueprint: Blueprint) -> list[PortRequest]:
    """Every port that the group's replicas need, in the blueprint's order."""
    return [
        PortRequest(role.name, replica, port)
        for role in blueprint.roles.values()
        for replica in range(role.replicas)
        for port in role.ports
    ]


class Builder:
    """Writes one group's directory and makes its plan.

    `ports` belong to `port_requests(blueprint)`, one by one.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        group_id: str,
        state_dir: Path,
        ports: Sequence[int],
        supervisor: str,
        programs: dict[str, str],
        warm: WarmWarden | None = None,
    ) -> None:
        self.warm = warm
        self.blueprint = blueprint
        self.id = group_id
        self.state_dir = state_dir
        self.directory = state_dir / "groups" / group_id
        self.supervisor = supervisor
        self.programs = programs
        self.ports = dict(zip(port_requests(blueprint), ports, strict=True))
        self.context: dict[str, Any] = {
            "variables": blueprint.variables,
            "environment": dict(os.environ),
            "group": {
                "id": group_id,
                "name": blueprint.name,
                "directory": str(self.directory),
                "file": str(self.directory / "group.json"),
            },
            "blueprint": _file_context(blueprint.file),
        }
        self.context["roles"] = {
            role.name: self._role_context(role) for role in blueprint.roles.values()
        }

    def _role_context(self, role: RoleSpec) -> dict[str, Any]:
        replicas = [self._replica_context(role, replica) for replica in range(role.replicas)]
        first = replicas[0] if replicas else {"name": role.name}
        return {**first, "replicas": replicas}

    def _replica_context(self, role: RoleSpec, replica: int) -> dict[str, Any]:
        directory = self.directory / f"{role.name}.{replica}"
        ports = {port: self.ports[PortRequest(role.name, replica, port)] for port in role.ports}
        known: dict[str, Any] = {
            "name": role.name,
            "replica": replica,
            "host": HOST,
            "ports": ports,
            "directory": str(directory),
            "configs": {name: str(directory / name) for name in role.configs},
        }
        if role.image is not None:
            known["container"] = container_name(self.id, role.name, replica)
        if ports:
            first = next(iter(ports.values()))
            known |= {"port": first, "address": f"{HOST}:{first}"}
        return known

    def _text(self, text: str, context: dict[str, Any], *key: str | int) -> str:
        if is_template(text):
            from procgroup.rendering import render_text

            file = self.blueprint.source(*key)
            seen = {**context, "blueprint": _file_context(file)}
            text = render_text(text, seen, self.blueprint.where(*key), file.parent)
        if "\0" in text:
            where = self.blueprint.where(*key)
            raise BlueprintError(f"{where}: no process can be given a NUL character: {text!r}")
        return self._utf8(text, *key)

    def _utf8(self, text: str, *key: str | int) -> str:
        """The same, once it is known that it can be written."""
        try:
            if not text.isascii():
                text.encode(errors="surrogateescape")
        except UnicodeEncodeError as error:
            where, bad = self.blueprint.where(*key), text[error.start]
            raise BlueprintError(f"{where}: UTF-8 has no {bad!r}: half a character") from None
        return text

    def _base(self, *key: str | int) -> Path:
        """Where relative paths of `key` begin: at the file it stands in, included ones too."""
        return self.blueprint.source(*key).parent

    def build(self, *, detach: bool, timeout: float) -> dict[str, Any]:
        """Write everything; the plan. Raises BlueprintError, or OSError when the disk is full."""
        self.directory.mkdir(parents=True, mode=0o700)
        # A container's user may be any. It comes in by a mount, others of this machine by `groups`.
        shared = any(role.image is not None for role in self.blueprint.roles.values())
        if shared:
            self.directory.parent.chmod(0o700)
            self.directory.chmod(0o755)
        roles: list[dict[str, Any]] = [
            {"name": role.name, "plan": self._replica(role, replica)}
            for role in self.blueprint.roles.values()
            for replica in range(role.replicas)
        ]
        document: dict[str, Any] = {
            "format": 1,
            "id": self.id,
            "name": self.blueprint.name,
            "blueprint": str(self.blueprint.file),
            "directory": str(self.directory),
            "file": str(self.directory / "group.json"),
            "control": str(self.directory / "control"),
            "state_dir": str(self.state_dir),
            "supervisor": self.supervisor,
            "created": time.time(),
            "owner": None if detach else os.getpid(),
            "stop_timeout": sum(role.stop_timeout for role in self.blueprint.roles.values()),
            "variables": dict(self.blueprint.variables),
            "roles": {},
        }
        for role in self.blueprint.roles.values():
            replicas = [
                {"replica": each["plan"]["replica"], "pid": None, **each["plan"]["public"]}
                for each in roles
                if each["name"] == role.name
            ]
            document["roles"][role.name] = {
                "needs": dict(role.needs),
                **(replicas[0] if replicas else {}),
                "replicas": replicas,
            }
        # There before any role starts: a role may read it as its first act.
        mode = 0o644 if shared else 0o600
        self._write(self.directory / "group.json", self._json(document), mode)
        return {
            "supervisor": self.supervisor,
            "detach": detach,
            "timeout": timeout,
            "document": document,
            "roles": roles,
        }

    def _json(self, document: dict[str, Any]) -> str:
        import json

        try:
            return json.dumps(document, indent=1, allow_nan=False)
        except (TypeError, ValueError):  # YAML knows dates and infinity, JSON does not
            for name, value in self.blueprint.variables.items():
                try:
                    json.dumps(value, allow_nan=False)
                except (TypeError, ValueError) as error:
                    raise BlueprintError(
                        f"{self.blueprint.where('variables', name)}: expected texts, finite "
                        f"numbers, booleans, lists and mappings only: {error}"
                    ) from error
            raise

    def hint(self) -> str | None:
        """The blueprint's hint, rendered."""
        if self.blueprint.hint is None:
            return None
        return self._text(self.blueprint.hint, self.context, "hint")

    def _replica(self, role: RoleSpec, replica: int) -> dict[str, Any]:
        own = self.context["roles"][role.name]["replicas"][replica]
        context = {**self.context, "role": own, "replica": replica, "configs": own["configs"]}
        directory = self.directory / f"{role.name}.{replica}"
        directory.mkdir()
        if role.image is not None:
            directory.chmod(0o755)
        key = ("roles", role.name)
        for name, template in role.configs.items():
            mode = 0o600 if role.image is None else 0o644
            self._config(role, name, template, context, directory, mode)
        arguments = [
            self._text(argument, context, *key, "args", place)
            for place, argument in enumerate(role.args)
        ]
        environment = {
            "PROCGROUP_ID": self.id,
            "PROCGROUP_ROLE": role.name,
            "PROCGROUP_REPLICA": str(replica),
            "PROCGROUP_GROUP_FILE": str(self.directory / "group.json"),
            "PROCGROUP_NOTIFY": str(directory / "notify"),
        }
        if role.python is not None and sys.dont_write_bytecode:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        own_environment = {
            name: self._text(value, context, *key, "environment", name)
            for name, value in role.environment.items()
        }
        around: dict[str, Any] = dict.fromkeys(("cleanup", "freeze", "thaw"))
        if role.image is None:
            command = [*self._program(role, context), *arguments]
            environment |= own_environment
        else:
            inside = environment | own_environment
            command, around = self._container(role, own, context, inside, arguments)
        ready = self._ready(role, own, context)
        if ready is not None and ready["kind"] == "notify":
            os.mkfifo(directory / "notify", 0o600)
            if role.image is not None:
                os.chmod(directory / "notify", 0o622)
        working_directory = self._working_directory(role, context, directory)
        log = directory / "log"
        log.touch(0o600)
        supervisor = self._supervisor(role, environment, working_directory)
        self._write_run(
            role, replica, directory, working_directory, environment, command, supervisor
        )
        public = {
            key: own[key]
            for key in ("host", "port", "ports", "address", "directory", "configs", "container")
            if key in own
        }
        if around["cleanup"]:
            public["cleanup"] = around["cleanup"]
        return {
            "replica": replica,
            "directory": str(directory),
            "working_directory": working_directory,
            "argv": command,
            "supervisor": supervisor,
            "module": command[2] if supervisor == "forked" else None,
            "arguments": arguments,
            "environment": environment,
            "needs": dict(role.needs),
            "ready": ready,
            "log": str(log),
            "notify": str(directory / "notify"),
            "stop_signal": role.stop_signal,
            "stop_timeout": role.stop_timeout,
            "graceful": role.graceful,
            "autostart": role.autostart,
            "runsv": self.programs.get("runsv"),
            **around,
            "public": {**public, "log": str(log), "command": command, "supervisor": supervisor},
        }

    def _supervisor(self, role: RoleSpec, environment: dict[str, str], directory: str) -> str:
        """`forked` where the keeper has the role's modules in memory, else the group's own."""
        if self.warm is None or not role.preload:
            return self.supervisor
        fit = self.warm.may_run({**os.environ, **environment}, directory)
        return "forked" if fit else self.supervisor

    def _program(self, role: RoleSpec, context: dict[str, Any]) -> list[str]:
        key = ("roles", role.name)
        if role.python is not None:
            return [sys.executable, "-m", self._text(role.python, context, *key, "python")]
        candidates = [self._text(each, context, *key, "binary") for each in role.binary]
        base = self._base(*key, "binary")
        program = find_program(candidates, base)
        if program is None:
            raise BlueprintError(
                f"{self.blueprint.where(*key, 'binary')}: no such program; looked for "
                + ", ".join(describe_missing(each, base) for each in candidates)
            )
        return [program]

    def _container(
        self,
        role: RoleSpec,
        own: dict[str, Any],
        context: dict[str, Any],
        environment: dict[str, str],
        arguments: list[str],
    ) -> tuple[list[str], dict[str, Any]]:
        """The engine's command that runs the role, and those that freeze, thaw and remove it."""
        from procgroup import containers

        spec = role.container
        assert spec is not None
        assert role.image is not None
        key = ("roles", role.name)
        engine_words = [
            self._text(word, context, *key, "container", "engine", place)
            for place, word in enumerate(spec.engine)
        ]
        try:
            engine = containers.find_engine(engine_words)
        except ProcgroupError as error:
            raise BlueprintError(f"{self.blueprint.where(*key, 'image')}: {error}") from error
        name, directory = own["container"], str(self.directory)
        # At its own path, so that group.json and all paths in it mean the same in there.
        volumes = [(directory, directory, False)]
        if role.ready is not None and role.ready.kind == "notify":
            notify = f"{own['directory']}/notify"
            volumes.append((notify, notify, True))
        for config, path in spec.mounts.items():
            there = self._text(path, context, *key, "container", "mounts", config)
            volumes.append((own["configs"][config], there, False))
        command = containers.run_command(
            engine,
            name=name,
            labels={
                containers.GROUP_LABEL: self.id,
                containers.ROLE_LABEL: f"{role.name}.{own['replica']}",
                containers.STATE_LABEL: str(self.state_dir),
            },
            network=spec.network,
            ports=[
                (own["host"], own["ports"][port], inside)
                for port, inside in role.ports.items()
                if inside is not None
            ],
            volumes=volumes,
            environment=environment,
            options=[
                self._text(option, context, *key, "container", "options", place)
                for place, option in enumerate(spec.options)
            ],
            image=self._text(role.image, context, *key, "image"),
            args=arguments,
        )
        return command, {
            "cleanup": containers.remove_command(engine, name),
            "freeze": containers.freeze_command(engine, name),
            "thaw": containers.thaw_command(engine, name),
        }

    def _config(
        self,
        role: RoleSpec,
        name: str,
        template: str,
        context: dict[str, Any],
        directory: Path,
        mode: int,
    ) -> None:
        from procgroup.rendering import render_file

        key = ("roles", role.name, "configs", name)
        base = self._base(*key)
        file = Path(os.path.abspath(base / self._text(template, context, *key)))
        seen = {**context, "blueprint": _file_context(self.blueprint.source(*key))}
        text = render_file(file, seen, self.blueprint.where(*key), base)
        self._write(directory / name, self._utf8(text, *key), mode)

    def _ready(
        self, role: RoleSpec, own: dict[str, Any], context: dict[str, Any]
    ) -> dict[str, Any] | None:
        if role.ready is None:
            return None
        plan: dict[str, Any] = {"kind": role.ready.kind}
        if role.ready.port:
            plan |= {"host": own["host"], "port": own["ports"][role.ready.port]}
        key: tuple[str, ...] = ("roles", role.name, "ready", role.ready.kind)
        problem = ""
        if role.ready.kind == "http":
            key = (*key, "path")
            plan["path"] = path = self._text(role.ready.path, context, *key)
            problem = wrong_path(path)
        if role.ready.kind == "log":
            plan["pattern"] = pattern = self._text(role.ready.pattern, context, *key)
            if pattern is not role.ready.pattern:  # else it is known to be right
                problem = wrong_pattern(pattern)
        if problem:
            raise BlueprintError(f"{self.blueprint.where(*key)}: {problem}")
        return plan

    def _working_directory(self, role: RoleSpec, context: dict[str, Any], directory: Path) -> str:
        if role.working_directory is None:
            return str(directory)
        key = ("roles", role.name, "working_directory")
        base = self._base(*key)
        chosen = os.path.abspath(base / self._text(role.working_directory, context, *key))
        if not os.path.isdir(chosen):
            raise BlueprintError(f"{self.blueprint.where(*key)}: there is no directory {chosen}")
        return chosen

    def _write_run(
        self,
        role: RoleSpec,
        replica: int,
        directory: Path,
        working_directory: str,
        environment: dict[str, str],
        command: list[str],
        supervisor: str,
    ) -> None:
        """The role as a script that a person can read and run: ./run, or ./run strace -f."""
        exports = "".join(
            f"export {name}={shlex.quote(environment[name])}\n" for name in environment
        )
        script = (
            f"#!/bin/sh\n# {role.name}.{replica} of {self.blueprint.name} ({self.id})\n"
            f"cd {shlex.quote(working_directory)} || exit\n{exports}"
            f'exec "$@" {shlex.join(command)}\n'
        )
        self._write(directory / "run", script, 0o700)
        if supervisor == "runit":
            # Its own directory, since runsv would take the file `log` for a broken log service.
            service = directory / "runit"
            service.mkdir()
            chpst = shlex.quote(self.programs["chpst"])
            self._write(service / "run", RUNIT_RUN.format(chpst=chpst), 0o700)
            self._write(service / "finish", RUNIT_FINISH, 0o700)

    def _write(self, path: Path, text: str, mode: int = 0o600) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        if mode & 0o077:
            os.fchmod(descriptor, mode)  # whatever the umask
        # What came from a variable that is no UTF-8 is written as the bytes that it came from.
        try:
            with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
        except OSError as error:
            error.filename = str(path)
            raise


def _file_context(file: Path) -> dict[str, str]:
    return {"file": str(file), "directory": str(file.parent)}
