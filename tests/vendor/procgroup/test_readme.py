"""The README's files, commands and code, run as they stand there."""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import procgroup.blueprint
import pytest
import yaml
from procgroup.blueprint import RoleSpec, load
from procgroup.cli import _parser

from .conftest import PACKAGE, PYTEST, State

README = (PACKAGE / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table_after(heading: str, number: int = 0) -> list[list[str]]:
    """The rows of a table below a heading, without its head."""
    section = README.split(f"\n{heading}\n", 1)[1]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    rows = tables[number].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.fixture
def example(tmp_path: Path, fresh_state: State, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the README, in a directory with the command on PATH."""
    named = re.findall(
        r"^`([\w.]+)`:\n\n(?:<pre>\n(.*?)^</pre>|```\w+\n(.*?)^```)", README, re.M | re.S
    )
    assert [name for name, _, _ in named] == ["example.yaml", "index.html.j2", "worker.py"]
    for name, preformatted, fenced in named:
        (tmp_path / name).write_text(html.unescape(preformatted) or fenced)
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "procgroup"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m procgroup "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    fresh_state.expect_nothing_left()


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_commands(example: Path) -> None:
    (commands,) = blocks("sh")
    outputs = {command: run("sh", "-c", command) for command in commands.splitlines()}
    address = r"127\.0\.0\.1:\d+"
    expected = {
        "config": r"command:\n.*http\.server",
        "up": rf"example is up: .*\ncurl http://{address}/index.html\n",
        "ps": r"2 ready",
        "ps -g": r"web\.0 .* ready ",
        "logs": rf"worker\.0 \| servus from {address}",
        "restart": r"web\.0: ready\n",
        "kill": r"worker\.0: SIGKILL\n",
        "down": r"\(example\): stopped\n",
        "run": rf"^{address}\n$",
    }
    assert len(expected) == len(outputs)
    for (command, output), pattern in zip(outputs.items(), expected.values(), strict=True):
        assert re.search(pattern, output, re.DOTALL), f"{command}\n{output}"


def test_from_python(example: Path) -> None:
    (code,) = [block for block in blocks("python") if "ProcessGroup.launch(" in block]
    lines = run(sys.executable, "-c", code).splitlines()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", lines[0])
    assert lines.count(f"servus from {lines[0]}") == 2, "before the kill and after it"


def test_with_pytest(example: Path, fresh_state: State) -> None:
    (ini,) = blocks("ini")
    (example / "pytest.ini").write_text(ini)
    tests = [block for block in blocks("python") if "def test_" in block]
    assert len(tests) == 2
    for place, code in enumerate(tests):
        (example / f"test_{place}.py").write_text(code)
    output = run(*PYTEST, "-p", "procgroup.pytest_plugin")
    assert "4 passed" in output


def test_blueprints(tmp_path: Path) -> None:
    """Those that are shown are right, the overlay over a fitting base."""
    overlay, containers, modeline = blocks("yaml")
    (tmp_path / "base.yaml").write_text(
        "name: base\nroles:\n  queue: {binary: redis-server, ports: null}\n"
        "  worker: {python: worker}\n  mail: {python: mail}\n"
    )
    for name, text in (("overlay", overlay), ("containers", containers)):
        (tmp_path / f"{name}.yaml").write_text(text)
    roles = load(tmp_path / "overlay.yaml").roles
    assert roles["queue"].image == "redis:7"
    assert roles["queue"].ports == {"redis": 6379}
    assert roles["worker"].replicas == 4
    assert "mail" not in roles
    assert load(tmp_path / "containers.yaml").roles["web"].ports == {"http": 80}
    assert yaml.safe_load(modeline) is None
    schema = Path(modeline.split("$schema=")[1].strip())
    seen = (PACKAGE.parent.parent / "blueprints" / schema).resolve()
    assert seen == Path(procgroup.blueprint.__file__).with_name("blueprint.schema.json").resolve()


def test_every_key_is_in_the_tables() -> None:
    names = {row[0].strip("`") for row in table_after("## Blueprints")}
    assert names == set(procgroup.blueprint._TOP)
    roles = {row[0].strip("`") for row in table_after("## Blueprints", 1)}
    assert roles == set(RoleSpec._fields) - {"name"}
    container = {row[0].strip("`") for row in table_after("### Containers")} - {"ports"}
    assert container == {f"container.{name}" for name in procgroup.blueprint.Container._fields}


def test_every_verb_and_option_is_in_the_table() -> None:
    (verbs,) = (
        action.choices
        for action in _parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    rows = table_after("## On the command line")
    written = {
        word: " ".join(row[0] for row in rows if re.search(rf"\b{word}\b", row[0]))
        for word in verbs
    }
    assert all(written.values()), written
    for row in rows:
        verb = re.findall(r"[a-z]+", row[0])[0]
        known = {option for action in verbs[verb]._actions for option in action.option_strings}
        assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row[0])) <= known, row


def test_shape_of_the_group_file(example: Path) -> None:
    """Every key shown is there, of the same type."""
    (text,) = blocks("json")
    shown = json.loads(text)
    actual = json.loads(
        run("procgroup", "run", "example.yaml", "--", "sh", "-c", 'cat "$PROCGROUP_GROUP_FILE"')
    )

    def compare(one: Any, other: Any, path: str) -> None:
        assert type(one) is type(other), path
        if isinstance(one, dict):
            for key, value in one.items():
                assert key in other, f"{path}.{key}"
                compare(value, other[key], f"{path}.{key}")
        elif isinstance(one, list):
            compare(one[0], other[0], f"{path}[0]")

    compare(shown, actual, "")


def test_it_knows_nothing_of_what_processes_do() -> None:
    assert not re.search(r"\b(sqs|lambda|aws|message)\b", README, re.IGNORECASE)
