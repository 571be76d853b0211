"""Many process groups at once, each a Redis server and its workers: all ready, memory, all down."""

from __future__ import annotations

import os
from contextlib import ExitStack
from statistics import median

from benchmarks.group import RUNNERS
from benchmarks.lab import Lab, Unavailable, Variant, program, require
from benchmarks.processes import Driver
from benchmarks.report import Curves, Metric, Result, Target, rows_of

NAME = "group_scale"
TITLE = "Many process groups"

LAUNCH = "launch → all ready"
MEMORY = "memory (PSS) a group, all that runs for it included"
TEARDOWN = "teardown of all"

NUMBERS = (1, 10, 50, 100, 200)
MANY = 200
LAUNCHERS = 16  # workers of pytest-xdist
WORKERS = 3  # of the larger kind of group
PEER_NUMBERS = (1, 10)  # groups
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
    lines: dict[str, dict[int, str]] = {}  # a line of the plot → groups → variant
    with ExitStack() as stack:

        def driver(name: str, module: str, *arguments: str, **variables: str) -> Variant:
            log = base / f"{len(variants)}.log"
            child = Driver(f"benchmarks.drivers.{module}", *arguments, log=log, variables=variables)
            return Variant(name, stack.enter_context(child).turn)

        variants: list[Variant] = []
        for number, launchers, workers in (
            *((number, 1, 1) for number in NUMBERS),
            (MANY, LAUNCHERS, 1),
            (MANY, 1, WORKERS),
            (MANY, LAUNCHERS, WORKERS),
        ):
            by = "one process" if launchers == 1 else f"{launchers} workers of pytest-xdist"
            name = f"procgroup by {by}, {_groups(number)}"
            if workers == 1:
                lines.setdefault(f"procgroup by {by}", {})[number] = name
            else:
                name += f" with {workers} workers"
            counts = (str(number), str(launchers), str(workers))
            variants.append(driver(name, "scale_procgroup", *counts, **variables))
            mine.append(name)
            if number == MANY:
                launch[name] = Target(8)
                if workers == 1:
                    memory[name] = Target(8)
        checks = {"mirakuru": lambda: require("mirakuru"), **RUNNERS}
        for tool, check in checks.items():
            try:
                check()
            except Unavailable as missing:
                result.notes.append(f"{tool}: not measured: {missing}")
                continue
            for number in PEER_NUMBERS:
                name = f"{tool}, {_groups(number)}"
                place = base / f"{tool}-{number}"
                place.mkdir()
                arguments = (tool, str(number), server, str(place))
                variants.append(driver(name, "scale_peer", *arguments, **variables))
                lines.setdefault(tool, {})[number] = name
        few = Lab(min(lab.runs, ROUNDS), lab.scratch, lab.progress)
        samples = few.rounds(variants, result.notes)
    floor = f"procgroup by one process, {_groups(PEER_NUMBERS[-1])}"
    metrics = [
        Metric(LAUNCH, "s", floor, launch),
        Metric(MEMORY, "MiB", floor, memory),
        Metric(TEARDOWN, "s", floor),
    ]
    result.rows = rows_of(samples, metrics, mine)
    points = {
        line: [(float(number), median(values)) for number, name in numbers.items()
               if (values := samples.of(name, LAUNCH))]
        for line, numbers in lines.items()
    }  # fmt: skip
    result.curves = Curves(
        f"{TITLE}: {LAUNCH}",
        "groups",
        "seconds",
        {line: found for line, found in points.items() if found},
        ours=frozenset(line for line in points if line.startswith("procgroup")),
    )
    result.notes.append(
        "Each group is a Redis server and a worker that imports next to nothing, the same for all, and "
        f"procgroup's keeper and runsv: {4 * MANY} processes in {MANY} groups. “With {WORKERS} workers” "
        f"has so many, {(3 + WORKERS) * MANY} processes. “By {LAUNCHERS} workers” is `pytest -n {LAUNCHERS}`. Ratios are to {PEER_NUMBERS[-1]} groups of procgroup's. Its "
        "processes have launched one group before, as a test session has after its first test."
    )
    return result


def _groups(number: int) -> str:
    return "1 group" if number == 1 else f"{number} groups"
