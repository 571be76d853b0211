"""User CPU for each record of a 10-record SQS event: decode and dispatch, with a job that does nothing."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.drivers.record_cpu import METRIC
from benchmarks.lab import Lab, Unavailable, Variant, require
from benchmarks.processes import Driver
from benchmarks.report import Metric, Result, Target, rows_of

NAME = "record_cpu"
TITLE = "CPU per record"

FLOOR = "stdlib json (floor)"
CHECKED = "stdlib json + dataclass"
OURS = "lambda_shim + msgspec"
POWERTOOLS = "Powertools batch + pydantic"


def run(lab: Lab) -> Result:
    """Measure it."""
    result = Result(NAME, TITLE)
    service = lab.baked("minimal")
    handlers = {
        FLOOR: ["json_floor"],
        CHECKED: ["json_checked"],
        OURS: ["ours", str(service / "src"), str(service / "vendor" / "lambda_shim")],
    }
    try:
        require("aws_lambda_powertools", "pydantic")
        handlers[POWERTOOLS] = ["powertools_pydantic"]
    except Unavailable as missing:
        result.notes.append(f"{POWERTOOLS}: not measured: {missing}")
    with ExitStack() as stack:
        logs = lab.directory(NAME)
        variants = []
        for name, arguments in handlers.items():
            driver = Driver(
                "benchmarks.drivers.record_cpu", *arguments, log=logs / f"{arguments[0]}.log"
            )
            variants.append(Variant(name, stack.enter_context(driver).turn))
        samples = lab.rounds(variants, result.notes)
    metric = Metric(METRIC, "µs", FLOOR, {OURS: Target(2.5)})
    result.rows = rows_of(samples, [metric], [OURS])
    result.notes.append(
        "The floor checks nothing and fails a batch as a whole; ours checks each field, isolates "
        "each record, guards the deadline and stamps log lines."
    )
    return result
