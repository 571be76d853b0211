"""The same with mirakuru and port-for: ``python -m … SERVER DIRECTORY``; the worker uses redis-py."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import redis
from mirakuru import SimpleExecutor, TCPExecutor
from port_for import select_random

from benchmarks.drivers import redis_py_worker
from benchmarks.events import body, identifier
from benchmarks.group import FIRST, TEARDOWN
from benchmarks.processes import HOST, serve, until
from benchmarks.samples import Measured


def main(server: str, directory: Path) -> None:
    def turn() -> Measured:
        greeting = identifier()
        started = time.perf_counter()
        port = select_random()
        command = [server, "--port", str(port), "--save", "", "--dir", str(directory)]
        worker = [sys.executable, redis_py_worker.__file__, str(port), str(directory)]
        with TCPExecutor(command, HOST, port), SimpleExecutor(worker):
            with redis.Redis(host=HOST, port=port) as client:
                client.rpush("greetings", body(greeting))
            document = directory / f"{greeting}.txt"
            until(lambda: document.exists() or None, "the greeting is written down")
            processed = time.perf_counter()
        done = time.perf_counter()
        return {FIRST: 1000 * (processed - started), TEARDOWN: 1000 * (done - processed)}

    serve(turn)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
