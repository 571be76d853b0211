"""The same with a process runner: ``python -m … TOOL SERVER DIRECTORY``; the worker uses redis-py.

TOOL is one of ``RUNNERS``. Each runs in the foreground with a configuration of its own for each
turn, as it would for a test, and is asked to end by the signal that it is made for.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen

import redis

from benchmarks.drivers import redis_py_worker
from benchmarks.events import body, identifier
from benchmarks.group import FIRST, TEARDOWN
from benchmarks.processes import HOST, PATIENCE, free_port, serve, until
from benchmarks.samples import Measured

Commands = dict[str, list[str]]


def honcho(commands: Commands, directory: Path) -> list[str]:
    """https://honcho.readthedocs.io"""
    procfile = directory / "Procfile"
    procfile.write_text("".join(f"{name}: {shlex.join(commands[name])}\n" for name in commands))
    return [sys.executable, "-m", "honcho", "-f", str(procfile), "start"]


def supervisord(commands: Commands, directory: Path) -> list[str]:
    """http://supervisord.org"""
    programs = [
        f"[program:{name}]\ncommand={shlex.join(commands[name])}\nstartsecs=0\n"
        for name in commands
    ]
    config = directory / "supervisord.conf"
    head = f"[supervisord]\nnodaemon=true\ndirectory={directory}\npidfile={directory}/pid\n"
    config.write_text(head + "".join(programs))
    return [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]


def process_compose(commands: Commands, directory: Path) -> list[str]:
    """https://f1bonacci.github.io/process-compose"""
    config = directory / "process-compose.json"  # JSON is YAML, too
    processes = {name: {"command": shlex.join(commands[name])} for name in commands}
    config.write_text(json.dumps({"version": "0.5", "processes": processes}))
    return ["process-compose", "--tui=false", "--no-server", "-f", str(config), "up"]


RUNNERS = {"honcho": honcho, "supervisord": supervisord, "process-compose": process_compose}


def main(tool: str, server: str, directory: Path) -> None:
    def turn() -> Measured:
        greeting = identifier()
        started = time.perf_counter()
        port = free_port()
        queue = [server, "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(directory)]
        worker = [sys.executable, redis_py_worker.__file__, str(port), str(directory)]
        command = RUNNERS[tool]({"queue": queue, "worker": worker}, directory)
        log = directory / "log"
        with log.open("wb") as output:
            runner = Popen(command, stdin=DEVNULL, stdout=output, stderr=STDOUT, cwd=directory)
        try:
            client = redis.Redis(host=HOST, port=port)

            def pushed() -> bool | None:
                if runner.poll() is not None:
                    raise RuntimeError(f"{tool} ended: {log.read_text(errors='replace')[-300:]}")
                try:
                    client.rpush("greetings", body(greeting))
                except redis.ConnectionError:
                    return None
                return True

            until(pushed, "the server takes the message")
            document = directory / f"{greeting}.txt"
            until(lambda: document.exists() or None, "the greeting is written down")
            processed = time.perf_counter()
            client.close()
            runner.send_signal(signal.SIGTERM)
            runner.wait(PATIENCE)
        finally:
            if runner.poll() is None:
                runner.kill()
                runner.wait()
        done = time.perf_counter()
        return {FIRST: 1000 * (processed - started), TEARDOWN: 1000 * (done - processed)}

    serve(turn)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
