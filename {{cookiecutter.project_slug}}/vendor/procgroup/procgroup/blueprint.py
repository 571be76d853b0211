"""Reading a blueprint: YAML to a checked description, with errors that say where and what.

Nothing is rendered here: strings may hold Jinja2, which `rendering` resolves once ports are known.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any, NamedTuple

from procgroup.errors import BlueprintError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    import yaml

Key = tuple[str | int, ...]

# Written apart, because this file must hold no Jinja2 marker itself (templates of templates).
_JINJA = tuple("{" + follower for follower in ("{", "%", "#"))
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}\Z")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
# What the role directory holds already.
_RESERVED_FILES = {"run", "log", "notify", "runit", "supervise"}

READY_KINDS = ("tcp", "http", "redis", "log", "notify")
NEED_CONDITIONS = ("started", "ready")


def is_template(text: str) -> bool:
    """Whether a string holds Jinja2."""
    return any(marker in text for marker in _JINJA)


class Ready(NamedTuple):
    """How a role shows that it is ready."""

    kind: str  # one of READY_KINDS
    port: str = ""  # the blueprint's name of the port (tcp, http, redis)
    path: str = "/"  # http
    pattern: str = ""  # log: a regular expression, searched in each new line


class RoleSpec(NamedTuple):
    """One role of a blueprint; strings may still be templates."""

    name: str
    python: str | None
    binary: tuple[str, ...]
    args: tuple[str, ...]
    ports: tuple[str, ...]
    configs: Mapping[str, str]  # name in the role's directory → template file
    needs: Mapping[str, str]  # role → "started" or "ready"
    environment: Mapping[str, str]
    replicas: int
    ready: Ready | None
    stop_signal: int
    stop_timeout: float  # seconds
    graceful: bool  # stopped by its signal even in a fast teardown
    autostart: bool
    working_directory: str | None


class Blueprint(NamedTuple):
    """A checked blueprint with all overrides applied."""

    name: str
    file: Path
    variables: Mapping[str, Any]
    roles: Mapping[str, RoleSpec]
    hint: str | None
    lines: Mapping[Key, int]

    def where(self, *key: str | int) -> str:
        """ "service.yaml:12: roles.worker.args" for the innermost part of `key` with a line."""
        return _where(self.file, self.lines, key)


def _where(file: Path, lines: Mapping[Key, int], key: Key) -> str:
    known = key
    while known and known not in lines:
        known = known[:-1]
    line = lines.get(known, 1)
    place = f"{file}:{line}" if line else f"{file} (override)"
    return f"{place}: {dotted(key)}" if key else place


def dotted(key: Key) -> str:
    """A key as a person writes it: roles.worker.args[0]."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


_parsed: dict[Path, tuple[tuple[int, int], Any, dict[Key, int]]] = {}


def _parse(file: Path) -> tuple[Any, dict[Key, int]]:
    """The plain data of a YAML file and the line of each key; cached by the file's time and size.

    The caller must not change what it gets.
    """
    try:
        status = file.stat()
        stamp = status.st_mtime_ns, status.st_size
        if file in _parsed and _parsed[file][0] == stamp:
            return _parsed[file][1:]
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise BlueprintError(
            f"{file}: cannot read the blueprint: {error.strerror or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise BlueprintError(f"{file}: not UTF-8 text: {error}") from error
    import yaml

    loader_class: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        loader = loader_class(text)
        try:
            node = loader.get_single_node()
            lines: dict[Key, int] = {}
            data = None if node is None else _plain(loader, node, (), lines, file)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        problem = getattr(error, "problem", None) or str(error)
        raise BlueprintError(f"{place}: not valid YAML: {problem}") from error
    _parsed[file] = (stamp, data, lines)
    return data, lines


def _plain(loader: Any, node: yaml.Node, key: Key, lines: dict[Key, int], file: Path) -> Any:
    import yaml

    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        own = [pair[0] for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"]
        seen = set()
        for each in own:
            if each.value in seen:
                raise BlueprintError(
                    f"{file}:{each.start_mark.line + 1}: {dotted((*key, str(each.value)))}: "
                    "the key is written twice"
                )
            seen.add(each.value if isinstance(each.value, str) else id(each))
        loader.flatten_mapping(node)
        mapping = {}
        for key_node, value_node in node.value:
            name = loader.construct_object(key_node, deep=True)
            if not isinstance(name, str):
                raise BlueprintError(
                    f"{file}:{key_node.start_mark.line + 1}: {dotted(key) or 'top level'}: "
                    f"expected a text as key, not {_show(name)} (quote it)"
                )
            lines[(*key, name)] = key_node.start_mark.line + 1
            mapping[name] = _plain(loader, value_node, (*key, name), lines, file)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(loader, item, (*key, position), lines, file)
            for position, item in enumerate(node.value)
        ]
    return loader.construct_object(node, deep=True)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _merge(base: Any, change: Any, key: Key, lines: dict[Key, int]) -> Any:
    """`change` laid over `base`: mappings merge, None removes, anything else replaces."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        lines[key] = 0
        return change
    merged = dict(base)
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        elif name in merged:
            merged[name] = _merge(merged[name], value, (*key, name), lines)
        else:
            lines[(*key, name)] = 0
            merged[name] = value
    return merged


class _Reader:
    """Typed access to plain data; every complaint names file, line and key."""

    def __init__(self, file: Path, lines: dict[Key, int]) -> None:
        self.file = file
        self.lines = lines

    def error(self, key: Key, problem: str) -> BlueprintError:
        return BlueprintError(f"{_where(self.file, self.lines, key)}: {problem}")

    def mapping(self, value: Any, key: Key, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(key, f"expected {what}, not {_show(value)}")
        return value

    def known(self, value: dict[str, Any], key: Key, names: tuple[str, ...]) -> None:
        for name in value:
            if name in names:
                continue
            import difflib

            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names)}"
            raise self.error((*key, name), f"unknown key; {hint}")

    def text(self, value: Any, key: Key, what: str = "a text") -> str:
        """Numbers are accepted as their text, as in `args: [--port, 80]`."""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error(key, f"expected {what}, not {_show(value)}")
        return str(value)

    def flag(self, value: Any, key: Key) -> bool:
        if not isinstance(value, bool):
            raise self.error(key, f"expected true or false, not {_show(value)}")
        return value

    def texts(self, value: Any, key: Key, what: str) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self.error(key, f"expected a list of {what}, not {_show(value)}")
        return tuple(self.text(item, (*key, place)) for place, item in enumerate(value))


_TOP = ("name", "variables", "roles", "hint")
_ROLE = RoleSpec._fields[1:]


def load(
    path: str | os.PathLike[str],
    variables: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Blueprint:
    """Read and check a blueprint.

    `variables` replace the blueprint's own and must be declared there. `overrides` has the shape of
    the blueprint and is laid over it: mappings merge, None removes a key, all else replaces.
    Raises BlueprintError.
    """
    file = Path(os.path.abspath(path))
    data, parsed_lines = _parse(file)
    lines = dict(parsed_lines)
    read = _Reader(file, lines)
    if data is None:
        raise BlueprintError(f"{file}:1: the file is empty; expected `name:` and `roles:`")
    top = read.mapping(data, (), "a mapping with `name` and `roles`")
    if overrides:
        top = _merge(top, dict(overrides), (), lines)
    read.known(top, (), _TOP)
    for required in ("name", "roles"):
        if required not in top:
            raise read.error((), f"`{required}` is missing")
    name = read.text(top["name"], ("name",))
    if not name.isprintable() or not name.strip() or "/" in name:
        raise read.error(("name",), f"expected a printable name without '/', not {_show(name)}")
    values = dict(read.mapping(top.get("variables") or {}, ("variables",), "a mapping"))
    for variable, value in (variables or {}).items():
        if variable not in values:
            known = ", ".join(values) or "none"
            raise BlueprintError(
                f"{_where(file, lines, ('variables',))}: there is no variable {variable!r} to set; "
                f"declared: {known}"
            )
        values[variable] = value
    given = read.mapping(top["roles"], ("roles",), "a mapping of role names to roles")
    if not given:
        raise read.error(("roles",), "expected at least one role")
    roles = {role: _role(read, role, body, values) for role, body in given.items()}
    for role in roles.values():
        for needed in role.needs:
            if needed not in roles:
                raise read.error(
                    ("roles", role.name, "needs", needed),
                    f"there is no role {needed!r}; the blueprint has {', '.join(roles)}",
                )
    _refuse_cycles(read, roles)
    hint = top.get("hint")
    if hint is not None:
        hint = read.text(hint, ("hint",))
    return Blueprint(name, file, values, roles, hint, lines)


def _role(read: _Reader, name: str, body: Any, variables: Mapping[str, Any]) -> RoleSpec:
    key: Key = ("roles", name)
    if not _NAME.match(name):
        raise read.error(
            key, "expected a role name of at most 40 lower-case letters, digits, - and _"
        )
    role = read.mapping(body, key, "a mapping that describes the role")
    if "image" in role:
        raise read.error((*key, "image"), "container images are not supported by this version")
    read.known(role, key, _ROLE)
    if ("python" in role) == ("binary" in role):
        raise read.error(key, "expected exactly one of `python` (a module) and `binary`")

    python: str | None = None
    binary: tuple[str, ...] = ()
    if "python" in role:
        python = read.text(role["python"], (*key, "python"), "the dotted name of a module")
    elif isinstance(role["binary"], list):
        binary = read.texts(role["binary"], (*key, "binary"), "program names or paths")
        if not binary:
            raise read.error((*key, "binary"), "expected at least one program")
    else:
        binary = (read.text(role["binary"], (*key, "binary"), "a program name, path or list"),)

    ports = read.texts(role.get("ports") or [], (*key, "ports"), "port names")
    for place, port in enumerate(ports):
        if not _NAME.match(port) or port in ports[:place]:
            raise read.error((*key, "ports", place), f"expected a new lower-case name, not {port}")

    configs = {}
    for config, template in read.mapping(
        role.get("configs") or {}, (*key, "configs"), "a mapping of file names to template files"
    ).items():
        if not _FILE_NAME.match(config) or config in _RESERVED_FILES:
            raise read.error(
                (*key, "configs", config),
                f"expected a plain file name other than {', '.join(sorted(_RESERVED_FILES))}",
            )
        configs[config] = read.text(template, (*key, "configs", config), "a template file's path")

    environment = {
        variable: read.text(value, (*key, "environment", variable))
        for variable, value in read.mapping(
            role.get("environment") or {}, (*key, "environment"), "a mapping of variables"
        ).items()
    }

    replicas = _number(read, role.get("replicas", 1), (*key, "replicas"), variables)
    if replicas != int(replicas) or not 0 <= replicas <= 1000:
        raise read.error((*key, "replicas"), "expected a whole number from 0 to 1000")
    stop_timeout = _number(read, role.get("stop_timeout", 5), (*key, "stop_timeout"), variables)
    if not 0 <= stop_timeout <= 3600:
        raise read.error((*key, "stop_timeout"), "expected seconds from 0 to 3600")

    working_directory = role.get("working_directory")
    if working_directory is not None:
        working_directory = read.text(
            working_directory, (*key, "working_directory"), "a directory's path"
        )

    return RoleSpec(
        name=name,
        python=python,
        binary=binary,
        args=read.texts(role.get("args") or [], (*key, "args"), "arguments"),
        ports=ports,
        configs=configs,
        needs=_needs(read, role.get("needs"), (*key, "needs")),
        environment=environment,
        replicas=int(replicas),
        ready=_ready(read, role.get("ready"), (*key, "ready"), ports),
        stop_signal=_signal(read, role.get("stop_signal", "TERM"), (*key, "stop_signal")),
        stop_timeout=stop_timeout,
        graceful=read.flag(role.get("graceful", False), (*key, "graceful")),
        autostart=read.flag(role.get("autostart", True), (*key, "autostart")),
        working_directory=working_directory,
    )


def _number(read: _Reader, value: Any, key: Key, variables: Mapping[str, Any]) -> float:
    """A number, or a template over `variables` that renders to one."""
    if isinstance(value, str) and is_template(value):
        from procgroup.rendering import render_text

        where = _where(read.file, read.lines, key)
        value = render_text(value, {"variables": variables}, where, read.file.parent)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise read.error(key, f"expected a number, not {_show(value)}")
    try:
        return float(value)
    except ValueError:
        raise read.error(key, f"expected a number, not {_show(value)}") from None


def _needs(read: _Reader, value: Any, key: Key) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, list):
        return dict.fromkeys(read.texts(value, key, "role names"), "ready")
    needs = read.mapping(value, key, "a list of roles, or a mapping of roles to started or ready")
    for role, condition in needs.items():
        if condition not in NEED_CONDITIONS:
            raise read.error((*key, role), f"expected started or ready, not {_show(condition)}")
    return dict(needs)


def _signal(read: _Reader, value: Any, key: Key) -> int:
    if isinstance(value, str):
        name = value.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        if name in signal.Signals.__members__:
            return int(signal.Signals[name])
    elif isinstance(value, int) and not isinstance(value, bool) and value in set(signal.Signals):
        return value
    raise read.error(key, f"expected a signal such as TERM, INT or QUIT, not {_show(value)}")


def _ready(read: _Reader, value: Any, key: Key, ports: tuple[str, ...]) -> Ready | None:
    if value is None:
        return None
    choices = ", ".join(READY_KINDS)
    ready = read.mapping(value, key, f"a mapping with one of {choices}")
    read.known(ready, key, READY_KINDS)
    if len(ready) != 1:
        raise read.error(key, f"expected exactly one of {choices}")
    ((kind, how),) = ready.items()
    place = (*key, kind)

    def port_named(name: Any, at: Key) -> str:
        if name not in ports:
            known = ", ".join(ports) or "none"
            raise read.error(at, f"expected a port of this role ({known}), not {_show(name)}")
        return str(name)

    if kind in ("tcp", "redis"):
        return Ready(kind, port_named(how, place))
    if kind == "http":
        if isinstance(how, str):
            return Ready(kind, port_named(how, place))
        body = read.mapping(how, place, "a port's name, or a mapping with port and path")
        read.known(body, place, ("port", "path"))
        path = read.text(body.get("path", "/"), (*place, "path"))
        if not path.startswith("/"):
            raise read.error((*place, "path"), f"expected a path that begins with /, not {path!r}")
        return Ready(kind, port_named(body.get("port"), (*place, "port")), path)
    if kind == "log":
        pattern = read.text(how, place, "a regular expression")
        try:
            re.compile(pattern)
        except re.error as error:
            raise read.error(place, f"expected a regular expression: {error}") from error
        return Ready(kind, pattern=pattern)
    if how is not True:
        raise read.error(place, f"expected true, not {_show(how)}")
    return Ready(kind)


def _refuse_cycles(read: _Reader, roles: Mapping[str, RoleSpec]) -> None:
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " → ".join((*path[path.index(name) :], name))
            raise read.error(("roles", path[-1], "needs", name), f"roles need each other: {circle}")
        if name in finished:
            return
        for needed in roles[name].needs:
            visit(needed, (*path, name))
        finished.add(name)

    for name in roles:
        visit(name, ())
