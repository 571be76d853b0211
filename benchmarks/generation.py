"""Making the default service: cookiecutter and copier against Jinja alone, each a fresh process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lab import ROOT, TREE, Lab, Unavailable, Variant, require
from benchmarks.processes import environment
from benchmarks.report import Metric, Result, rows_of
from benchmarks.samples import Measured

NAME = "generation"
TITLE = "Generating the default service"

FLOOR = "bare Jinja (floor)"
WALL = "command → finished tree"
# Written by the engines, not rendered from the tree.
ANSWERS_FILE = ".copier-answers.yml"


def run(lab: Lab) -> Result:
    """Measure it."""
    result = Result(NAME, TITLE)
    require("cookiecutter", "jinja2")
    base = lab.directory(NAME)
    checkout = base / "template"
    checkout.mkdir()
    snapshot(checkout)
    answers = base / "answers.json"
    answers.write_text(json.dumps(default_answers(checkout)))
    slug = json.loads(answers.read_text())["project_slug"]

    output = base / "out"
    commands = {
        FLOOR: [
            *("-m", "benchmarks.drivers.bare_jinja", str(checkout / TREE.name)),
            *(str(output / slug), str(answers)),
        ],
        "cookiecutter": [
            *("-m", "cookiecutter", str(checkout), "--no-input", "--default-config"),
            *("--output-dir", str(output)),
        ],
    }
    try:
        require("copier")
        commands["copier"] = [
            *("-m", "copier", "copy", "--quiet", "--defaults", "--vcs-ref", "HEAD"),
            *(str(checkout), str(output / slug)),
        ]
    except Unavailable as missing:
        result.notes.append(f"copier: not measured: {missing}")

    trees: dict[str, dict[str, bytes]] = {}

    def variant(name: str, arguments: Sequence[str]) -> Variant:
        def turn() -> Measured:
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir()
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.perf_counter() - started
            if done.returncode:
                raise RuntimeError(done.stderr.strip()[-500:])
            trees.setdefault(name, files(output / slug))
            return {WALL: 1000 * seconds}

        return Variant(name, turn)

    samples = lab.rounds([variant(*command) for command in commands.items()], result.notes)
    for name, tree in trees.items():
        if tree != trees[FLOOR]:
            different = sorted(k for k in tree.keys() ^ trees[FLOOR].keys()) or "contents"
            raise RuntimeError(f"{name} and bare Jinja gave different trees: {different}")
    result.rows = rows_of(samples, [Metric(WALL, "ms", FLOOR)], ["cookiecutter", "copier"])
    result.notes.append(
        f"{len(trees[FLOOR])} files, the same from each. Compiling the templates is the floor; the "
        "rest is the engine's own start."
    )
    return result


def snapshot(directory: Path) -> None:
    """Put the template as it is now into a git repository, since copier reads commits."""
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@example.com"]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    # Whatever this user has configured (signing, hooks) is no part of it.
    plain = environment(GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_SYSTEM=os.devnull)
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "Now"]):
        subprocess.run(
            [*git, *arguments], cwd=directory, env=plain, check=True, capture_output=True
        )


def default_answers(checkout: Path) -> dict[str, object]:
    """What the templates see as ``cookiecutter`` when every question is left at its default."""
    from cookiecutter.generate import generate_context
    from cookiecutter.prompt import prompt_for_config

    context = generate_context(str(checkout / "cookiecutter.json"))
    answers = prompt_for_config(context, no_input=True)
    return {key: value for key, value in answers.items() if key != "__prompts__"}


def files(directory: Path) -> dict[str, bytes]:
    """Every file that is rendered from the tree."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ANSWERS_FILE
    }
