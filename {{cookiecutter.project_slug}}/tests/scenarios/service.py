"""What a scenario speaks to: the service under test, whatever it runs on."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from lambda_shim.records import DeadLetterRecord, DirectoryStore
from local_sqs import Queue, advance_clock
from procgroup import ProcessGroup

# Seconds to wait for what should happen within milliseconds, on the slowest of machines.
PATIENCE = 30.0


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value of the condition. Fails naming ``what`` was waited for."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:g} s in vain for {what}")
        time.sleep(0.005)
    return value


class LocalService:
    """The ``local`` ring: a process group with Redis for SQS and forked environments."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        address, name = group["queue"].address, group.variables["queue_name"]
        self.queue = Queue.open(f"redis://{address}/{name}")
        self.dead_letter_queue = Queue.open(f"redis://{address}/{name}-dead")
        self.documents = group.directory / "documents"

    # -- sending

    def send(self, message: object) -> None:
        """Send a message: an object becomes JSON, a string goes as it is."""
        self.queue.send(message if isinstance(message, str) else json.dumps(message))

    # -- outcomes

    def wait_idle(self) -> None:
        """Wait until every message is done, parked or dead-lettered."""
        wait_until(lambda: self.backlog() == 0, "an empty queue")

    def backlog(self) -> int:
        stats = self.queue.stats()
        return stats.ready + stats.in_flight + stats.delayed

    def wait_in_flight(self, count: int = 1) -> None:
        wait_until(lambda: self.queue.stats().in_flight == count, f"{count} messages in flight")

    def wait_returned(self, count: int) -> None:
        """Wait until deliveries have been answered with a batch item failure, so many in all."""
        wait_until(
            lambda: self.group["worker"].log().count("returned to the queue") >= count,
            f"{count} returned deliveries",
        )

    def records(self) -> list[DeadLetterRecord]:
        """The parked messages' records, the oldest first."""
        return DirectoryStore(str(self.group.directory / "dead-letters")).list()

    def wait_record(self) -> DeadLetterRecord:
        """The first record to appear."""
        records: list[DeadLetterRecord] = wait_until(self.records, "a dead-letter record")
        return records[0]

    # -- time

    def pass_visibility_timeout(self) -> None:
        """Let the queue's visibility timeout pass, without waiting for it: its clock is moved."""
        advance_clock(self.queue.client, self.settings["queue"]["visibility_timeout"] + 0.001)

    @property
    def settings(self) -> dict[str, Any]:
        path: Path = self.group["worker"].configs["settings.json"]
        settings: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        return settings

    # -- breaking things

    def environments(self) -> list[int]:
        """The execution environments' process ids."""
        return list(self.group["worker"].children())

    def kill_environments(self) -> None:
        for pid in self.environments():
            os.kill(pid, signal.SIGKILL)

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """Turn a switch of ``tests.doubles.faults`` on for a while."""
        switch = self.group.directory / "faults" / name
        switch.parent.mkdir(exist_ok=True)
        switch.touch()
        try:
            yield
        finally:
            switch.unlink()

    def wait_fault_met(self, count: int = 1) -> None:
        """Wait until so many deliveries in all have met a fault switch."""
        met = self.group.directory / "faults"
        wait_until(lambda: len(list(met.glob("met-*"))) >= count, f"{count} faults met")
