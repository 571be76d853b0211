"""Many groups at once: ``python -m … GROUPS PROCESSES WORKERS``: all up, memory, all down.

The groups are spread over that many launching processes, as over the workers of pytest-xdist; each
launches its share from a few threads, since most of a launch is waiting.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

from procgroup import ProcessGroup, processes

from benchmarks.group_scale import LAUNCH, MEMORY, TEARDOWN
from benchmarks.processes import serve
from benchmarks.samples import Measured

BLUEPRINT = Path(__file__).with_name("scale_group.yaml")
THREADS = 4


def launcher(share: int, workers: int, orders: Connection) -> None:
    """Bring a share of the groups up and down, as told."""
    overrides = {"roles": {"worker": {"replicas": workers}}}
    ProcessGroup.launch(BLUEPRINT).close()  # as any test session, it has launched before
    orders.send("here")
    with ThreadPoolExecutor(THREADS) as threads:
        while orders.recv():
            begin = [
                threads.submit(ProcessGroup.launch, BLUEPRINT, overrides=overrides, timeout=60.0)
                for _ in range(share)
            ]
            groups = [each.result() for each in begin]
            orders.send("up")
            orders.recv()
            for _ in threads.map(ProcessGroup.close, groups):
                pass
            orders.send("down")


def proportional_size(pid: int) -> float:
    """A process's own memory and its part of what it shares, in MiB; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def main(groups: int, launchers: int, workers: int) -> None:
    context = get_context("spawn")
    shares = [groups // launchers + (place < groups % launchers) for place in range(launchers)]
    pipes = []
    pids = []
    for share in shares:
        ours, theirs = context.Pipe()
        process = context.Process(target=launcher, args=(share, workers, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        pids.append(process.pid or 0)

    def everyone(order: object) -> float:
        """Give all the same order; seconds until the last has carried it out."""
        began = time.perf_counter()
        for pipe in pipes:
            pipe.send(order)
        hear()
        return time.perf_counter() - began

    def hear() -> None:
        silent = list(pipes)
        while silent:
            for pipe in wait(silent):
                assert isinstance(pipe, Connection)
                pipe.recv()
                silent.remove(pipe)

    hear()

    def turn() -> Measured:
        up = everyone(True)
        everyone_there = [pid for parent in pids for pid in processes.descendants(parent)]
        memory = sum(map(proportional_size, everyone_there))
        down = everyone("down")
        return {LAUNCH: up, MEMORY: memory / groups, TEARDOWN: down}

    serve(turn)
    for pipe in pipes:
        pipe.send(False)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
