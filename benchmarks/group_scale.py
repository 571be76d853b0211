"""Many process groups at once, each a Redis server and three workers: all ready, memory, all down."""

from __future__ import annotations

import os
from contextlib import ExitStack

from benchmarks.lab import Lab, Unavailable, Variant, program, require
from benchmarks.processes import Driver
from benchmarks.report import Metric, Result, Target, rows_of

NAME = "group_scale"
TITLE = "Many process groups"

LAUNCH = "launch → all ready"
MEMORY = "memory (PSS) a group, wardens and keepers included"
TEARDOWN = "teardown of all"

WORKERS = 3
NUMBERS = (1, 10, 50, 100, 200)
MANY = 200
LAUNCHERS = 16  # processes, as many as pytest-xdist would start with `-n 16`
PEERS = 10  # groups; they take half a second each
ROUNDS = 5  # at most; one takes as long as dozens of the other benchmarks'


def run(lab: Lab) -> Result:
    """Measure it."""
    result = Result(NAME, TITLE)
    base = lab.directory(NAME)
    server = program("redis-server")
    tree = lab.baked("minimal") / "vendor"
    variables = {
        "PYTHONPATH": os.pathsep.join([os.getcwd(), str(tree / "procgroup")]),
        "PROCGROUP_STATE_DIR": str(base / "state"),
    }
    launch, memory = {}, {}
    mine = []
    with ExitStack() as stack:

        def driver(name: str, module: str, *arguments: str, **variables: str) -> Variant:
            log = base / f"{name}.log"
            child = Driver(f"benchmarks.drivers.{module}", *arguments, log=log, variables=variables)
            return Variant(name, stack.enter_context(child).turn)

        variants = []
        for number, launchers in (*((number, 1) for number in NUMBERS), (MANY, LAUNCHERS)):
            by = "one process" if launchers == 1 else f"{launchers} processes"
            name = f"procgroup, {number} {'group' if number == 1 else 'groups'} by {by}"
            arguments = (str(number), str(launchers))
            variants.append(driver(name, "scale_procgroup", *arguments, **variables))
            mine.append(name)
            if number == MANY:
                launch[name], memory[name] = Target(8), Target(8)
        try:
            require("mirakuru", "port_for", "redis")
            name = f"mirakuru + port-for, {PEERS} groups by one process, redis-py"
            variants.append(driver(name, "scale_mirakuru", str(PEERS), server, str(base)))
        except Unavailable as missing:
            result.notes.append(f"mirakuru: not measured: {missing}")
        few = Lab(min(lab.runs, ROUNDS), lab.scratch, lab.progress)
        samples = few.rounds(variants, result.notes)
    floor = f"procgroup, {PEERS} groups by one process"
    metrics = [
        Metric(LAUNCH, "s", floor, launch),
        Metric(MEMORY, "MiB", None, memory),
        Metric(TEARDOWN, "s", floor),
    ]
    result.rows = rows_of(samples, metrics, mine)
    result.notes.append(
        f"Each group has {1 + WORKERS} processes: a Redis server and {WORKERS} Python workers. "
        f"Ratios are to {PEERS} groups of procgroup's. Processes have launched one group before, "
        "as a test session has after its first test."
    )
    return result
