"""What a scenario speaks to: the service under test, whatever it runs on."""

import json
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager{% if cookiecutter.overflow == 'fargate' %}, suppress{% endif %}
from pathlib import Path
from typing import Any

import msgspec
{%- if cookiecutter.overflow == 'fargate' %}
from lambda_shim import budget
from lambda_shim.dispatcher import ANSWER_MOST
from lambda_shim.objects import Conflict
from lambda_shim.records import KEEP, DeadLetterRecord, DirectoryStore
{%- else %}
from lambda_shim.records import DeadLetterRecord, DirectoryStore
{%- endif %}
from local_sqs import {% if cookiecutter.queue_type == 'fifo' %}Entry, {% endif %}Queue, advance_clock
from local_sqs.faults import set_faults
{%- if cookiecutter.overflow == 'fargate' %}
from local_sqs.tasks import TaskClient
{%- endif %}
from procgroup import ProcessGroup

# Seconds to wait for what should happen within milliseconds, on the slowest of machines.
PATIENCE = 30.0
{%- if cookiecutter.overflow == 'fargate' %}
# Seconds within which the local ECS has answered, or nobody hears it any more.
ANSWERED = 5.0
{%- endif %}


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value of the condition. Fails naming ``what`` was waited for."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:g} s in vain for {what}")
        time.sleep(0.005)
    return value


class Service(ABC):
    """What every ring gives."""

    # -- sending
{% if cookiecutter.queue_type == 'fifo' %}
    @abstractmethod
    def send(self, message: object, group: str = "one") -> str:
        """Send a message, an object becomes JSON, a string goes as it is. Returns its id."""
{%- else %}
    @abstractmethod
    def send(self, message: object) -> str:
        """Send a message, an object becomes JSON, a string goes as it is. Returns its id."""
{%- endif %}

    # -- outcomes

    @abstractmethod
    def wait_idle(self) -> None:
        """Wait until every message is done, parked or dead-lettered."""

    @abstractmethod
    def backlog(self) -> int:
        """Messages that wait, are in flight or delayed."""

    @abstractmethod
    def records(self) -> list[DeadLetterRecord]:
        """The parked messages' records, the oldest first."""

    def wait_record(self, state: str = "parked") -> DeadLetterRecord:
        """The first record to be in this state."""
        records: list[DeadLetterRecord] = wait_until(
            lambda: [record for record in self.records() if record.state == state],
            f"a dead-letter record that is {state}",
            self.patience,
        )
        return records[0]

    @abstractmethod
    def stored(self) -> list[tuple[str, str]]:
        """The documents' names, each with what changes when it is written again."""

    patience = PATIENCE


class LocalService(Service):
    """The ``local`` and ``runtime`` rings: a process group with Redis for SQS."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        redis, names = f"redis://{group['queue'].address}", group.variables
        self.queue = Queue.open(f"{redis}/{names['queue_name']}")
        self.dead_letter_queue = Queue.open(f"{redis}/{names['dead_letter_queue_name']}")
        self.dead_letters = group.directory / "dead-letters"
        self.documents = group.directory / "documents"
{%- if cookiecutter.overflow == 'fargate' %}
        self.tasks = TaskClient(group["tasks"].address)
{%- endif %}
{% if cookiecutter.queue_type == 'fifo' %}
    def send(self, message: object, group: str = "one") -> str:
        body = message if isinstance(message, str) else json.dumps(message)
        return self.queue.send(body, group_id=group)

    def send_together(self, *messages: object) -> None:
        """Send messages so that each delivery has all of them in one batch."""
        self.queue.send_batch(Entry(json.dumps(each), group_id="one") for each in messages)
{%- else %}
    def send(self, message: object) -> str:
        return self.queue.send(message if isinstance(message, str) else json.dumps(message))

    def send_together(self, *messages: object) -> None:
        """Send messages so that each delivery has all of them in one batch."""
        self.queue.send_batch(json.dumps(each) for each in messages)
{%- endif %}

    def wait_idle(self) -> None:
        wait_until(lambda: self.backlog() == 0, "an empty queue")

    def backlog(self) -> int:
        stats = self.queue.stats()
        return stats.ready + stats.in_flight + stats.delayed

    def wait_in_flight(self, count: int = 1) -> None:
        wait_until(lambda: self.queue.stats().in_flight == count, f"{count} messages in flight")

    def wait_returned(self, count: int) -> None:
        """Wait until deliveries have been answered with a batch item failure, so many in all."""
        self.wait_worker_says("returned to the queue", count)

    def wait_worker_says(self, text: str, count: int = 1) -> None:
        """Wait until the worker's log has this so many times."""
        wait_until(
            lambda: self.group["worker"].log().count(text) >= count, f"{text!r}, {count} times"
        )

    def records(self) -> list[DeadLetterRecord]:
        return DirectoryStore(str(self.dead_letters)).list()

    def stored(self) -> list[tuple[str, str]]:
        return sorted(
            (path.relative_to(self.documents).as_posix(), str(path.stat().st_ino))
            for path in self.documents.rglob("[!.]*.*")
        )

    def loaded_modules(self) -> dict[str, str | None]:
        """With ``--zip``: the modules of an environment that has done a job, and their files."""
        text = (self.group.directory / "loaded.json").read_text()
        loaded: dict[str, str | None] = json.loads(text)
        return loaded

    # -- time

    def pass_visibility_timeout(self) -> None:
        """Let the queue's visibility timeout pass, without waiting for it: its clock is moved."""
        advance_clock(self.queue.client, self.settings["queue"]["visibility_timeout"] + 0.001)

{%- if cookiecutter.queue_type == 'fifo' %}

    def pass_deduplication_interval(self) -> None:
        """Let the five minutes pass within which a FIFO queue takes no message twice."""
        advance_clock(self.queue.client, 300.001)
{%- endif %}

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

    def break_queue(self, **faults: Any) -> None:
        """Have the queue do what SQS may do on any day: see `local_sqs.faults.set_faults`."""
        set_faults(self.queue.client, self.queue.name, **faults)

    def stop_dispatcher(self) -> None:
        """Have dead letters stay in their queue, where they can be looked at."""
        self.group["dispatcher"].stop()

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

    def met_fault(self) -> list[str]:
        """The message ids of the deliveries that met a fault switch, in their order."""
        notes = sorted((self.group.directory / "faults").glob("met-*"))
        return [identifier for note in notes for identifier in note.read_text().split()]

    def wait_fault_met(self, count: int = 1) -> None:
        """Wait until so many deliveries in all have met a fault switch."""
        wait_until(lambda: len(self.met_fault()) >= count, f"{count} faults met")

    def wait_job_met(self, count: int = 1) -> None:
        """Wait until so many jobs in all have met a fault switch for jobs."""
        notes = self.group.directory / "faults"
        wait_until(lambda: len(list(notes.glob("job-*"))) >= count, f"{count} faults met by jobs")
{%- if cookiecutter.overflow == 'fargate' %}

    # -- the overflow

    def dispatcher_log(self) -> str:
        """Of the function, whether it was invoked for messages or, by the task agent, for events."""
        return self.group["dispatcher"].log() + self.group["tasks"].log()

    def wait_taken_up(self, patience: float = PATIENCE) -> DeadLetterRecord:
        """The first record that a task runs.

        On a machine that is busy enough Lambda kills a function before it has put its message on
        record. Then the message comes back, and is dead-lettered in the end.
        """
        timeouts = 0

        def taken_up() -> list[DeadLetterRecord]:
            nonlocal timeouts
            if (count := self.group["worker"].log().count("Task timed out")) > timeouts:
                timeouts = count
                self.pass_visibility_timeout()
            return [record for record in self.records() if record.state == "running"]

        records: list[DeadLetterRecord] = wait_until(
            taken_up, "a task to take a record up", patience
        )
        return records[0]

    def launches(self) -> list[budget.Task]:
        """What the dispatcher has booked, those that ECS has yet to answer included."""
        objects = DirectoryStore(str(self.dead_letters)).objects
        return list(budget.LaunchBudget(objects, budget.Limits()).read().tasks.values())

    def pass_waits(self) -> None:
        """Let what failed runs, refused launches and those of a dispatcher that was killed have to wait
        for pass, without waiting."""

        def due(record: DeadLetterRecord | None) -> Any:
            return KEEP if record is None else msgspec.structs.replace(record, not_before=0.0)

        store = DirectoryStore(str(self.dead_letters))
        for record in store.list():
            if record.not_before:
                store.update(record.key, due)
        if (found := store.objects.get(budget.KEY)) is not None:
            stored = msgspec.json.decode(found[0], type=budget.Budget)
            pools = [pool for pool in stored.pools.values() if pool.not_before]
            for pool in pools:
                pool.not_before = 0.0
            # Not those that are only just being asked for.
            lost = [
                task
                for task in stored.tasks.values()
                if task.arn is None and ANSWERED < time.time() - task.booked_at < ANSWER_MOST
            ]
            for task in lost:
                task.booked_at -= ANSWER_MOST
            if pools or lost:
                with suppress(Conflict):  # then at the next sweep
                    store.objects.put(budget.KEY, msgspec.json.encode(stored), found[1])

    def sweep_until(self, condition: Callable[[], Any], what: str) -> None:
        """Let the dispatcher's schedule tick until the condition holds, and no wait be long."""

        def swept() -> bool:
            self.pass_waits()
            self.tasks.tick()
            deadline = time.monotonic() + 0.5
            while not (value := condition()) and time.monotonic() < deadline:
                time.sleep(0.005)
            return bool(value)

        wait_until(swept, what)

    def task(self, number: int = 1) -> str:
        """The ARN of the number-th task, once it was started."""
        tasks: list[dict[str, Any]] = wait_until(
            lambda: self.tasks.tasks()[number - 1 : number], f"task {number}"
        )
        arn: str = tasks[0]["taskArn"]
        return arn
{%- endif %}
