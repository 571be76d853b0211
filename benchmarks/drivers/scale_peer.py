"""Many groups at once with another tool: ``python -m … TOOL GROUPS SERVER DIRECTORY``.

TOOL is ``mirakuru``, which starts one process after another, or one of ``RUNNERS``, which is given a
configuration with them all. The worker is the one that procgroup's groups have.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen

from procgroup import processes

from benchmarks.drivers.group_runner import RUNNERS
from benchmarks.drivers.scale_procgroup import proportional_size
from benchmarks.group_scale import LAUNCH, MEMORY, TEARDOWN
from benchmarks.processes import HOST, PATIENCE, ROOT, free_port, pong, serve, until
from benchmarks.samples import Measured

Server = tuple[int, list[str]]  # its port, its command


def worker(port: int, place: Path) -> list[str]:
    """Its command; it says in the file `ready` that it is connected."""
    script = ROOT / "benchmarks" / "drivers" / "bare_worker.py"
    notify = f"PROCGROUP_NOTIFY={place / 'ready'}"
    return ["/usr/bin/env", notify, sys.executable, str(script), str(port), str(place)]


@contextmanager
def mirakuru(servers: list[Server], places: list[Path], _: Path) -> Iterator[None]:
    """Each server waited for, as its executor does."""
    from mirakuru import SimpleExecutor, TCPExecutor

    with ExitStack() as stack:
        for (port, command), place in zip(servers, places, strict=True):
            stack.enter_context(TCPExecutor(command, HOST, port))
            stack.enter_context(SimpleExecutor(worker(port, place)))
        yield


def runner(tool: str) -> Callable[[list[Server], list[Path], Path], object]:
    """The same for a process runner."""

    @contextmanager
    def everything(servers: list[Server], places: list[Path], directory: Path) -> Iterator[None]:
        commands = {}
        for number, ((port, command), place) in enumerate(zip(servers, places, strict=True)):
            commands[f"queue{number}"] = command
            commands[f"worker{number}"] = worker(port, place)
        with (directory / "log").open("wb") as output:
            process = Popen(
                RUNNERS[tool](commands, directory),
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                cwd=directory,
            )
        try:
            yield
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    return everything


def main(tool: str, groups: int, server: str, directory: Path) -> None:
    places = [directory / str(number) for number in range(groups)]
    for place in places:
        place.mkdir()
    tools = {"mirakuru": mirakuru, **{name: runner(name) for name in RUNNERS}}

    def turn() -> Measured:
        for place in places:
            (place / "ready").unlink(missing_ok=True)
        with ExitStack() as stack:
            started = time.perf_counter()
            ports: list[int] = []
            while len(ports) < groups:
                if (port := free_port()) not in ports:
                    ports.append(port)
            servers = [
                (port, [server, "--port", str(port), "--save", "", "--dir", str(place)])
                for port, place in zip(ports, places, strict=True)
            ]
            stack.enter_context(tools[tool](servers, places, directory))  # type: ignore[arg-type]
            for port, place in zip(ports, places, strict=True):
                until(lambda port=port: pong(port), "the server answers")  # type: ignore[misc]
                ready = place / "ready"
                until(lambda ready=ready: ready.exists() or None, "the worker is connected")  # type: ignore[misc]
            up = time.perf_counter()
            memory = sum(map(proportional_size, processes.descendants(os.getpid())))
            stopping = time.perf_counter()
        down = time.perf_counter()
        return {LAUNCH: up - started, MEMORY: memory / groups, TEARDOWN: down - stopping}

    serve(turn)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
