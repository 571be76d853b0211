"""kill -9 of a launching process: ``python -m … TOOL GROUPS SERVER DIRECTORY``: how its group ends.

With ``--victim`` this is the process that launches, and is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen

from procgroup import ProcessGroup, processes

from benchmarks.drivers.group_runner import RUNNERS
from benchmarks.drivers.scale_peer import worker
from benchmarks.group_killed import GONE, LEFT, MIRAKURU, PROCGROUP
from benchmarks.processes import HOST, free_port, pong, serve, until
from benchmarks.samples import Measured

BLUEPRINT = Path(__file__).with_name("scale_group.yaml")
PATIENCE = 2.0  # seconds


def victim(tool: str, groups: int, server: str, directory: Path) -> None:
    """Launch, say so, and wait."""
    if tool == PROCGROUP:
        launched: object = [ProcessGroup.launch(BLUEPRINT, timeout=60.0) for _ in range(groups)]
    else:
        from mirakuru import SimpleExecutor, TCPExecutor

        port = free_port()
        command = [server, "--port", str(port), "--save", "", "--dir", str(directory)]
        launched = [TCPExecutor(command, HOST, port), SimpleExecutor(worker(port, directory))]
        for each in launched:
            each.start()
    print("up", flush=True)
    while launched:
        time.sleep(1)


def main(tool: str, groups: int, server: str, directory: Path) -> None:
    def turn() -> Measured:
        ready = directory / "ready"
        ready.unlink(missing_ok=True)
        if tool in (PROCGROUP, MIRAKURU):
            module = [sys.executable, "-m", "benchmarks.drivers.killed", *sys.argv[1:], "--victim"]
            process = Popen(module, stdin=DEVNULL, stdout=PIPE)
            assert process.stdout is not None
            if process.stdout.readline() != b"up\n":
                raise RuntimeError(f"{tool} did not launch")
            process.stdout.close()
        else:
            port = free_port()
            queue = [server, "--port", str(port), "--save", "", "--dir", str(directory)]
            command = RUNNERS[tool]({"queue": queue, "worker": worker(port, directory)}, directory)
            process = Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=STDOUT, cwd=directory)
            until(lambda: pong(port), "the server answers")
        if tool != PROCGROUP:
            until(lambda: ready.exists() or None, "the worker is connected")
        started = {
            pid: token
            for pid in processes.descendants(process.pid)
            if (token := processes.started(pid))
        }

        def alive() -> list[int]:
            return [pid for pid, token in started.items() if processes.alive(pid, token)]

        began = time.perf_counter()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        while (left := alive()) and time.perf_counter() - began < PATIENCE:
            time.sleep(0.001)
        took = time.perf_counter() - began
        for pid in left:
            processes.send(pid, signal.SIGKILL)
        until(lambda: not alive() or None, "the rest is gone, too")
        return {LEFT: len(left)} | ({} if left else {GONE: 1000 * took})

    serve(turn)


if __name__ == "__main__":
    told = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    (victim if "--victim" in sys.argv else main)(*told)
