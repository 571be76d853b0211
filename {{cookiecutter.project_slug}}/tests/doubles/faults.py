"""The service's worker with fault switches in front: handler ``tests.doubles.faults.worker``.

A switch is a file in the process group's ``faults`` directory:

- ``crash``: the execution environment is gone, as after running out of memory;
- ``crash-after``: the same, but the work is done; only the answer is missing;
- ``hang``: the handler neither returns nor notices its deadline, as code stuck in a C call;
- ``watch``: nothing but the note.

Each delivery that meets a switch leaves a note, a ``met-…`` file with the ids of its messages.

Others are for the job itself, wherever it runs:

- ``more-time``: it says that it needs more time, where its time is limited;
- ``slow``: it takes as long as the switch is on;
- ``fail``: it raises;
- ``later``: it asks to be tried again ``LATER`` seconds later;
- ``save``: it takes long, too, but where its time is limited, it saves its work and says so;
- ``poison``: the message that met it first is the end of every execution environment.

Each job that meets one of them leaves a note, a ``job-…`` file with its message's id.

And one is for all that these processes write:

- ``refuse``: the record store takes nothing.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lambda_shim.batch import SqsHandler
from lambda_shim.contract import Context
from lambda_shim.objects import DirectoryObjects

from {{ cookiecutter.__package_name }}.core import jobs, messages
from {{ cookiecutter.__package_name }}.core.errors import NeedsMoreTime, Retry
from {{ cookiecutter.__package_name }}.core.ports import Ports
from {{ cookiecutter.__package_name }}.shims import aws_lambda

from . import overlay  # noqa: F401  out of the zip, adapters are found through it

FAULTS = Path(os.environ["PROCGROUP_GROUP_FILE"]).parent / "faults"
SWITCHES = ("crash", "crash-after", "hang", "watch")
JOB_SWITCHES = ("more-time", "slow", "fail", "later", "save", "poison")
LATER = 1000.0  # longer than any visibility timeout of the scenarios

put = DirectoryObjects.put

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]


def with_switches(worker: Handler) -> Handler:
    """A handler with the switches in front."""

    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        switches = met(SWITCHES, "met", *(record["messageId"] for record in event["Records"]))
        if "crash" in switches:
            os.kill(os.getpid(), signal.SIGKILL)
        while (FAULTS / "hang").exists():
            time.sleep(0.005)
        answer = worker(event, context)
        if "crash-after" in switches:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return handler


def handle(message: messages.Message, context: Context[Ports]) -> None:
    """The service's business logic, behind the switches for jobs."""
    switches = met(JOB_SWITCHES, "job", context.message_id)
    if "more-time" in switches and context.remaining is not None:
        raise NeedsMoreTime("a switch says so")
    if "poison" in switches and context.remaining is not None and first(context.message_id):
        os.kill(os.getpid(), signal.SIGKILL)
    if "later" in switches:
        raise Retry("a switch says so", after=LATER)
    if "fail" in switches:
        raise RuntimeError("a switch says so")
    while (FAULTS / "slow").exists():
        time.sleep(0.005)
    while (FAULTS / "save").exists():
        time.sleep(0.005)
        if context.remaining is not None:
            (FAULTS / f"saved-{time.monotonic_ns()}").touch()
            raise NeedsMoreTime("saved")
    jobs.handle(message, context)


def first(message_id: str) -> bool:
    """Whether this message was the first one that was asked about."""
    note = FAULTS / "poisoned"
    with suppress(FileExistsError), note.open("x") as file:
        file.write(message_id)
    return note.read_text() == message_id


def put_or_refuse(self: DirectoryObjects, key: str, data: bytes, version: str | None = None) -> str:
    """What DirectoryObjects.put is in these processes."""
    if (FAULTS / "refuse").exists():
        raise PermissionError("a switch says so")
    return put(self, key, data, version)


def met(switches: tuple[str, ...], note: str, *ids: str) -> set[str]:
    """Those of the switches that are on; if any is, a note of who met it is left."""
    found = {name for name in switches if (FAULTS / name).exists()}
    if found:
        draft = FAULTS / f".{os.getpid()}"
        draft.write_text("\n".join(ids))
        draft.rename(FAULTS / f"{note}-{time.monotonic_ns():020}-{os.getpid()}")
    return found


DirectoryObjects.put = put_or_refuse  # type: ignore[method-assign]
worker = with_switches(SqsHandler(messages.decode, handle, aws_lambda.wire))
