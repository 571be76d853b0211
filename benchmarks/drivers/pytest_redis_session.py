"""The same with pytest-redis, a test session of its own: ``pytest`` runs this file.

Timed from where the test asks for the server; pytest's own start is left out, as Python's is for
the others. $BENCHMARK_RESULT names the file that the times go to.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from mirakuru import SimpleExecutor

from benchmarks.drivers import redis_py_worker
from benchmarks.events import body, identifier
from benchmarks.group import FIRST, TEARDOWN
from benchmarks.processes import HOST, until


@pytest.fixture(scope="session")
def stopwatch() -> Iterator[dict[str, float]]:
    """Asked for before the server, so finished after it."""
    times: dict[str, float] = {}
    yield times
    measured = {
        FIRST: 1000 * (times["processed"] - times["started"]),
        TEARDOWN: 1000 * (time.perf_counter() - times["processed"]),
    }
    Path(os.environ["BENCHMARK_RESULT"]).write_text(json.dumps(measured))


def test_group(stopwatch: dict[str, float], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    greeting = identifier()
    stopwatch["started"] = time.perf_counter()
    port = request.getfixturevalue("redis_proc").port
    with SimpleExecutor([sys.executable, redis_py_worker.__file__, str(port), str(tmp_path)]):
        with redis.Redis(host=HOST, port=port) as client:
            client.rpush("greetings", body(greeting))
        document = tmp_path / f"{greeting}.txt"
        until(lambda: document.exists() or None, "the greeting is written down")
        stopwatch["processed"] = time.perf_counter()
