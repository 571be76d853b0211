"""Making services from the template, by either engine, and looking at what came out."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import jinja2
import yaml

from . import quick_copier

ROOT = Path(__file__).parent.parent
TREE = "{{cookiecutter.project_slug}}"
SCRIPTS = Path(sys.executable).parent

# What an outer `make`, virtual environment, test run or git hook would otherwise hand down.
FOREIGN = (
    "GIT_",
    "MAKE",
    "MFLAGS",
    "PYTEST_",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "PYTHONDONTWRITEBYTECODE",
)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a user's shell, with a git identity and none of this machine's settings."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    identity = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", "A Tester"), ("EMAIL", "tester@example.com"))
    }
    nowhere = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return clean | identity | nowhere | changes


def git(directory: Path, *arguments: str) -> str:
    """What git prints, run in `directory`; its failure is the test's."""
    return subprocess.run(
        ["git", *arguments],
        cwd=directory,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def commit_all(directory: Path, message: str, tag: str = "") -> None:
    """Commit everything in `directory`, which becomes a repository if it is none."""
    if not (directory / ".git").exists():
        git(directory, "init", "--initial-branch", "main")
    git(directory, "add", "--all")
    git(directory, "commit", "--message", message)
    if tag:
        git(directory, "tag", tag)


@dataclass(frozen=True)
class BakedProject:
    """A service made from the template."""

    path: Path

    def has_file(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def files(self) -> dict[str, tuple[bytes, bool]]:
        """Content and executable bit of every file, by its path in the service."""
        return {
            path.relative_to(self.path).as_posix(): (path.read_bytes(), os.access(path, os.X_OK))
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }

    def directories(self) -> set[str]:
        return {
            path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_dir()
        }

    @property
    def imports(self) -> str:
        """PYTHONPATH for the service's own code, as its environment would have it."""
        return os.pathsep.join(map(str, [self.path / "src", *(self.path / "vendor").iterdir()]))

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the service as a user would; output and errors come back as one text."""
        return subprocess.run(
            command,
            cwd=self.path,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def pytest(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`run` its tests, with what `uv sync` would install taken from the sources."""
        # Plugins that happen to be installed here take a second to load.
        plugins = ("--disable-plugin-autoload", "-pxdist", "-pprocgroup.pytest_plugin")
        return self.run(
            *(sys.executable, "-m", "pytest", *plugins, "-pno:cacheprovider", "-n0", *arguments),
            **{"PYTHONPATH": self.imports, **variables},
        )


@dataclass(frozen=True)
class Template:
    """A git checkout of the template as it is now, uncommitted work included."""

    path: Path
    settings: Path  # directory for the engines' own files, so that they touch no user's
    in_process: bool = False

    @property
    def here(self) -> Template:
        """The same, for many trees: the engines are called in this process instead of started."""
        return replace(self, in_process=True)

    def cookiecutter(
        self, output: Path, *options: str, source: str = ".", **answers: str
    ) -> subprocess.CompletedProcess[str]:
        """`cookiecutter SOURCE --no-input -o OUTPUT`, started in the checkout."""
        return self._engine(
            "cookiecutter",
            *(source, "--no-input", "--output-dir", str(output), *options),
            *(f"{name}={value}" for name, value in answers.items()),
        )

    def copier(
        self, project: Path, *options: str, source: str = ".", **answers: str
    ) -> subprocess.CompletedProcess[str]:
        """`copier copy --defaults --vcs-ref HEAD SOURCE PROJECT`, started in the checkout."""
        data = (f"--data={name}={value}" for name, value in answers.items())
        return self._engine(
            *("copier", "copy", "--defaults", "--vcs-ref", "HEAD", *options, *data),
            *(source, str(project)),
        )

    def copier_update(self, project: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """`copier update --defaults`, started in the project."""
        return self._engine("copier", "update", "--defaults", *options, directory=project)

    def _engine(
        self, name: str, *arguments: str, directory: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        variables = environment(
            COOKIECUTTER_CONFIG=str(self.settings / "cookiecutter.yml"),
            COPIER_SETTINGS_PATH=str(self.settings / "copier.yml"),
            COPIER_CACHE_DIR=str(self.settings / "copier"),
        )
        if self.in_process:
            return _called(name, arguments, directory or self.path, variables)
        return subprocess.run(
            [str(SCRIPTS / name), *arguments],
            cwd=directory or self.path,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def __post_init__(self) -> None:
        self.settings.mkdir(exist_ok=True)
        (self.settings / "copier.yml").write_text("{}\n")
        (self.settings / "cookiecutter.yml").write_text(
            f"cookiecutters_dir: {self.settings}/clones\nreplay_dir: {self.settings}/replay\n"
            "abbreviations:\n"
            # Where the tests put what stands for a repository on the network.
            f"  gh: file://{self.settings}/remote/{{0}}.git\n"
            f"  own: file://{self.settings}/remote/{{0}}.git\n"
        )


_compile = jinja2.Environment.compile
_compiled: dict[Any, Any] = {}


def _compile_once(engine: jinja2.Environment, source: Any, *arguments: Any, **options: Any) -> Any:
    """Jinja2's compiler, which is half of what making a tree takes, but once for each text."""
    key = (type(engine), engine.keep_trailing_newline, source, arguments, *options.items())
    if key not in _compiled:
        _compiled[key] = _compile(engine, source, *arguments, **options)
    return _compiled[key]


def _called(
    name: str, arguments: Sequence[str], directory: Path, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """A program's entry point called with its command line, as its script does."""
    (program,) = entry_points(group="console_scripts", name=name)
    output, errors = StringIO(), StringIO()
    with (
        mock.patch.object(sys, "argv", [name, *arguments]),
        mock.patch.dict(os.environ, variables, clear=True),
        quick_copier.patched(),
        mock.patch("jinja2.Environment.compile", _compile_once),
        contextlib.chdir(directory),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            status = program.load()()
        except SystemExit as ended:
            status = ended.code
    code = status if isinstance(status, int) else int(status is not None)
    return subprocess.CompletedProcess(
        [name, *arguments], code, output.getvalue(), errors.getvalue()
    )


def snapshot(directory: Path) -> None:
    """Copy the files that git tracks here, or would if they were added, into a new repository."""
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():  # else deleted, and not yet committed
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, directory / name)
    commit_all(directory, "The template as it is now", tag="v0.1.0")


def path_without(tools: Collection[str], links: Path) -> str:
    """A PATH of links, made in a new directory, to all that is on this one but the tools named."""
    links.mkdir()
    for entry in os.environ["PATH"].split(os.pathsep):
        for program in Path(entry).iterdir() if Path(entry).is_dir() else ():
            link = links / program.name
            if program.name not in tools and not link.is_symlink():
                link.symlink_to(program)
    return str(links)


def described(process: subprocess.CompletedProcess[str]) -> str:
    """A failed command's output, for an assertion's message."""
    return f"exit status {process.returncode}\n{process.stdout}\n{process.stderr or ''}"


def offered() -> dict[str, list[str]]:
    """What may be chosen, by question, as copier.yml has it."""
    questions = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
    choices = {
        name: question["choices"]
        for name, question in questions.items()
        if isinstance(question, dict) and "choices" in question
    }
    return {
        name: list(each.values() if isinstance(each, dict) else each)
        for name, each in choices.items()
    }


def combinations(choices: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Every combination of the choices that is to be had, as answers."""
    answers: list[dict[str, str]] = [{}]
    for name, values in choices.items():
        answers = [{**others, name: one} for others in answers for one in values]
    return [
        each
        for each in answers
        if (each.get("queue_type"), each.get("overflow")) != ("fifo", "fargate")
    ]
