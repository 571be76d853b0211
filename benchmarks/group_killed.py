"""kill -9 of what launched a process group: how long until all is gone, and what is left."""

from __future__ import annotations

import os
from contextlib import ExitStack

from benchmarks.group import RUNNERS
from benchmarks.lab import Lab, Unavailable, Variant, program, require
from benchmarks.processes import Driver
from benchmarks.report import Metric, Result, Target, rows_of

NAME = "group_killed"
TITLE = "The launching process killed with -9"

GONE = "kill -9 → all gone"
LEFT = "left after two seconds"
PROCGROUP, MIRAKURU = "procgroup", "mirakuru"
NUMBERS = (1, 20)  # groups


def run(lab: Lab) -> Result:
    """Measure it."""
    result = Result(NAME, TITLE)
    base = lab.directory(NAME)
    server = program("redis-server")
    variables = {
        "PYTHONPATH": os.pathsep.join(
            [os.getcwd(), str(lab.baked("minimal") / "vendor" / "procgroup")]
        ),
        "PROCGROUP_STATE_DIR": str(base / "state"),
    }
    gone, none = {}, {}
    with ExitStack() as stack:

        def driver(name: str, tool: str, number: int) -> Variant:
            place = base / name.replace(" ", "-")
            place.mkdir()
            module = "benchmarks.drivers.killed"
            arguments = (tool, str(number), server, str(place))
            child = Driver(module, *arguments, log=place / "log", variables=variables)
            return Variant(name, stack.enter_context(child).turn)

        variants = []
        for number in NUMBERS:
            name = f"procgroup, {number} {'group' if number == 1 else 'groups'}"
            variants.append(driver(name, PROCGROUP, number))
            gone[name], none[name] = Target(500), Target(0)
        for tool, check in {MIRAKURU: lambda: require("mirakuru"), **RUNNERS}.items():
            try:
                check()
                variants.append(driver(f"{tool}, 1 group", tool, 1))
            except Unavailable as missing:
                result.notes.append(f"{tool}: not measured: {missing}")
        samples = lab.rounds(variants, result.notes)
    metrics = [Metric(GONE, "ms", None, gone), Metric(LEFT, "processes", None, none)]
    result.rows = rows_of(samples, metrics, gone)
    result.notes.append(
        "Each group is a Redis server and a worker. Killed is the process that a test would be, or the "
        "runner; what a tool leaves behind is gone never, and has no time."
    )
    return result
