"""Blueprints: what is understood, and that every mistake is named with file, line and key."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import jsonschema
import procgroup.blueprint
import pytest
import yaml
from procgroup import BlueprintError
from procgroup.blueprint import Ready, RoleSpec, load
from procgroup.launching import Builder, port_requests

from .conftest import BLUEPRINTS, Write

SCHEMA = json.loads(
    Path(procgroup.blueprint.__file__).with_name("blueprint.schema.json").read_text()
)

FULL = """\
name: full
variables: {workers: 2, patience: 1.5}
hint: "see {{ roles.web.address }}"
roles:
  web:
    binary: [no-such-program, sh]
    args: ["-c", "exec sleep {{ variables.patience }}", 7]
    ports: [http, admin]
    configs: {web.conf: web.j2}
    environment: {LEVEL: 3, NEIGHBOUR: "{{ roles.worker.replicas[1].directory }}"}
    ready: {http: {port: admin, path: /health}}
    stop_signal: int
    stop_timeout: "{{ variables.patience }}"
    graceful: true
  worker:
    python: package.module
    needs: {web: started}
    replicas: "{{ variables.workers }}"
    autostart: false
    working_directory: .
    ready: {log: "^up"}
"""


def build(path: Path, tmp_path: Path, **arguments: Any) -> dict[str, Any]:
    """The plan of a blueprint, written as a launch would, by role label."""
    blueprint = load(path, **arguments)
    ports = range(20001, 20001 + len(port_requests(blueprint)))
    builder = Builder(blueprint, "abc", tmp_path / "state", ports, "builtin", {})
    plan = builder.build(detach=False, timeout=1.0)
    return {f"{entry['name']}.{entry['plan']['replica']}": entry["plan"] for entry in plan["roles"]}


def test_every_key_is_understood(write: Write) -> None:
    blueprint = load(write(FULL, web__j2="x"))
    assert blueprint.roles["web"] == RoleSpec(
        name="web",
        python=None,
        binary=("no-such-program", "sh"),
        image=None,
        container=None,
        preload=(),
        args=("-c", "exec sleep {{ variables.patience }}", "7"),
        ports={"http": None, "admin": None},
        configs={"web.conf": "web.j2"},
        needs={},
        environment={
            "LEVEL": "3",
            "NEIGHBOUR": "{{ roles.worker.replicas[1].directory }}",
        },
        replicas=1,
        ready=Ready("http", "admin", "/health"),
        stop_signal=signal.SIGINT,
        stop_timeout=1.5,
        graceful=True,
        autostart=True,
        working_directory=None,
    )
    worker = blueprint.roles["worker"]
    assert (worker.replicas, worker.needs, worker.autostart) == (2, {"web": "started"}, False)


def test_templates_see_roles_ports_and_own_configs(write: Write, tmp_path: Path) -> None:
    template = (
        "{{ role.name }} {{ role.port }} {{ role.ports.admin }} {{ configs['web.conf'] }} "
        "{{ roles.worker.directory }} {{ roles.worker.replicas | length }} {{ group.id }} "
        "{{ replica }} {{ environment.TEST_VALUE }}\n"
    )
    path = write(FULL, web__j2=template)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_VALUE", "from outside")
        plan = build(path, tmp_path)
    directory = tmp_path / "state" / "groups" / "abc"
    assert (directory / "web.0" / "web.conf").read_text() == (
        f"web 20001 20002 {directory}/web.0/web.conf {directory}/worker.0 2 abc 0 from outside\n"
    )
    assert plan["web.0"]["argv"][1:] == ["-c", "exec sleep 1.5", "7"]
    assert plan["web.0"]["environment"]["NEIGHBOUR"] == f"{directory}/worker.1"
    assert plan["web.0"]["ready"] == {
        "kind": "http",
        "host": "127.0.0.1",
        "port": 20002,
        "path": "/health",
    }
    assert plan["worker.1"]["working_directory"] == str(tmp_path)


def test_variables_and_overrides(write: Write) -> None:
    path = write(FULL)
    blueprint = load(
        path,
        variables={"patience": 4},
        overrides={
            "roles": {
                "worker": {"replicas": 3, "environment": {"A": "b"}},
                "web": {"graceful": None, "args": ["x"]},
            }
        },
    )
    assert blueprint.roles["web"].stop_timeout == 4
    assert blueprint.roles["web"].args == ("x",)
    assert blueprint.roles["web"].graceful is False
    assert blueprint.roles["worker"].replicas == 3
    assert load(path).roles["worker"].replicas == 2, "overrides must not stay in the cache"
    removed = load(path, overrides={"roles": {"worker": None}})
    assert list(removed.roles) == ["web"]


def test_a_changed_file_is_read_again(write: Write) -> None:
    assert load(write(FULL)).name == "full"
    assert load(write(FULL.replace("name: full", "name: other"))).name == "other"


def test_yaml_anchors_and_merges(write: Write) -> None:
    path = write(
        "name: x\nroles:\n  a: &base\n    binary: sh\n    stop_timeout: 2\n"
        "  b:\n    <<: *base\n    replicas: 2\n"
    )
    b = load(path).roles["b"]
    assert (b.binary, b.stop_timeout, b.replicas) == (("sh",), 2, 2)


MISTAKES = [
    ("", r"group.yaml:1: the file is empty"),
    ("name: x\nroles: ]\n", r"group.yaml:2: not valid YAML"),
    ("roles: {a: {binary: sh}}", r"group.yaml:1: `name` is missing"),
    ("name: x\nrolls: {}\nroles: {}", r"group.yaml:2: rolls: unknown key; did you mean 'roles'"),
    ("name: x\nroles: {}", r"group.yaml:2: roles: expected at least one role"),
    ("name: x\nroles:\n  a: 3", r"group.yaml:3: roles.a: expected a mapping .* not 3"),
    ("name: x\nroles:\n  A: {binary: sh}", r"group.yaml:3: roles.A: expected a role name"),
    ("name: x\nroles:\n  a: {}", r"group.yaml:3: roles.a: expected exactly one of `python`"),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    redy: {}",
        r"group.yaml:5: roles.a.redy: unknown key; did you mean 'ready'",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    binary: true",
        r"group.yaml:5: roles.a.binary: the key is written twice",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    args: [a, [b]]",
        r"group.yaml:5: roles.a.args\[1\]: expected a text, not a list",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    ports: [web]\n    ready: {tcp: wep}",
        r"group.yaml:6: roles.a.ready.tcp: expected a port of this role \(web\), not 'wep'",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    ready: {tpc: web}",
        r"group.yaml:5: roles.a.ready.tpc: unknown key; did you mean 'tcp'",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    ready:\n      log: '('",
        r"group.yaml:6: roles.a.ready.log: expected a regular expression",
    ),
    (
        "name: 'x {{ variables.n }}'\nroles: {a: {binary: sh}}",
        r":1: name: expected a plain name, wi",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    needs: [b]",
        r"group.yaml:5: roles.a.needs: there is no role 'b'|roles.a.needs.b: there is no role 'b'",
    ),
    (
        "name: x\nroles:\n  a: {binary: sh, needs: [b]}\n  b: {binary: sh, needs: [a]}",
        r"roles need each other: a → b → a",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    stop_signal: TREM",
        r"group.yaml:5: roles.a.stop_signal: expected a signal \(HUP, .*\), not 'TREM'",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    replicas: -1",
        r"group.yaml:5: roles.a.replicas: expected a whole number from 0",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    replicas: '{{ variables.n }}'",
        r"group.yaml:5: roles.a.replicas: .*has no attribute 'n'",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    configs: {../escape: t}",
        r"group.yaml:5: roles.a.configs.../escape: expected a plain file name",
    ),
    pytest.param(
        f"name: x\nroles:\n  a:\n    binary: sh\n    configs: {{{'x' * 256}: t}}",
        r"group.yaml:5: roles.a.configs.x*: expected a plain file name of at most 255 characters",
        id="a long name",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    configs: {log: t}",
        r"group.yaml:5: roles.a.configs.log: expected a plain file name other than",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    replicas: '2'",
        r"group.yaml:5: roles.a.replicas: expected a number, not '2'",
    ),
    ("name: x\nroles:\n  a:\n    binary: sh\n    redy:", r"roles.a.redy: unknown key; did you"),
    ("name: x\nroles: {a: {binary: sh, replicas: .inf}}", r"replicas: expected a number"),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    ports: [p]\n    ready: {tcp: [p]}",
        r"group.yaml:6: roles.a.ready.tcp: expected a port of this role \(p\), not a list",
    ),
    ("name: x\nroles: {a: {binary: sh, environment: {'A=B': c}}}", r"the name of an environment"),
    (
        "name: x\nroles: {a: {binary: sh, environment: {'A B': c}}}",
        r"group.yaml:2: roles.a.environment.A B: expected the name of an environment variable",
    ),
    (
        "name: x\nroles: {a: {binary: sh, environment: {PROCGROUP_ID: c}}}",
        r"environment.PROCGROUP_ID: expected the name of an environment variable, none of PROCGR",
    ),
    (
        'name: x\nroles:\n  a:\n    binary: sh\n    args: ["a\\0b"]',
        r"group.yaml:5: roles.a.args\[0\]: expected a text without NUL characters",
    ),
    (f"name: x\nroles: {'[' * 5000}{']' * 5000}", r"group.yaml: not a blueprint: it is nested too"),
    ("name: x\nroles: {1: {binary: sh}}", r"group.yaml:2: roles: expected a text as key, not 1"),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    replicas: {{ variables.n }}",
        r"group.yaml:5: roles.a.replicas: expected a text as key, not a mapping \(quote templates\)",
    ),
    (
        "name: x\nroles:\n  a:\n    binary: sh\n    args: [--port, {{ role.port }}]",
        r"group.yaml:5: roles.a.args\[1\]: expected a text .* not a mapping \(quote templates\)",
    ),
    (
        "name: x\nvariables:\n  a: &self\n    b: *self\nroles: {a: {binary: sh}}",
        r"group.yaml:4: variables.a.b: this anchor contains itself",
    ),
    ("name: x\nvariables:\n  a: &self [1, *self]", r"group.yaml:3: variables.a\[1\]: this anchor"),
    ("name: x\nvariables:\n  a: 2024-13-45", r"group.yaml:3: variables.a: not valid YAML: month"),
    ("name: x\n? [a]\n: b", r"group.yaml:2: top level: expected a text as key, not a sequence"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes_are_named(write: Write, text: str, message: str) -> None:
    with pytest.raises(BlueprintError) as caught:
        load(write(text))
    assert re.search(message, str(caught.value)), str(caught.value)


def test_mistakes_in_overrides_are_told_apart(write: Write) -> None:
    with pytest.raises(BlueprintError, match=r"\(override\): roles.web.replicas: expected a whole"):
        load(write(FULL), overrides={"roles": {"web": {"replicas": 1.5}}})
    with pytest.raises(
        BlueprintError, match=r"\(override\): roles.b: there is no such role; the bl"
    ):
        load(write(FULL), overrides={"roles": {"b": {"replicas": 2}}})
    with pytest.raises(BlueprintError, match=r"no variable 'workrs'.*declared: workers, patience"):
        load(write(FULL), variables={"workrs": 1})


def test_missing_file() -> None:
    with pytest.raises(BlueprintError, match="cannot read the blueprint: No such file"):
        load("/nowhere/group.yaml")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("one\n{{ roles.wbe.port }}\n", r"web.j2:2: .*has no attribute 'wbe'.*group.yaml:9"),
        ("one\n\n{% if %}\n", r"web.j2:3: Expected an expression.*configs.web.conf"),
        ("{{ 1 / 0 }}", r"web.j2:1: division by zero"),
    ],
)
def test_mistakes_in_templates_name_the_templates_line(
    write: Write, tmp_path: Path, template: str, message: str
) -> None:
    with pytest.raises(BlueprintError) as caught:
        build(write(FULL, web__j2=template), tmp_path)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_mistakes_in_texts_name_the_blueprints_line(write: Write, tmp_path: Path) -> None:
    text = FULL.replace("exec sleep {{ variables.patience }}", "{{ roles.web.pot }}")
    with pytest.raises(BlueprintError, match=r"group.yaml:7: roles.web.args\[1\]: .*'pot'"):
        build(write(text, web__j2=""), tmp_path)


READY = """\
name: x
variables: {path: /health, word: "a.b"}
roles:
  a:
    binary: sh
    ports: [p]
    ready: %s
"""


def test_readiness_is_rendered(write: Write, tmp_path: Path) -> None:
    path = write(READY % '{log: "^{{ variables.word }} on {{ role.port }} [0-9]{3}$"}')
    assert build(path, tmp_path)["a.0"]["ready"] == {
        "kind": "log",
        "pattern": "^a.b on 20001 [0-9]{3}$",
    }
    path = write(READY % '{http: {port: p, path: "{{ variables.path }}"}}', "http.yaml")
    assert build(path, tmp_path / "http")["a.0"]["ready"]["path"] == "/health"


@pytest.mark.parametrize(
    ("ready", "message"),
    [
        ('{log: "on {{ role.prt }}"}', r"group.yaml:7: roles.a.ready.log: .*no attribute 'prt'"),
        (
            "{log: \"{{ '+' }}\"}",
            r"group.yaml:7: roles.a.ready.log: expected a regular expression: nothing to repeat",
        ),
        (
            '{http: {port: p, path: "{{ variables.word }}"}}',
            r"group.yaml:7: roles.a.ready.http.path: expected a path that begins with /, not 'a.b'",
        ),
    ],
)
def test_mistakes_in_rendered_readiness(
    write: Write, tmp_path: Path, ready: str, message: str
) -> None:
    with pytest.raises(BlueprintError, match=message):
        build(write(READY % ready), tmp_path)


def test_missing_program_names_what_was_looked_for(write: Write, tmp_path: Path) -> None:
    path = write("name: x\nroles:\n  a:\n    binary: [nope, 'jinja2:**/nope', ./nope]")
    with pytest.raises(BlueprintError, match=r"group.yaml:4: roles.a.binary: no such program"):
        build(path, tmp_path)


@pytest.mark.parametrize(
    ("candidate", "problem"),
    [
        ("pytest:", "ValueError"),
        ("pytest:/bin/*", "NotImplementedError"),
        ("http://x", "NotImplementedError"),
        ("broken_package.sub:x", "RuntimeError: no luck"),
    ],
)
def test_what_is_wrong_with_a_program_in_a_package(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidate: str, problem: str
) -> None:
    package = tmp_path / "broken_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('no luck')")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(f"name: x\nroles:\n  a:\n    binary: [{candidate!r}]")
    where = "group.yaml:4: roles.a.binary: no such program; looked for"
    with pytest.raises(BlueprintError, match=f"{where} {re.escape(candidate)} .{problem}"):
        build(path, tmp_path)
    another = write(f"name: x\nroles: {{a: {{binary: [{candidate!r}, sh]}}}}")
    assert build(another, tmp_path / "another"), "the next one is taken"


def test_a_program_that_lacks_only_its_mode_is_told_apart(write: Write, tmp_path: Path) -> None:
    path = write("name: x\nroles: {a: {binary: [./nope, ./here]}}\n", here="")
    with pytest.raises(BlueprintError, match=r"for \./nope, \./here \(which is not executable\)$"):
        build(path, tmp_path)


@pytest.mark.parametrize("value", ["2024-01-01", "[1, [2024-01-01]]", ".inf", "{when: .nan}"])
def test_variables_must_fit_json(write: Write, tmp_path: Path, value: str) -> None:
    path = write(f"name: x\nvariables:\n  n: 1\n  day: {value}\nroles: {{a: {{binary: sh}}}}")
    assert load(path).variables["n"] == 1
    with pytest.raises(BlueprintError, match=r"group.yaml:4: variables.day: expected texts, fin"):
        build(path, tmp_path)


def test_schema_accepts_what_the_reader_accepts(write: Write) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for text in (FULL, *(path.read_text() for path in BLUEPRINTS.glob("*.yaml"))):
        jsonschema.validate(yaml.safe_load(text), SCHEMA)


def test_no_jinja_in_the_package() -> None:
    """The package lies in a template that two engines render: it must come out as it is."""
    root = Path(procgroup.blueprint.__file__).parent.parent
    for path in root.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"\{[{%#]", path.read_text(encoding="utf-8")), path
