"""``python -m benchmarks``: measure, print the tables, write docs/benchmarks.md and its plot."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import traceback
from pathlib import Path

from benchmarks import plot
from benchmarks.lab import ROOT, Lab, Progress, Unavailable
from benchmarks.report import Result, as_json, insert, machine, markdown

NAMES = (
    "generation",
    "group",
    "group_scale",
    "group_killed",
    "lambda_init",
    "record_cpu",
    "queue_throughput",
    "mapping",
)
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "benchmarks.svg"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=NAMES,
        metavar="NAME",
        help=f"measure this one ({', '.join(NAMES)}); may be repeated; leaves the page as it is",
    )
    parser.add_argument("--runs", type=int, default=15, help="rounds that count (default 15)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def main(arguments: list[str]) -> int:
    """Exit status 0 when everything could be measured, whatever it came to; else 1."""
    options = parse(arguments)
    progress = Progress()
    results = []
    broken = False
    # Short, because the paths of sockets in it are limited.
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
        lab = Lab(options.runs, Path(scratch), progress)
        for name in options.only or NAMES:
            module = importlib.import_module(f"benchmarks.{name}")
            progress.begin(name)
            try:
                result = module.run(lab)
            except Unavailable as missing:
                result = Result(name, module.TITLE, notes=[f"not measured: {missing}"])
            except Exception as error:
                progress.say(traceback.format_exc())
                note = f"not measured: {type(error).__name__}: {error}"
                result = Result(name, module.TITLE, notes=[note])
                broken = True
            progress.end()
            results.append(result)
            print(markdown(result), end="\n\n", flush=True)
    print(machine())
    if options.json:
        options.json.write_text(json.dumps(as_json(results), indent=2, ensure_ascii=False) + "\n")
    if not options.only and not broken:
        text = "\n\n".join([f"Measured on {machine()}.", *map(markdown, results)])
        PAGE.write_text(insert(PAGE.read_text(), text))
        PICTURE.write_text(plot.svg(results))
        written = [PAGE, PICTURE]
        for result in results:
            if result.curves is not None:
                written.append(PAGE.with_name(f"{result.name}.svg"))
                written[-1].write_text(plot.curves_svg(result.curves))
        print(f"written: {', '.join(str(path.relative_to(ROOT)) for path in written)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
