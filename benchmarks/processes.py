"""Child processes: drivers that measure, servers that are measured against."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from benchmarks.samples import Measured

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
PATIENCE = 30.0  # seconds until a step that should take milliseconds is called hanging

# Set by the caller's `make`, virtual environment or test run; a child must not inherit them. (The
# PYTHON ones above all: an interpreter that may not write bytecode compiles everything anew.)
FOREIGN = ("PYTHON", "PYTEST_", "VIRTUAL_ENV", "MAKE", "MFLAGS", "GIT_", "AWS_", "PROCGROUP_")


def environment(**changes: str) -> dict[str, str]:
    """A plain environment for a child process."""
    return {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)} | changes


def until(condition: Callable[[], T | None], what: str, pause: float = 0.0005) -> T:
    """Wait until a condition gives something. Raises TimeoutError saying what did not happen."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found is not None:
            return found
        time.sleep(pause)
    raise TimeoutError(f"not within {PATIENCE:g} s: {what}")


class Driver:
    """A process that measures one variant: ``python -m MODULE ARGUMENTS`` serving turns.

    What a variant imports or starts so stays apart from the others, and costs them nothing.
    """

    def __init__(
        self, module: str, *arguments: str, log: Path, variables: dict[str, str] | None = None
    ) -> None:
        """``log``: where the process's output goes; its end is quoted in errors."""
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env=environment(**(variables or {})),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        self._to: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        self._from: IO[bytes] = self._process.stdout  # type: ignore[assignment]

    def turn(self) -> Measured:
        """Have it do its work once. Raises RuntimeError with the process's last words."""
        with contextlib.suppress(BrokenPipeError):
            self._to.write(b"turn\n")
            self._to.flush()
        answer = self._from.readline()
        if not answer:
            raise RuntimeError(f"the driver ended: {self._last_words()}")
        decoded = json.loads(answer)
        if "error" in decoded:
            raise RuntimeError(decoded["error"])
        measured: dict[str, float] = decoded
        return measured

    def close(self) -> None:
        """End the process; by its leave, since it may have children of its own to end."""
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._from.close()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.wait()}"

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()


def serve(turn: Callable[[], Measured]) -> None:
    """A driver's main loop: a turn for each line on stdin, until its end.

    The answers go to the original stdout; whatever the measured code prints goes to stderr.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for _ in sys.stdin:
        try:
            answer: Measured | dict[str, str] = turn()
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def free_port() -> int:
    """A port that was free just now; who starts a server on it must check that it is his."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def pong(port: int) -> bool | None:
    """True when a Redis server answers PING there, else None (for ``until``)."""
    try:
        with socket.create_connection((HOST, port), timeout=PATIENCE) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG") or None
    except OSError:
        return None


@contextlib.contextmanager
def process(
    command: Sequence[str], log: Path, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, killed at the end."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@contextlib.contextmanager
def redis_server(binary: str, directory: Path) -> Iterator[int]:
    """A Redis-compatible server without persistence; gives its port."""
    port = free_port()
    command = [binary, "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(directory)]
    with process(command, directory / "redis.log") as child:

        def up() -> bool | None:
            if child.poll() is not None:
                raise RuntimeError(f"{binary} ended with status {child.returncode}")
            return pong(port)

        until(up, f"{binary} answers PING")
        yield port


@contextlib.contextmanager
def moto_server(directory: Path) -> Iterator[str]:
    """moto's server of AWS doubles; gives its URL."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with process(command, directory / "moto.log") as child:

        def up() -> bool | None:
            if child.poll() is not None:
                raise RuntimeError(f"moto ended with status {child.returncode}")
            try:
                socket.create_connection((HOST, port), timeout=1).close()
            except OSError:
                return None
            return True

        until(up, "moto listens", pause=0.01)
        yield f"http://{HOST}:{port}"


# boto3 asks for these; moto takes any.
AWS_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
