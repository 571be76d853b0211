"""Run tests many times in a row: ``python -m tests.repeat TIMES PYTEST-ARGUMENTS …``.

Goes on after a failure, whose output it shows, and ends with one line for the record: the date, how
often, how many runs failed, how many tests each had, and how loaded the machine was.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time


def main(times: int, arguments: list[str]) -> int:
    """Exit status 0 when no run failed."""
    missed = 0
    tests: set[str] = set()
    loads = []
    began = time.monotonic()
    for run in range(1, times + 1):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        last = done.stdout.rstrip().rpartition("\n")[2]
        loads.append(os.getloadavg()[0])
        tests.update(re.findall(r"(\d+) passed", last))
        if done.returncode:
            missed += 1
            print(done.stdout)
        print(f"run {run} of {times}: {last}; {missed} failed so far", flush=True)
    print(
        f"{time.strftime('%Y-%m-%d')}: {times} runs of {' or '.join(sorted(tests))} tests "
        f"({' '.join(arguments)}): {missed} failed; {(time.monotonic() - began) / 60:.0f} minutes, "
        f"load {min(loads):.0f} to {max(loads):.0f} on {os.cpu_count()} processors"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
