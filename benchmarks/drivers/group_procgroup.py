"""A group of procgroup's: ``python -m … BLUEPRINT SUPERVISOR SERVER``: launch, one message, teardown.

The blueprint's worker puts a file named after the greeting somewhere into the group's directory.
``SUPERVISOR`` may be ``auto``. ``SERVER`` is a blueprint's `binary` entry. PYTHONPATH holds the service
and its vendored packages, which a service's own environment would have installed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from local_sqs.client import Client
from procgroup import ProcessGroup

from benchmarks.events import body, identifier
from benchmarks.group import AUTO, FIRST, TEARDOWN
from benchmarks.processes import serve, until
from benchmarks.samples import Measured


def main(blueprint: Path, supervisor: str, server: str) -> None:
    def turn() -> Measured:
        greeting = identifier()
        started = time.perf_counter()
        group = ProcessGroup.launch(
            blueprint,
            supervisor=None if supervisor == AUTO else supervisor,
            overrides={"roles": {"queue": {"binary": [server]}}},
        )
        try:
            with Client.from_url(f"redis://{group['queue'].address}") as redis:
                redis.execute("RPUSH", "greetings", body(greeting))
            places = [group.directory, group.directory / "documents"]
            until(
                lambda: any((place / f"{greeting}.txt").exists() for place in places) or None,
                "the greeting is written down",
            )
            processed = time.perf_counter()
            pids = [role.pid for role in (group["queue"], group["worker"])]
            pids += group["worker"].children()
            stopping = time.perf_counter()
        finally:
            group.close()
        done = time.perf_counter()
        alive = [pid for pid in pids if pid and os.path.exists(f"/proc/{pid}")]
        if alive:
            raise RuntimeError(f"still there after the teardown: {alive}")
        return {FIRST: 1000 * (processed - started), TEARDOWN: 1000 * (done - stopping)}

    serve(turn)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
