"""The JSON Schema and the reader give the same verdict on any blueprint, good or bad.

Documents are made by damaging a good one. What a schema cannot know (that a port's name is one of
the role's, that roles exist and do not need each other) is the reader's alone: such documents must
pass the schema.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import procgroup.blueprint
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from procgroup import BlueprintError
from procgroup.blueprint import load

SCHEMA = json.loads(
    Path(procgroup.blueprint.__file__).with_name("blueprint.schema.json").read_text()
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

# The reader's complaints about what stands elsewhere in the document or is a little language.
BEYOND_A_SCHEMA = re.compile(
    r"expected a port of this role|there is no role|roles need each other|expected a regular "
    r"expression|has no attribute|mounts\.[^:]*: expected the name of one of the configs"
    r"|engine: expected a command|the role's own module"
)

GOOD: dict[str, Any] = {
    "name": "good",
    "variables": {"n": 2, "nothing": None},
    "hint": "see {{ roles.web.address }}",
    "roles": {
        "web": {
            "binary": ["nginx", "sh"],
            "args": ["-c", 7],
            "ports": ["http", "admin"],
            "configs": {"web.conf": "web.j2"},
            "environment": {"LEVEL": 3, "A": "b"},
            "ready": {"http": {"port": "admin", "path": "/health"}},
            "stop_signal": "QUIT",
            "stop_timeout": "{{ variables.n }}",
            "graceful": True,
        },
        "worker": {
            "python": "package.module",
            "preload": ["json", "email.message"],
            "needs": {"web": "started"},
            "replicas": "{{ variables.n }}",
            "autostart": False,
            "working_directory": ".",
            "ready": {"log": "^up"},
        },
        "box": {
            "image": "box:1",
            "ports": {"smtp": 25, "api": "{{ variables.n }}"},
            "configs": {"box.conf": "box.j2"},
            "container": {
                "engine": "podman --log-level warn",
                "options": ["--init"],
                "mounts": {"box.conf": "/etc/box.conf"},
            },
            "needs": ["web", "worker"],
            "ready": {"tcp": "smtp"},
            "replicas": 0,
        },
        "shared": {
            "image": "box:1",
            "ports": ["redis"],
            "container": {"network": "host", "engine": ["docker", "--debug"]},
            "ready": {"redis": "redis"},
        },
        "notifier": {"binary": "sh", "ready": {"notify": True}, "stop_signal": "sigint"},
        "plain": {"binary": "sh", "ready": {"http": "http"}, "ports": ["http"]},
    },
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 70000)
    | st.floats(-2, 5000, allow_nan=False)
    | st.sampled_from(
        ["", " ", "x", "a/b", "/abs", "TERM", "sigterm", "SIGTerm", "QUIT", "http", "started",
         "ready", "host", "published", "{{ variables.n }}", "{{ 1 + 1 }}", "0", "-1", "A", "A=B",
         "log", "web.conf", "../x", "a b", "json", "a.b"]
    )
)  # fmt: skip
keys = st.sampled_from(
    sorted(
        {*procgroup.blueprint._TOP, *procgroup.blueprint._ROLE, *procgroup.blueprint.READY_KINDS,
         *procgroup.blueprint.Container._fields, "port", "path", "web", "worker", "redy", "A",
         "A=B", "A B", "PROCGROUP_ID", "log", "web.conf", ".hidden", "x-y", "9", ""}
        - {"include"}
    )
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=4,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    below = itertools.chain.from_iterable(paths(item, (*path, key)) for key, item in inner)
    return [path, *below]


@st.composite
def documents(draw: st.DrawFn) -> Any:
    document = copy.deepcopy(GOOD)
    for name in draw(st.sets(st.sampled_from(sorted(GOOD["roles"])), max_size=5)):
        del document["roles"][name]
    for role in document["roles"].values():
        if "needs" in role:
            role["needs"] = draw(st.just({}) | st.just(role["needs"]))
    for _ in range(draw(st.integers(0, 3))):
        # `variables` stay: what templates render to is beyond a schema, too.
        where = [path for path in paths(document) if path and path[0] != "variables"]
        if not where:
            break
        *path, last = draw(st.sampled_from(where))
        parent: Any = document
        for key in path:
            parent = parent[key]
        what = draw(st.sampled_from(["replace", "remove", "add", "move"]))
        if what == "remove":
            del parent[last]
        elif what == "add" and isinstance(parent, dict):
            parent[draw(keys)] = draw(values)
        elif what == "move":
            parent[last] = copy.deepcopy(draw(st.sampled_from(list(_all(GOOD)))))
        else:
            parent[last] = draw(values)
    return document


def _all(value: Any) -> list[Any]:
    found = []
    for path in paths(value):
        here = value
        for key in path:
            here = here[key]
        found.append(here)
    return found


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(document=documents())
@example(document=GOOD)
@example(document={"name": "x {{ 1 }}", "roles": {"a": {"python": "b"}}})
@example(
    document={
        "name": "x",
        "roles": {
            "a": {
                "python": "b",
                "ports": ["p"],
                "ready": {"http": {"port": "p", "path": "{{ 1 }}"}},
            }
        },
    }
)
@example(document={"name": "x", "roles": {"a": {"python": "b", "ready": {"log": "({{ 1 }}"}}}})
@example(document={"name": "x", "roles": {"a": {"python": "b", "configs": {"c" * 256: "d"}}}})
@example(document={"name": "x", "roles": {"a": {"python": "b", "configs": {"c" * 255: "d"}}}})
@example(document={"name": "x", "roles": {"a": {"python": "b", "preload": ["é"]}}})
@example(document={"name": "x", "roles": {"a": {"python": "b", "preload": ["aé"]}}})
def test_same_verdict(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "schema.yaml"
    text = yaml.safe_dump(document)
    path.write_text(text)
    problem = ""
    procgroup.blueprint._parsed.clear()  # written twice within one tick of the clock
    try:
        load(path)
    except BlueprintError as error:
        problem = str(error)
    accepted = VALIDATOR.is_valid(document)
    if BEYOND_A_SCHEMA.search(problem):
        return
    verdict = "accepts" if accepted else "refuses"
    assert accepted == (not problem), f"the schema {verdict}; the reader: {problem}\n{text}"


def test_the_good_one_is_good_and_damage_is_found(tmp_path: Path) -> None:
    """Each key once more by hand, so that the generated documents cannot all miss one."""
    VALIDATOR.validate(GOOD)
    for path in paths(GOOD):
        if not path or path[:-1] == ("variables",) or isinstance(path[-1], int):
            continue
        document = copy.deepcopy(GOOD)
        parent: Any = document
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = [[]]
        assert not VALIDATOR.is_valid(document), path
        file = tmp_path / "bad.yaml"
        file.write_text(yaml.safe_dump(document))
        procgroup.blueprint._parsed.clear()
        with pytest.raises(BlueprintError):
            load(file)


def test_a_fragment_is_fine_when_it_includes() -> None:
    VALIDATOR.validate({"include": [], "roles": {"worker": {"replicas": 2, "python": None}}})
    assert not VALIDATOR.is_valid({"roles": {"worker": {"replicas": 2}}})
    assert not VALIDATOR.is_valid({"include": [], "roles": {"worker": {"replicaz": 2}}})


def test_every_key_is_described_to_editors() -> None:
    role = SCHEMA["$defs"]["role"]["properties"]
    assert set(role) == set(procgroup.blueprint._ROLE)
    assert set(role["container"]["properties"]) == set(procgroup.blueprint.Container._fields)
    assert set(role["ready"]["properties"]) == set(procgroup.blueprint.READY_KINDS)
    assert set(SCHEMA["properties"]) == set(procgroup.blueprint._TOP)
    signals = {
        f"{prefix}{name}" for prefix in ("", "SIG") for name in procgroup.blueprint.STOP_SIGNALS
    }
    given_signals = set(role["stop_signal"]["enum"]) - {None}
    assert given_signals == signals | {name.lower() for name in signals}
