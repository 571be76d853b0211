"""Blueprints that include others, and overrides: one rule of laying over, places kept apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from procgroup import BlueprintError, ProcessGroup
from procgroup.blueprint import load
from procgroup.launching import Builder, port_requests

from .conftest import Launch, State

Files = Callable[..., Path]

BASE = """\
name: base
variables: {colour: red, size: 1, token: secret}
roles:
  web:
    binary: sh
    args: [-c, "sleep 1000"]
    environment: {A: base, B: base}
    ports: [http, admin]
  worker:
    python: package.worker
    needs: [web]
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Write files below the test's directory; the path of the first."""

    def write(**texts: str) -> Path:
        paths = []
        for name, text in texts.items():
            path = tmp_path / (name.replace("__", "/") + ".yaml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            paths.append(path)
        return paths[0]

    return write


def plans(path: Path, state: Path, **arguments: Any) -> dict[str, Any]:
    blueprint = load(path, **arguments)
    ports = range(20001, 20001 + len(port_requests(blueprint)))
    plan = Builder(blueprint, "abc", state, ports, "builtin", {}).build(detach=False, timeout=1)
    return {f"{entry['name']}.{entry['plan']['replica']}": entry["plan"] for entry in plan["roles"]}


def test_mappings_merge_null_removes_all_else_replaces(files: Files) -> None:
    path = files(
        main="""\
include: base.yaml
name: main
variables: {colour: blue, token: null}
roles:
  web:
    environment: {B: main, C: main}
    ports: [http]
    args: null
  worker: null
  extra: {binary: sh, replicas: 3}
""",
        base=BASE,
    )
    blueprint = load(path)
    assert blueprint.name == "main"
    assert blueprint.variables == {"colour": "blue", "size": 1, "token": None}
    assert list(blueprint.roles) == ["web", "extra"]
    web = blueprint.roles["web"]
    assert web.environment == {"A": "base", "B": "main", "C": "main"}
    assert list(web.ports) == ["http"]
    assert web.args == ()
    assert blueprint.roles["extra"].replicas == 3
    assert blueprint.files == (path, path.parent / "base.yaml")


def test_later_ones_lie_over_earlier_ones_and_the_file_over_all(files: Files) -> None:
    path = files(
        main="include: [one.yaml, two.yaml]\nname: main\nroles: {a: {binary: main}}\n",
        one="roles: {a: {binary: one, stop_timeout: 1}, b: {binary: one, graceful: true}}\n",
        two="include: [deep__er.yaml]\nroles: {a: {stop_timeout: 2}, b: {binary: two}}\n".replace(
            "__", "/"
        ),
        deep__er="roles: {a: {stop_timeout: 3, graceful: true}, c: {binary: deep}}\n",
    )
    roles = load(path).roles
    assert (roles["a"].binary, roles["a"].stop_timeout) == (("main",), 2)
    assert roles["a"].graceful
    assert roles["b"].binary == ("two",)
    assert roles["b"].graceful
    assert roles["c"].binary == ("deep",)


def test_one_file_may_be_included_twice(files: Files) -> None:
    path = files(main="include: [a.yaml, b.yaml]\n", a="include: base.yaml\n",
                 b="include: base.yaml\n", base=BASE)  # fmt: skip
    assert list(load(path).roles) == ["web", "worker"]


def test_another_kind_of_program_needs_the_first_one_removed(files: Files) -> None:
    change = "include: base.yaml\nroles:\n  worker:\n    binary: sh\n"
    path = files(main=change, base=BASE)
    with pytest.raises(BlueprintError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path.parent}/base.yaml:9: roles.worker: expected exactly one of `python`, `binary` and "
        f"`image`, not python and binary ({path.parent}/base.yaml:10, {path}:4); "
        "`python: null` removes one that is included"
    )
    assert load(files(main=change + "    python: null\n")).roles["worker"].binary == ("sh",)


def test_paths_begin_at_the_file_they_stand_in(files: Files, tmp_path: Path) -> None:
    path = files(
        main='include: shared/base.yaml\nroles: {a: {args: ["{{ blueprint.directory }}"]}}\n',
        shared__base="""\
name: x
roles:
  a:
    binary: [./program]
    configs: {a.conf: a.j2}
    environment: {HERE: "{{ blueprint.directory }}"}
    working_directory: .
""",
    )
    shared = tmp_path / "shared"
    (shared / "a.j2").write_text("{% include 'part.j2' %} in {{ blueprint.file }}")
    (shared / "part.j2").write_text("part")
    (shared / "program").write_text("#!/bin/sh\n")
    (shared / "program").chmod(0o755)
    plan = plans(path, tmp_path / "state")["a.0"]
    assert plan["argv"] == [str(shared / "program"), str(tmp_path)]
    assert plan["environment"]["HERE"] == str(shared)
    assert plan["working_directory"] == str(shared)
    rendered = tmp_path / "state" / "groups" / "abc" / "a.0" / "a.conf"
    assert rendered.read_text() == f"part in {shared}/base.yaml"
    # A path that the including file brings begins there, though the role is the other's.
    (tmp_path / "own.j2").write_text("own")
    files(main="include: shared/base.yaml\nroles: {a: {configs: {a.conf: own.j2}}}\n")
    plans(path, tmp_path / "state2")
    rendered = tmp_path / "state2" / "groups" / "abc" / "a.0" / "a.conf"
    assert rendered.read_text() == "own"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"main": "include: [base.yaml]\nname: main\n", "base": "roles:\n  a: {bnary: sh}\n"},
            r"/base.yaml:2: roles.a.bnary: unknown key; did you mean 'binary'\?",
        ),
        (
            {"main": "include: [base.yaml]\nroles:\n  web:\n    args: 3\n", "base": BASE},
            r"/main.yaml:4: roles.web.args: expected a list of arguments, not 3",
        ),
        (
            {"main": "include: [base.yaml]\nroles:\n  wrker: {replicas: 2}\n", "base": BASE},
            r"/main.yaml:3: roles.wrker: expected one of .* did you mean the role 'worker'\?",
        ),
        (
            {"main": "include: [base.yaml]\nroles: {web: {ports: null}}\n",
             "base": BASE + "    ready: {tcp: web}\n"},
            r"/base.yaml:12: roles.worker.ready.tcp: expected a port of this role \(none\)",
        ),
        ({"main": "include: [a.yaml]\n"}, r"/main.yaml:1: include\[0\]: there is no file /.*/a.yaml"),
        (
            {"main": f"include: [{'x' * 300}]\n"},
            r"/main.yaml:1: include\[0\]: cannot read /.*/x*: File name too long",
        ),
        ({"main": "name: x\ninclude: 3\n"}, r"/main.yaml:2: include: expected a list of blueprint"),
        ({"main": "include: ['{{ x }}']\n"}, r"include\[0\]: expected a plain path, without Jinja2"),
        ({"main": "include: main.yaml\n"}, r"include each other: /.*/main.yaml → /.*/main.yaml"),
        (
            {"main": "include: a.yaml\n", "a": "include:\n- b.yaml\n", "b": "include: a.yaml\n"},
            r"/b.yaml:1: include\[0\]: blueprints include each other: "
            r"/.*/a.yaml → /.*/b.yaml → /.*/a.yaml$",
        ),
        ({"main": "include: a.yaml\n", "a": "- x\n"}, r"/a.yaml:1: expected a mapping with `name`"),
        ({"main": "include: a.yaml\n", "a": "x: ]\n"}, r"/a.yaml:1: not valid YAML"),
        ({"main": "include: []\n"}, r"/main.yaml:1: `name` is missing"),
    ],
)  # fmt: skip
def test_mistakes_name_the_file_they_stand_in(
    files: Files, texts: dict[str, str], message: str
) -> None:
    import re

    with pytest.raises(BlueprintError) as caught:
        load(files(**texts))
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"roles": {"web": {"replicas": -1}}},
            r"main.yaml \(override\): roles.web.replicas: expec",
        ),
        ({"roles": {"web": {"args": ["a", []]}}}, r"\(override\): roles.web.args\[1\]: expected a"),
        ({"roles": {"wbe": {"replicas": 1}}}, r"\(override\): roles.wbe: .*mean the role 'web'\?"),
        ({"roles": {"web": {"replica": 1}}}, r"\(override\): roles.web.replica: .* 'replicas'\?"),
        ({"include": "x.yaml"}, r"\(override\): include: only a file includes others"),
        ({"nme": "x"}, r"\(override\): nme: unknown key; did you mean 'name'\?"),
        ({"roles": {"worker": {"needs": ["wbe"]}}}, r"\(override\): roles.worker.needs.wbe: there"),
        ({"roles": {"web": None}}, r"base.yaml:11: roles.worker.needs.web: there is no role 'web'"),
        ({"roles": None}, r"main.yaml:1: `roles` is missing"),
        ({"roles": {1: {}}}, r"main.yaml \(override\): expected a text as key, not 1"),
        ({"roles": []}, r"\(override\): roles: expected a mapping of role names to roles, not a l"),
    ],
)
def test_mistakes_in_overrides(files: Files, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(BlueprintError, match=message):
        load(files(main="include: base.yaml\n", base=BASE), overrides=overrides)


def test_overrides_may_add_and_replace_anything(files: Files) -> None:
    blueprint = load(
        files(main="include: base.yaml\n", base=BASE),
        variables={"size": 5},
        overrides={
            "name": "changed",
            "hint": "x",
            "variables": {"new": 1},
            "roles": {
                "worker": {"python": None, "binary": "sh", "needs": {"web": "started"}},
                "double": {"python": "package.double", "ports": ("smtp",)},
                "web": {"working_directory": Path("/tmp")},
            },
        },
    )
    assert blueprint.roles["web"].working_directory == "/tmp"
    assert blueprint.name == "changed"
    assert blueprint.variables == {"colour": "red", "size": 5, "token": "secret", "new": 1}
    assert blueprint.roles["worker"].needs == {"web": "started"}
    assert list(blueprint.roles["double"].ports) == ["smtp"]


def test_a_group_of_an_including_blueprint(files: Files, launch: Launch, state: State) -> None:
    path = files(
        main='include: base.yaml\nroles: {a: {replicas: 2, args: [-c, "echo main; sleep 1000"]}}\n',
        base="name: based\nroles: {a: {binary: sh, ready: {log: main}}}\n",
    )
    group: ProcessGroup = launch(path)
    assert group.name == "based"
    assert [role.log() for role in group.all_roles()] == ["main\n", "main\n"]
