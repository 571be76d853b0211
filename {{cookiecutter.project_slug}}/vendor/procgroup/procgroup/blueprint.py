"""Reading a blueprint: YAML to a checked description, with errors that say where and what.

Nothing is rendered here: strings may hold Jinja2, which `rendering` resolves once ports are known.
"""

from __future__ import annotations

import math
import os
import re
import signal
import stat
from pathlib import Path
from typing import Any, NamedTuple

from procgroup.errors import BlueprintError, refuse_other_than_utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import yaml

Key = tuple[str | int, ...]
# Where a key stands: file and line; no file for what came as an override from Python.
Place = tuple["Path | None", int]

# Written apart, because this file must hold no Jinja2 marker itself (templates of templates).
_JINJA = tuple("{" + follower for follower in ("{", "%", "#"))
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}\Z")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}\Z")  # file systems take no more
# What a shell can export, for `run` is a shell script; and what tells a process who it is is not the
# blueprint's to change, since a sweep goes by it.
OWN_VARIABLES = tuple(
    f"PROCGROUP_{each}" for each in ("ID", "ROLE", "REPLICA", "GROUP_FILE", "NOTIFY")
)
_VARIABLE_NAME = re.compile(rf"(?!({'|'.join(OWN_VARIABLES)})\Z)[A-Za-z_][A-Za-z0-9_]*\Z")
# What the role directory holds already.
_RESERVED_FILES = {"run", "log", "notify", "runit", "supervise"}

PROGRAM_KINDS = ("python", "binary", "image")
READY_KINDS = ("tcp", "http", "redis", "log", "notify")
NEED_CONDITIONS = ("started", "ready")
STOP_SIGNALS = ("HUP", "INT", "QUIT", "ABRT", "KILL", "USR1", "USR2", "ALRM", "TERM", "WINCH")


def is_template(text: str) -> bool:
    """Whether a string holds Jinja2."""
    return any(marker in text for marker in _JINJA)


class Ready(NamedTuple):
    """How a role shows that it is ready; `path` and `pattern` may still be templates."""

    kind: str  # one of READY_KINDS
    port: str = ""  # the blueprint's name of the port (tcp, http, redis)
    path: str = "/"  # http
    pattern: str = ""  # log: a regular expression, searched in each new line


class Container(NamedTuple):
    """How a container engine runs the role's image; strings may still be templates."""

    engine: tuple[str, ...] = ()  # a command, its own options included; empty: found
    options: tuple[str, ...] = ()  # of the engine's `run`
    mounts: Mapping[str, str] = {}  # name in `configs` → path in the container
    network: str = "published"  # or "host"


class RoleSpec(NamedTuple):
    """One role of a blueprint; strings may still be templates."""

    name: str
    python: str | None
    binary: tuple[str, ...]
    image: str | None
    container: Container | None  # for an image only
    args: tuple[str, ...]
    ports: Mapping[str, int | None]  # name → the port in the container, if published from one
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
    preload: tuple[str, ...]  # modules that the role's process may be forked with


class Blueprint(NamedTuple):
    """A checked blueprint with all overrides applied."""

    name: str
    file: Path
    variables: Mapping[str, Any]
    roles: Mapping[str, RoleSpec]
    hint: str | None
    places: Mapping[Key, Place]
    files: tuple[Path, ...]  # `file` and all that it includes

    def where(self, *key: str | int) -> str:
        """ "service.yaml:12: roles.worker.args" for the innermost part of `key` with a line."""
        return _where(self.file, self.places, key)

    def source(self, *key: str | int) -> Path:
        """The file in which `key` stands, whose directory relative paths begin at."""
        return _place(self.file, self.places, key)[0] or self.file


def _place(file: Path, places: Mapping[Key, Place], key: Key) -> Place:
    while key and key not in places:
        key = key[:-1]
    return places.get(key, (file, 1))


def _where(file: Path, places: Mapping[Key, Place], key: Key) -> str:
    source, line = _place(file, places, key)
    place = f"{source}:{line}" if source else f"{file} (override)"
    return f"{place}: {dotted(key)}" if key else place


def dotted(key: Key) -> str:
    """A key as a person writes it: roles.worker.args[0]."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


_MOST_PARSED = 256
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
    except RecursionError:
        raise BlueprintError(f"{file}: not a blueprint: it is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        problem = getattr(error, "problem", None) or str(error)
        raise BlueprintError(f"{place}: not valid YAML: {problem}") from error
    if len(_parsed) >= _MOST_PARSED:
        _parsed.clear()
    _parsed[file] = (stamp, data, lines)
    return data, lines


def _plain(
    loader: Any,
    node: yaml.Node,
    key: Key,
    lines: dict[Key, int],
    file: Path,
    above: tuple[yaml.Node, ...] = (),
) -> Any:
    import yaml

    lines.setdefault(key, node.start_mark.line + 1)
    if node in above:
        raise BlueprintError(f"{file}:{lines[key]}: {dotted(key)}: this anchor contains itself")
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        own = [pair[0] for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"]
        seen = set()
        for each in own:
            if not isinstance(each, yaml.ScalarNode):
                raise BlueprintError(
                    f"{file}:{each.start_mark.line + 1}: {dotted(key) or 'top level'}: "
                    f"expected a text as key, not a {each.id} (quote templates)"
                )
            if each.value in seen:
                raise BlueprintError(
                    f"{file}:{each.start_mark.line + 1}: {dotted((*key, each.value))}: "
                    "the key is written twice"
                )
            seen.add(each.value)
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
            mapping[name] = _plain(loader, value_node, (*key, name), lines, file, above)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(loader, item, (*key, position), lines, file, above)
            for position, item in enumerate(node.value)
        ]
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, TypeError) as error:  # 2024-13-45 looks like a date
        raise BlueprintError(
            f"{file}:{lines[key]}: {dotted(key)}: not valid YAML: {error}"
        ) from error


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


def _as_from_yaml(value: Any, file: Path) -> Any:
    """Overrides may hold what Python has and YAML has not: tuples, paths, other mappings."""
    if isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_as_from_yaml(item, file) for item in value]
    if hasattr(value, "items"):
        for name in value:
            if not isinstance(name, str):
                raise BlueprintError(f"{file} (override): expected a text as key, not {name!r}")
        return {name: _as_from_yaml(item, file) for name, item in value.items()}
    return value


def _merge(
    base: Any, change: Any, key: Key, places: dict[Key, Place], changed: Mapping[Key, Place]
) -> Any:
    """`change` laid over `base`: mappings merge, None removes, anything else replaces.

    In `variables` None is a value like any other. `places` takes over where the changes stand.
    """
    if isinstance(base, dict) and isinstance(change, dict):
        merged = dict(base)
        for name, value in change.items():
            own = (*key, name)
            if value is None and key[:1] != ("variables",):
                merged.pop(name, None)
                _forget_places(own, places)
            elif name in merged:
                merged[name] = _merge(merged[name], value, own, places, changed)
            else:
                _take_places(own, places, changed)
                merged[name] = value
        return merged
    _take_places(key, places, changed)
    return change


def _take_places(key: Key, places: dict[Key, Place], changed: Mapping[Key, Place]) -> None:
    _forget_places(key, places)
    places[key] = (None, 0)
    places.update({each: changed[each] for each in changed if each[: len(key)] == key})


def _forget_places(key: Key, places: dict[Key, Place]) -> None:
    for each in [each for each in places if each[: len(key)] == key]:
        del places[each]


def _assemble(
    file: Path, including: tuple[Path, ...], files: dict[Path, None]
) -> tuple[dict[str, Any], dict[Key, Place]]:
    """A file laid over all that it includes, and where each key of the result stands."""
    files[file] = None
    data, lines = _parse(file)
    places: dict[Key, Place] = {key: (file, line) for key, line in lines.items()}
    read = _Reader(file, places)
    if data is None:
        raise BlueprintError(f"{file}:1: the file is empty; expected `name:` and `roles:`")
    top = read.mapping(data, (), "a mapping with `name` and `roles`")
    if "include" not in top:
        return top, places
    named = top["include"]
    if isinstance(named, str):
        named = [named]
    base: dict[str, Any] = {}
    found: dict[Key, Place] = {(): (file, 1)}
    if named is None:
        named = []
    for position, name in enumerate(read.texts(named, ("include",), "blueprint files")):
        where = _where(file, places, ("include", position))
        if is_template(name):
            raise BlueprintError(f"{where}: expected a plain path, without Jinja2")
        included = Path(os.path.abspath(file.parent / os.path.expanduser(name)))
        chain = (*including, file)
        if included in chain:
            circle = " → ".join(map(str, (*chain[chain.index(included) :], included)))
            raise BlueprintError(f"{where}: blueprints include each other: {circle}")
        try:
            there = stat.S_ISREG(included.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except OSError as error:
            raise BlueprintError(f"{where}: cannot read {included}: {error.strerror}") from error
        if not there:
            raise BlueprintError(f"{where}: there is no file {included}")
        theirs, their_places = _assemble(included, chain, files)
        base = _merge(base, theirs, (), found, their_places)
    own = {name: value for name, value in top.items() if name != "include"}
    return _merge(base, own, (), found, places), found


class _Reader:
    """Typed access to plain data; every complaint names file, line and key."""

    def __init__(self, file: Path, places: Mapping[Key, Place]) -> None:
        self.file = file
        self.places = places

    def error(self, key: Key, problem: str) -> BlueprintError:
        return BlueprintError(f"{_where(self.file, self.places, key)}: {problem}")

    def place(self, *key: str | int) -> str:
        return _where(self.file, self.places, key).removesuffix(f": {dotted(key)}")

    def mapping(self, value: Any, key: Key, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(key, f"expected {what}, not {_show(value)}")
        return value

    def fields(self, value: Any, key: Key, what: str, names: tuple[str, ...]) -> dict[str, Any]:
        """A mapping with keys out of `names`. A key without a value is as good as absent."""
        given = self.mapping(value, key, what)
        for name in given:
            if name in names:
                continue
            import difflib

            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names)}"
            raise self.error((*key, name), f"unknown key; {hint}")
        return {name: given[name] for name in given if given[name] is not None}

    def entries(
        self,
        value: Any,
        key: Key,
        what: str,
        valid: re.Pattern[str] | None = None,
        expected: str = "",
    ) -> dict[str, Any]:
        """A mapping with keys of the writer's choice. One without a value is as good as absent."""
        given = self.mapping(value, key, what)
        for name in given:
            if valid is not None and not valid.match(name):
                raise self.error((*key, name), f"expected {expected}")
        return {name: given[name] for name in given if given[name] is not None}

    def text(self, value: Any, key: Key, what: str = "a text") -> str:
        """Numbers are accepted as their text, as in `args: [--port, 80]`."""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error(key, f"expected {what}, not {_show(value)}")
        if "\0" in str(value):
            raise self.error(key, f"expected {what} without NUL characters")
        return str(value)

    def flag(self, value: Any, key: Key) -> bool:
        if not isinstance(value, bool):
            raise self.error(key, f"expected true or false, not {_show(value)}")
        return value

    def texts(self, value: Any, key: Key, what: str) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self.error(key, f"expected a list of {what}, not {_show(value)}")
        return tuple(self.text(item, (*key, place)) for place, item in enumerate(value))


_TOP = ("name", "include", "variables", "roles", "hint")
_ROLE = RoleSpec._fields[1:]


def load(
    path: str | os.PathLike[str],
    variables: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Blueprint:
    """Read and check a blueprint.

    `variables` replace the blueprint's own and must be declared there. `overrides` has the shape of
    the blueprint and is laid over it as the blueprint is over those it includes: mappings merge,
    None removes a key (but is a value in `variables`), all else replaces. Raises BlueprintError.
    """
    file = Path(os.path.abspath(path))
    refuse_other_than_utf8(str(file), "blueprint", BlueprintError)
    files: dict[Path, None] = {}
    top, places = _assemble(file, (), files)
    read = _Reader(file, places)
    if overrides:
        change = _as_from_yaml(overrides, file)
        top = _merge(top, change, (), places, {})
        if "include" in change:
            raise read.error(("include",), "only a file includes others")
    top = read.fields(top, (), "", _TOP)
    for required in ("name", "roles"):
        if required not in top:
            raise read.error((), f"`{required}` is missing")
    name = read.text(top["name"], ("name",))
    if not name.isprintable() or not name.strip() or "/" in name:
        raise read.error(("name",), f"expected a printable name without '/', not {_show(name)}")
    if is_template(name):
        raise read.error(("name",), "expected a plain name, without Jinja2")
    values = dict(read.mapping(top.get("variables", {}), ("variables",), "a mapping"))
    for variable, value in (variables or {}).items():
        if variable not in values:
            known = ", ".join(values) or "none"
            raise BlueprintError(
                f"{_where(file, places, ('variables',))}: there is no variable {variable!r} to set; "
                f"declared: {known}"
            )
        values[variable] = value
    given = read.entries(
        top["roles"],
        ("roles",),
        "a mapping of role names to roles",
        _NAME,
        "a role name of at most 40 lower-case letters, digits, - and _",
    )
    if not given:
        raise read.error(("roles",), "expected at least one role")
    written = {
        key[1]
        for key, (source, _) in places.items()
        if source and key[:1] == ("roles",) and key[1:]
    }
    for each, body in given.items():
        _refuse_misspelt(read, each, body, given)
        if overrides and each not in written and not _has_program(body):
            known = ", ".join(each for each in given if each in written)
            raise read.error(("roles", each), f"there is no such role; the blueprint has {known}")
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
    return Blueprint(name, file, values, roles, hint, places, tuple(files))


def _has_program(body: Any) -> bool:
    return isinstance(body, dict) and any(kind in body for kind in PROGRAM_KINDS)


def _refuse_misspelt(read: _Reader, name: str, body: Any, roles: dict[str, Any]) -> None:
    """A role without a program, laid over nothing, is most likely meant for another."""
    if not isinstance(body, dict) or _has_program(body):
        return
    import difflib

    close = difflib.get_close_matches(name, [each for each in roles if each != name], n=1)
    if close:
        problem = "expected one of `python`, `binary` and `image` in a new role"
        raise read.error(("roles", name), f"{problem}; did you mean the role {close[0]!r}?")


def _role(read: _Reader, name: str, body: Any, variables: Mapping[str, Any]) -> RoleSpec:
    key: Key = ("roles", name)
    role = read.fields(body, key, "a mapping that describes the role", _ROLE)
    programs = [kind for kind in PROGRAM_KINDS if kind in role]
    if len(programs) > 1:
        stand = ", ".join(read.place(*key, kind) for kind in programs)
        raise read.error(
            key,
            f"expected exactly one of `python`, `binary` and `image`, not {' and '.join(programs)} "
            f"({stand}); `{programs[0]}: null` removes one that is included",
        )
    if not programs:
        raise read.error(key, "expected exactly one of `python` (a module), `binary` and `image`")

    python: str | None = None
    binary: tuple[str, ...] = ()
    image: str | None = None
    if "python" in role:
        python = read.text(role["python"], (*key, "python"), "the dotted name of a module")
    elif "image" in role:
        image = read.text(role["image"], (*key, "image"), "the name of a container image")
    elif isinstance(role["binary"], list):
        binary = read.texts(role["binary"], (*key, "binary"), "program names or paths")
        if not binary:
            raise read.error((*key, "binary"), "expected at least one program")
    else:
        binary = (read.text(role["binary"], (*key, "binary"), "a program name, path or list"),)

    container = _container(read, role, key)
    ports = _ports(read, role.get("ports", []), (*key, "ports"), container, variables)

    configs = {}
    reserved = ", ".join(sorted(_RESERVED_FILES))
    for config, template in read.entries(
        role.get("configs", {}),
        (*key, "configs"),
        "a mapping of file names to template files",
        _FILE_NAME,
        f"a plain file name of at most 255 characters, other than {reserved}",
    ).items():
        if config in _RESERVED_FILES:
            raise read.error(
                (*key, "configs", config), f"expected a plain file name other than {reserved}"
            )
        configs[config] = read.text(template, (*key, "configs", config), "a template file's path")

    environment = {
        variable: read.text(value, (*key, "environment", variable))
        for variable, value in read.entries(
            role.get("environment", {}),
            (*key, "environment"),
            "a mapping of variables",
            _VARIABLE_NAME,
            f"the name of an environment variable, none of {', '.join(OWN_VARIABLES)}",
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
        if image is not None:
            raise read.error(
                (*key, "working_directory"),
                "expected none for an image; `container: {options: [--workdir, ...]}` sets it",
            )
        working_directory = read.text(
            working_directory, (*key, "working_directory"), "a directory's path"
        )

    return RoleSpec(
        name=name,
        python=python,
        binary=binary,
        image=image,
        container=container,
        args=read.texts(role.get("args", []), (*key, "args"), "arguments"),
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
        preload=_preload(read, role, (*key, "preload")),
    )


def _ports(
    read: _Reader,
    value: Any,
    key: Key,
    container: Container | None,
    variables: Mapping[str, Any],
) -> dict[str, int | None]:
    """Names of ports; those published from a container with the port inside it."""
    published = container is not None and container.network == "published"
    if published:
        if value == []:
            return {}
        inside = read.entries(
            value, key, "a mapping of port names to ports in the container", _NAME, _PORT_NAME
        )
    else:
        names = read.texts(value, key, "port names")
        for place, name in enumerate(names):
            if not _NAME.match(name) or name in names[:place]:
                raise read.error((*key, place), f"expected {_PORT_NAME} of its own, not {name}")
        return dict.fromkeys(names)
    ports: dict[str, int | None] = {}
    for name, port in inside.items():
        number = _number(read, port, (*key, name), variables)
        if number != int(number) or not 1 <= number <= 65535:
            raise read.error((*key, name), "expected a port in the container, from 1 to 65535")
        ports[name] = int(number)
    return ports


_CONTAINER = Container._fields
_PORT_NAME = "a lower-case name"


def _container(read: _Reader, role: dict[str, Any], key: Key) -> Container | None:
    if "image" not in role:
        if "container" in role:
            raise read.error((*key, "container"), "expected only in a role with `image`")
        return None
    key = (*key, "container")
    body = read.fields(role.get("container", {}), key, "a mapping", _CONTAINER)
    engine = body.get("engine", [])
    if isinstance(engine, str):
        import shlex

        try:
            engine = shlex.split(engine)
        except ValueError as error:
            raise read.error((*key, "engine"), f"expected a command: {error}") from error
    network = body.get("network", "published")
    if network not in ("published", "host"):
        raise read.error((*key, "network"), f"expected published or host, not {_show(network)}")
    mounts = {}
    configs = role.get("configs", {})
    for name, path in read.entries(
        body.get("mounts", {}), (*key, "mounts"), "a mapping of config names to paths"
    ).items():
        if not isinstance(configs, dict) or configs.get(name) is None:  # no value: left out
            raise read.error((*key, "mounts", name), "expected the name of one of the configs")
        mounts[name] = read.text(path, (*key, "mounts", name), "a path in the container")
        if not mounts[name].startswith("/") and not is_template(mounts[name]):
            raise read.error((*key, "mounts", name), "expected an absolute path in the container")
    return Container(
        engine=read.texts(engine, (*key, "engine"), "words of a command"),
        options=read.texts(body.get("options", []), (*key, "options"), "options"),
        mounts=mounts,
        network=network,
    )


# As the JSON Schema has it, whose patterns know ASCII alone.
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z", re.ASCII)


def _preload(read: _Reader, role: dict[str, Any], key: Key) -> tuple[str, ...]:
    modules = read.texts(role.get("preload", []), key, "module names")
    if modules and "python" not in role:
        raise read.error(key, "expected only in a role with `python`")
    for place, module in enumerate(modules):
        if not _MODULE.match(module):
            raise read.error(
                (*key, place), f"expected a module's dotted name in ASCII, not {module!r}"
            )
        if module == role["python"]:
            raise read.error((*key, place), "the role's own module cannot be imported beforehand")
    return modules


def _number(read: _Reader, value: Any, key: Key, variables: Mapping[str, Any]) -> float:
    """A number, or a template over `variables` that renders to one."""
    if isinstance(value, str):
        if not is_template(value):
            raise read.error(key, f"expected a number, not {_show(value)}")
        from procgroup.rendering import render_text

        where = _where(read.file, read.places, key)
        value = render_text(value, {"variables": variables}, where, read.file.parent)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise read.error(key, f"expected a number, not {_show(value)}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise read.error(key, f"expected a number, not {_show(value)}")
    return number


def _needs(read: _Reader, value: Any, key: Key) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, list):
        return dict.fromkeys(read.texts(value, key, "role names"), "ready")
    needs = read.entries(value, key, "a list of roles, or a mapping of roles to started or ready")
    for role, condition in needs.items():
        if condition not in NEED_CONDITIONS:
            raise read.error((*key, role), f"expected started or ready, not {_show(condition)}")
    return dict(needs)


def _signal(read: _Reader, value: Any, key: Key) -> int:
    name = value if isinstance(value, str) and value in (value.upper(), value.lower()) else ""
    name = name.upper().removeprefix("SIG")
    if name not in STOP_SIGNALS:
        known = ", ".join(STOP_SIGNALS)
        raise read.error(key, f"expected a signal ({known}), not {_show(value)}")
    return int(signal.Signals[f"SIG{name}"])


def _ready(read: _Reader, value: Any, key: Key, ports: Mapping[str, int | None]) -> Ready | None:
    if value is None:
        return None
    choices = ", ".join(READY_KINDS)
    ready = read.fields(value, key, f"a mapping with one of {choices}", READY_KINDS)
    if len(ready) != 1:
        raise read.error(key, f"expected exactly one of {choices}")
    ((kind, how),) = ready.items()
    place = (*key, kind)

    def port_named(name: Any, at: Key) -> str:
        if not isinstance(name, str) or name not in ports:
            known = ", ".join(ports) or "none"
            raise read.error(at, f"expected a port of this role ({known}), not {_show(name)}")
        return name

    if kind in ("tcp", "redis"):
        return Ready(kind, port_named(how, place))
    if kind == "http":
        if isinstance(how, str):
            return Ready(kind, port_named(how, place))
        what = "a port's name, or a mapping with port and path"
        body = read.fields(how, place, what, ("port", "path"))
        path = read.text(body.get("path", "/"), (*place, "path"))
        if not is_template(path) and (problem := wrong_path(path)):
            raise read.error((*place, "path"), problem)
        return Ready(kind, port_named(body.get("port"), (*place, "port")), path)
    if kind == "log":
        pattern = read.text(how, place, "a regular expression")
        if not is_template(pattern) and (problem := wrong_pattern(pattern)):
            raise read.error(place, problem)
        return Ready(kind, pattern=pattern)
    if how is not True:
        raise read.error(place, f"expected true, not {_show(how)}")
    return Ready(kind)


def wrong_path(path: str) -> str:
    """What is wrong with a rendered `ready.http.path`; nothing: it is right."""
    return "" if path.startswith("/") else f"expected a path that begins with /, not {path!r}"


def wrong_pattern(pattern: str) -> str:
    """What is wrong with a rendered `ready.log`; nothing: it is right."""
    try:
        re.compile(pattern)
    except re.error as error:
        return f"expected a regular expression: {error}"
    return ""


def start_order(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The names of roles, those first that others need; else in their own order.

    `needs` maps each role to those that it needs, and has no cycle.
    """
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        for needed in () if name in order else needs[name]:
            visit(needed)
        order[name] = None

    for name in needs:
        visit(name)
    return list(order)


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
