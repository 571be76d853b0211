"""The event source mapping: messages a second through poller and environments, latency of one message.

The pollers of all variants stand ready side by side over one Redis, each with a queue of its own; those
whose turn it is not sleep. For the rate, a queue is filled while its poller is stopped (SIGSTOP), then the
poller goes on until the queue is empty.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.events import body, identifier
from benchmarks.lab import Lab, Unavailable, Variant, any_server, require
from benchmarks.processes import (
    AWS_VARIABLES,
    HOST,
    ROOT,
    free_port,
    process,
    redis_server,
    until,
)
from benchmarks.report import Metric, Result, Target, rows_of
from benchmarks.samples import Measured

if TYPE_CHECKING:
    from local_sqs import Queue

NAME = "mapping"
TITLE = "Event source mapping"

RATE = "poller and environments"
LATENCY = "sent → handler"
QUEUE = "the queue alone, batch 10 (floor)"
BLPOP = "BLPOP in a bare Python process (floor)"
MINISTACK = "MiniStack, one message at a time"
FORK, RUNTIME = "forked", "awslambdaric"
TARGETS = {FORK: Target(1.0), RUNTIME: Target(3.0)}  # ms
WINDOW = 0.001  # seconds: a batching window's least, 1 s, shortened by `time_scale`
MESSAGES = 1000  # a turn of a rate
SENT = 40  # messages, one by one, a turn of the latency
SENT_TO_MINISTACK = 3


def run(lab: Lab) -> Result:
    """Measure it."""
    result = Result(NAME, TITLE)
    vendor = str(lab.baked("minimal") / "vendor" / "local_sqs")
    sys.path.insert(0, vendor)
    base = lab.directory(NAME)
    kinds = [FORK]
    try:
        require("awslambdaric")
        kinds.append(RUNTIME)
    except Unavailable as missing:
        result.notes.append(f"{RUNTIME}: not measured: {missing}")
    with ExitStack() as stack:
        port = stack.enter_context(redis_server(any_server(), base))
        variants = [Variant(QUEUE, drain_alone(port))]
        for kind in kinds:
            for size in (1, 10, 100):
                for concurrency in (1, 4):
                    name = f"{kind}, batch {size}, {_environments(concurrency)}"
                    poller = Poller(base, vendor, port, kind, "nothing", size, concurrency)
                    stack.enter_context(poller.running())
                    variants.append(Variant(name, poller.rate))
        variants.append(Variant(BLPOP, stack.enter_context(bare(base, port))))
        for kind in kinds:
            poller = Poller(base, vendor, port, kind, "stamp", 1, 1)
            stack.enter_context(poller.running())
            variants.append(Variant(f"{kind}, one message at a time", poller.latency))
        try:
            variants.append(Variant(MINISTACK, stack.enter_context(ministack(base))))
        except Unavailable as missing:
            result.notes.append(f"{MINISTACK}: not measured: {missing}")
        samples = lab.rounds(variants, result.notes)
    targets = {f"{kind}, one message at a time": TARGETS[kind] for kind in kinds}
    mine = [v.name for v in variants if v.name not in (QUEUE, BLPOP, MINISTACK)]
    metrics = [Metric(RATE, "messages/s", QUEUE), Metric(LATENCY, "ms", BLPOP, targets)]
    result.rows = rows_of(samples, metrics, mine)
    result.notes += [
        f"{RATE}: more is better. {MESSAGES} messages wait; the time until all are deleted; the function "
        "does nothing. Batches over 10 have a window of 1 ms, AWS's least shortened by `time_scale`. The "
        "floor receives and deletes in one process, with no function.",
        f"{LATENCY}: the median of {SENT} messages, sent one by one to a waiting poller; a turn's median. "
        f"By RPUSH; to MiniStack {SENT_TO_MINISTACK} a turn, by boto3, and its functions run without Docker.",
        "moto's event source mapping is not measured: it runs functions in Docker only (without it, it "
        "answers for them). LocalStack is a container image.",
        "What the Lambda shim itself costs a message stands under “CPU per record”.",
    ]
    return result


def _environments(number: int) -> str:
    return "1 environment" if number == 1 else f"{number} environments"


def open_queue(port: int, name: str) -> Queue:
    from local_sqs import Queue

    return Queue.open(f"redis://{HOST}:{port}/{name}")


def fill(queue: Queue) -> None:
    for _ in range(MESSAGES // 10):
        queue.send_batch([body(identifier()) for _ in range(10)])


def drain_alone(port: int) -> Callable[[], Measured]:
    """Receive and delete as the poller does, and nothing else."""
    queue = open_queue(port, "alone")
    queue.create(visibility_timeout=300, max_receive_count=5, dead_letter_queue="dead")

    def turn() -> Measured:
        fill(queue)
        started = time.perf_counter()
        done: list[str] = []
        while (received := queue.look(10, done=done)).messages:
            done = [message.receipt for message in received.messages]
        return {RATE: MESSAGES / (time.perf_counter() - started)}

    return turn


class Poller:
    """A poller process with a queue of its own."""

    def __init__(
        self,
        base: Path,
        vendor: str,
        port: int,
        kind: str,
        handler: str,
        batch_size: int,
        concurrency: int,
    ) -> None:
        self._port = port
        self._name = f"{kind}-{handler}-{batch_size}-{concurrency}"
        self._base = base / self._name
        self._base.mkdir()
        self._stamps = self._base / "stamps"
        self._stamps.touch()
        self._settings = {
            "redis": {"port": port},
            "time_scale": WINDOW,
            "queue": {
                "name": self._name,
                "visibility_timeout": 300,
                "max_receive_count": 5,
                "dead_letter_queue": "dead",
            },
            "mapping": {
                "batch_size": batch_size,
                "batching_window": WINDOW if batch_size > 10 else 0,
                "concurrency": max(concurrency, 2),
                "serial": concurrency == 1,
            },
            "function": {
                "handler": f"stamps.{handler}",
                "timeout": 30,
                "environments": {FORK: "fork", RUNTIME: "runtime"}[kind],
                "environment": {"STAMPS": str(self._stamps)},
            },
        }
        paths = [vendor, str(ROOT / "benchmarks" / "handlers")]
        self._variables = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}

    @contextmanager
    def running(self) -> Iterator[None]:
        path, log = self._base / "settings.json", self._base / "log"
        path.write_text(json.dumps(self._settings))
        command = [sys.executable, "-m", "local_sqs", str(path)]
        with process(command, log, **self._variables) as self._process:
            until(lambda: "ready" in log.read_text() or None, f"{self._name} is ready")
            with open_queue(self._port, self._name) as self._queue:
                yield

    def rate(self) -> Measured:
        """Messages a second."""
        self._process.send_signal(signal.SIGSTOP)
        fill(self._queue)
        started = time.perf_counter()
        self._process.send_signal(signal.SIGCONT)

        def empty() -> bool | None:
            stats = self._queue.stats()
            return stats.ready + stats.in_flight == 0 or None

        until(empty, f"{self._name} is empty", pause=0.002)
        return {RATE: MESSAGES / (time.perf_counter() - started)}

    def latency(self) -> Measured:
        """Milliseconds from RPUSH to the handler's first line."""
        return one_by_one(pusher(self._queue), self._stamps)


def pusher(queue: Queue) -> Callable[[], object]:
    return lambda: queue.client.execute("RPUSH", queue.name, body(identifier()))


def one_by_one(send: Callable[[], object], stamps: Path, number: int = SENT) -> Measured:
    """The median of some messages' ways to whoever writes the stamps."""
    took = []
    for _ in range(number):
        before = len(stamps.read_bytes())
        sent = time.monotonic()
        send()

        def came(before: int = before) -> str | None:
            text = stamps.read_text()[before:]
            return text if text.endswith("\n") else None

        took.append(float(until(came, "the message has come")) - sent)
        time.sleep(0.002)  # until its deletion is done: it is the next message's wait otherwise
    return {LATENCY: 1000 * median(took)}


@contextmanager
def bare(base: Path, port: int) -> Iterator[Callable[[], Measured]]:
    """The floor: a list, BLPOP, and nothing that would survive a crash."""
    stamps = base / "stamps"
    stamps.touch()
    module = ["-m", "benchmarks.drivers.blpop_stamps", str(port), "bare", str(stamps)]
    with (
        process([sys.executable, *module], base / "blpop.log", PYTHONPATH=str(ROOT)),
        open_queue(port, "bare") as queue,
    ):
        until(
            lambda: b"blocked_clients:0" not in queue.client.execute("INFO", "clients") or None,
            "BLPOP waits",
        )
        yield lambda: one_by_one(pusher(queue), stamps)


@contextmanager
def ministack(base: Path) -> Iterator[Callable[[], Measured]]:
    """The peer: SQS, Lambda and the mapping between them, in an environment of its own."""
    require("boto3")
    program = ROOT / ".cache" / "ministack" / "bin" / "ministack"
    if not program.exists():
        raise Unavailable("it is not installed (`make bench` does that)")
    import boto3
    from botocore.exceptions import EndpointConnectionError

    stamps = base / "ministack-stamps"
    stamps.touch()
    port = free_port()
    variables = {"BIND_HOST": HOST, "GATEWAY_PORT": str(port), "TMPDIR": str(base)}
    with process([str(program)], base / "ministack.log", **AWS_VARIABLES, **variables):
        session = boto3.Session("testing", "testing", region_name="eu-central-1")
        url = f"http://{HOST}:{port}"
        sqs, functions = (session.client(name, endpoint_url=url) for name in ("sqs", "lambda"))

        def up() -> str | None:
            try:
                made: str = sqs.create_queue(QueueName="stamped")["QueueUrl"]
            except EndpointConnectionError:
                return None
            return made

        queue = until(up, "MiniStack answers", pause=0.05)
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.write(ROOT / "benchmarks" / "handlers" / "stamps.py", "stamps.py")
        functions.create_function(
            FunctionName="stamp",
            Runtime=f"python3.{sys.version_info.minor}",
            Handler="stamps.stamp",
            Role="arn:aws:iam::000000000000:role/any",
            Code={"ZipFile": code.getvalue()},
            Environment={"Variables": {"STAMPS": str(stamps)}},
        )
        functions.create_event_source_mapping(
            FunctionName="stamp",
            EventSourceArn="arn:aws:sqs:eu-central-1:000000000000:stamped",
            BatchSize=1,
        )

        def send() -> object:
            return sqs.send_message(QueueUrl=queue, MessageBody=body(identifier()))

        yield lambda: one_by_one(send, stamps, SENT_TO_MINISTACK)
