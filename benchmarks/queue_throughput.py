"""Messages a second through a queue: sent, received and deleted, in batches of 10.

With one client, a turn puts a number of messages into an empty queue, then drains it; the depth is the
same for all, since moto slows with it (500 deep, to a third). What is fast repeats that until the clock
has enough. End to end, a producer and a consumer, each a process of its own, work at the same time.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from benchmarks.events import body, identifier
from benchmarks.lab import Lab, Unavailable, Variant, any_server, require
from benchmarks.processes import AWS_VARIABLES, HOST, moto_server, redis_server
from benchmarks.report import Metric, Result, Target, rows_of
from benchmarks.samples import Measured

if TYPE_CHECKING:
    from local_sqs.queue import Queue

NAME = "queue_throughput"
TITLE = "Queue throughput"

FLOOR = "bare Redis list (floor)"
OURS = "local_sqs.Queue"
POLLER = "local_sqs.Queue, deleting with the next receive"
PROCESSES = "local_sqs.Queue, a producer and a consumer"
POLLED = "local_sqs.Queue, a producer and a poller"
MOTO = "moto's SQS, boto3"
LOCAL = [OURS, POLLER, PROCESSES, POLLED]
RATE = "sent, received, deleted"
BATCH = 10
DEPTH = 100  # messages
TARGET = Target(20_000, least=True)
ENOUGH = 0.25  # seconds of work a turn
STREAM = 10_000  # messages a turn end to end

Drain = Callable[[list[list[str]]], int]
"""Send all these batches, then receive and delete everything; gives how many were deleted."""


def run(lab: Lab) -> Result:
    """Measure it."""
    result = Result(NAME, TITLE)
    sys.path.insert(0, str(lab.baked("minimal") / "vendor" / "local_sqs"))
    base = lab.directory(NAME)
    with ExitStack() as stack:
        port = stack.enter_context(redis_server(any_server(), base))
        variants = [
            Variant(FLOOR, timed(stack.enter_context(bare_list(port)))),
            Variant(OURS, timed(stack.enter_context(ours(port)))),
            Variant(POLLER, timed(stack.enter_context(as_the_poller(port)))),
            Variant(PROCESSES, stack.enter_context(end_to_end(port, consume))),
            Variant(POLLED, stack.enter_context(end_to_end(port, poll))),
        ]
        try:
            require("boto3", "moto")
            variants.append(Variant(MOTO, timed(moto(stack.enter_context(moto_server(base))))))
        except Unavailable as missing:
            result.notes.append(f"{MOTO}: not measured: {missing}")
        samples = lab.rounds(variants, result.notes)
    metric = Metric(RATE, "messages/s", FLOOR, dict.fromkeys([PROCESSES, POLLED], TARGET))
    result.rows = rows_of(samples, [metric], LOCAL)
    result.notes.append(
        f"More is better. In batches of {BATCH}; one client and {DEPTH} messages deep, or two processes "
        f"and {STREAM:,} messages. The floor loses what a killed client held: it has no visibility "
        "timeout, no receive count, no receipts."
    )
    return result


def timed(drain: Drain) -> Callable[[], Measured]:
    """A turn: how many messages a second."""

    def turn() -> Measured:
        messages = [body(identifier()) for _ in range(DEPTH)]
        batches = [messages[i : i + BATCH] for i in range(0, DEPTH, BATCH)]
        done, started = 0, time.perf_counter()
        while (seconds := time.perf_counter() - started) < ENOUGH:
            deleted = drain(batches)
            if deleted != DEPTH:
                raise RuntimeError(f"{deleted} of {DEPTH} messages came back and were deleted")
            done += deleted
        return {RATE: done / seconds}

    return turn


@contextmanager
def bare_list(port: int) -> Iterator[Drain]:
    """RPUSH and LPOP over the same client: a queue without semantics."""
    from local_sqs.client import Client

    client = Client.from_url(f"redis://{HOST}:{port}")

    def drain(batches: list[list[str]]) -> int:
        for batch in batches:
            client.execute("RPUSH", "bare", *batch)
        count = 0
        while popped := client.execute("LPOP", "bare", BATCH):
            count += len(popped)
        return count

    yield drain
    client.close()


@contextmanager
def new_queue(url: str) -> Iterator[Queue]:
    """An empty queue as a service has it."""
    from local_sqs.queue import Queue

    with Queue.open(url) as queue:
        queue.create(visibility_timeout=300, max_receive_count=5, dead_letter_queue="dead")
        yield queue


@contextmanager
def ours(port: int) -> Iterator[Drain]:
    """The local queue, by the calls that anybody would use."""
    with new_queue(f"redis://{HOST}:{port}/throughput") as queue:

        def drain(batches: list[list[str]]) -> int:
            for batch in batches:
                queue.send_batch(batch)
            count = 0
            while messages := queue.receive(BATCH):
                count += sum(queue.delete_batch(m.receipt for m in messages))
            return count

        yield drain


@contextmanager
def as_the_poller(port: int) -> Iterator[Drain]:
    """The local queue as the event source mapping uses it: one round trip a batch received."""
    with new_queue(f"redis://{HOST}:{port}/polled") as queue:

        def drain(batches: list[list[str]]) -> int:
            for batch in batches:
                queue.send_batch(batch)
            count = 0
            done: list[str] = []
            while True:
                received = queue.look(BATCH, done=done)
                count += sum(received.deleted)
                if not received.messages:
                    return count
                done = [message.receipt for message in received.messages]

        yield drain


@contextmanager
def end_to_end(port: int, consumer: Callable[[str], None]) -> Iterator[Callable[[], Measured]]:
    """A turn: this process sends while another runs `consumer`, which ends when it has had them all."""
    url = f"redis://{HOST}:{port}/{consumer.__name__}"
    with new_queue(url) as queue:

        def turn() -> Measured:
            messages = [body(identifier()) for _ in range(DEPTH)]
            batches = [messages[i : i + BATCH] for i in range(0, DEPTH, BATCH)]
            ready, tell_ready = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(tell_ready, b"1")
                try:
                    consumer(url)
                finally:
                    os._exit(1)  # it leaves by os._exit(0) when all is well
            os.read(ready, 1)
            started = time.perf_counter()
            for _ in range(STREAM // DEPTH):
                for batch in batches:
                    queue.send_batch(batch)
            status = os.waitpid(child, 0)[1]
            seconds = time.perf_counter() - started
            os.close(ready)
            os.close(tell_ready)
            left = queue.stats()
            if status or left.ready or left.in_flight:
                raise RuntimeError(f"the consumer ended with status {status} and left {left}")
            return {RATE: STREAM / seconds}

        yield turn


def consume(url: str) -> None:
    """Receive and delete, by the calls that anybody would use."""
    from local_sqs.queue import Queue

    with Queue.open(url) as queue:
        count = 0
        while count < STREAM:
            messages = queue.receive(BATCH, wait=10)
            count += sum(queue.delete_batch(message.receipt for message in messages))
    os._exit(0)


def poll(url: str) -> None:
    """Receive and delete as the event source mapping does: one round trip for both."""
    from local_sqs.queue import Queue

    with Queue.open(url) as queue:
        count = 0
        done: list[str] = []
        while count < STREAM:
            received = queue.look(BATCH, done=done)
            count += sum(received.deleted)
            messages = received.messages
            if not messages and count < STREAM:
                messages = queue.receive(BATCH, wait=10)
            done = [message.receipt for message in messages]
    os._exit(0)


def moto(url: str) -> Drain:
    """moto's SQS server by boto3."""
    import boto3

    sqs = boto3.client(
        "sqs",
        endpoint_url=url,
        aws_access_key_id=AWS_VARIABLES["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS_VARIABLES["AWS_SECRET_ACCESS_KEY"],
        region_name=AWS_VARIABLES["AWS_REGION"],
    )
    queue = sqs.create_queue(QueueName="throughput")["QueueUrl"]

    def drain(batches: list[list[str]]) -> int:
        for batch in batches:
            entries = [{"Id": str(i), "MessageBody": text} for i, text in enumerate(batch)]
            sqs.send_message_batch(QueueUrl=queue, Entries=entries)
        count = 0
        while True:
            answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=BATCH)
            messages = answer.get("Messages", [])
            if not messages:
                return count
            receipts = [
                {"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)
            ]
            done = sqs.delete_message_batch(QueueUrl=queue, Entries=receipts)
            count += len(done["Successful"])

    return drain
