"""The service's worker with fault switches in front: handler ``tests.doubles.faults.worker``.

A switch is a file in the process group's ``faults`` directory:

- ``crash``: the execution environment is gone, as after running out of memory;
- ``crash-after``: the same, but the work is done; only the answer is missing;
- ``hang``: the handler neither returns nor notices its deadline, as code stuck in a C call;
- ``watch``: nothing but the note.

Each delivery that meets a switch leaves a note, a ``met-…`` file with the ids of its messages.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

from . import overlay

FAULTS = Path(os.environ["PROCGROUP_GROUP_FILE"]).parent / "faults"
SWITCHES = ("crash", "crash-after", "hang", "watch")


def worker(event: dict[str, Any], context: Any) -> dict[str, Any]:
    switches = {name for name in SWITCHES if (FAULTS / name).exists()}
    if switches:
        ids = "\n".join(record["messageId"] for record in event["Records"])
        note = FAULTS / f".{os.getpid()}"
        note.write_text(ids)
        note.rename(FAULTS / f"met-{time.monotonic_ns():020}-{os.getpid()}")
    if "crash" in switches:
        os.kill(os.getpid(), signal.SIGKILL)
    while (FAULTS / "hang").exists():
        time.sleep(0.005)
    answer = overlay.worker(event, context)
    if "crash-after" in switches:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
