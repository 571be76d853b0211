"""The floor of a group: ``python -m … SERVER DIRECTORY``: a server's exec → PONG, then a bare Python's start."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

from benchmarks.group import FIRST, PONG, TEARDOWN
from benchmarks.processes import HOST, free_port, pong, serve, until
from benchmarks.samples import Measured

PYTHON = [sys.executable, "-c", "import os; os.write(1, b'started'); os.read(0, 1)"]


@contextmanager
def ended(process: Popen[bytes]) -> Iterator[Popen[bytes]]:
    """The process, killed at the end."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def main(server: str, directory: Path) -> None:
    config = directory / "redis.conf"

    def turn() -> Measured:
        port = free_port()
        # As in the service's own blueprint.
        config.write_text(
            f'bind {HOST}\nport {port}\ndir "{directory}"\nappendonly no\nsave ""\nhz 500\n'
        )
        with ExitStack() as stack:
            started = time.perf_counter()
            redis = stack.enter_context(ended(Popen([server, str(config)], stdout=DEVNULL)))

            def up() -> bool | None:
                if redis.poll() is not None:
                    raise RuntimeError(f"{server} ended with status {redis.returncode}")
                return pong(port)

            until(up, f"{server} answers PING")
            answered = time.perf_counter()
            python = stack.enter_context(ended(Popen(PYTHON, stdin=PIPE, stdout=PIPE)))
            assert python.stdout is not None
            if python.stdout.read(7) != b"started":
                raise RuntimeError("the bare Python did not start")
            ready = time.perf_counter()
        done = time.perf_counter()
        return {
            PONG: 1000 * (answered - started),
            FIRST: 1000 * (ready - started),
            TEARDOWN: 1000 * (done - ready),
        }

    serve(turn)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
