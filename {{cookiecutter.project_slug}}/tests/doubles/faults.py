"""The service's worker with fault switches in front: handler ``tests.doubles.faults.worker``.

A switch is a file in the process group's ``faults`` directory:

- ``crash``: the execution environment is gone, as after running out of memory;
- ``hang``: the handler neither returns nor notices its deadline, as code stuck in a C call.

Each delivery that meets a switch leaves a ``met-…`` file.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

from {{ cookiecutter.__package_name }}.shims import aws_lambda

FAULTS = Path(os.environ["PROCGROUP_GROUP_FILE"]).parent / "faults"


def worker(event: dict[str, Any], context: Any) -> dict[str, Any]:
    crash, hang = FAULTS / "crash", FAULTS / "hang"
    if crash.exists() or hang.exists():
        (FAULTS / f"met-{os.getpid()}-{time.monotonic_ns()}").touch()
    if crash.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    while hang.exists():
        time.sleep(0.005)
    return aws_lambda.worker(event, context)
