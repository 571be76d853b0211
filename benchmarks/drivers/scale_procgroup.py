"""Many groups at once: ``python -m … GROUPS LAUNCHERS WORKERS``: all up, memory, all down.

The groups are launched by this process's one child, or spread over that many workers of pytest-xdist,
in each of which this file is a test. Each launches its share from a few threads, since most of a
launch is waiting.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path

from procgroup import ProcessGroup, processes

from benchmarks.group_scale import LAUNCH, MEMORY, TEARDOWN
from benchmarks.processes import serve
from benchmarks.samples import Measured

BLUEPRINT = Path(__file__).with_name("scale_group.yaml")
THREADS = 4
ADDRESS = "SCALE_PROCGROUP"  # the variable with the socket's path
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--dist", "each", "--timeout", "0")


def test_launcher() -> None:
    """Bring a share of the groups up and down, as told."""
    with Client(os.environ[ADDRESS]) as orders, ThreadPoolExecutor(THREADS) as threads:
        orders.send(os.getpid())
        share, workers = orders.recv()
        overrides = {"roles": {"worker": {"replicas": workers}}}
        ProcessGroup.launch(BLUEPRINT).close()  # as any test session, it has launched before
        orders.send("here")
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
    shares = [groups // launchers + (place < groups % launchers) for place in range(launchers)]
    with tempfile.TemporaryDirectory() as scratch, Listener(f"{scratch}/s") as listener:
        alone = ("-c", f"import {__spec__.name} as driver; driver.test_launcher()")
        program = alone if launchers == 1 else (*PYTEST, "-n", str(launchers), __file__)
        session = subprocess.Popen(
            [sys.executable, *program],
            env=os.environ | {ADDRESS: str(listener.address)},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        pipes = [listener.accept() for _ in shares]
    pids = [pipe.recv() for pipe in pipes]
    for pipe, share in zip(pipes, shares, strict=True):
        pipe.send((share, workers))

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
    session.wait()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
