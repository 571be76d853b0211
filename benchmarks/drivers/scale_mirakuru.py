"""Many groups at once with mirakuru and port-for: ``python -m … GROUPS SERVER DIRECTORY``."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

from mirakuru import SimpleExecutor, TCPExecutor
from port_for import select_random

from benchmarks.drivers import redis_py_worker
from benchmarks.group_scale import LAUNCH, TEARDOWN, WORKERS
from benchmarks.processes import HOST, serve
from benchmarks.samples import Measured


def main(groups: int, server: str, directory: Path) -> None:
    def turn() -> Measured:
        with ExitStack() as stack:
            started = time.perf_counter()
            for _ in range(groups):
                port = select_random()
                command = [server, "--port", str(port), "--save", "", "--dir", str(directory)]
                stack.enter_context(TCPExecutor(command, HOST, port))
                for _ in range(WORKERS):
                    worker = [sys.executable, redis_py_worker.__file__, str(port), str(directory)]
                    stack.enter_context(SimpleExecutor(worker))
            up = time.perf_counter()
        return {LAUNCH: up - started, TEARDOWN: time.perf_counter() - up}

    serve(turn)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
