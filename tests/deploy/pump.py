"""What moto does not do: run a function, and feed it from its queue.

One function out of a built package, under awslambdaric, behind the smallest Runtime API that the
production client is content with: one invocation at a time. And a mapping, as far as it takes for
messages to be done: no windows, no concurrency.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

ARN = "arn:aws:lambda:eu-central-1:123456789012:function:worker"


class Function:
    """A running execution environment. Call it with an event; it gives the response."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout  # seconds
        self.events: queue.Queue[bytes] = queue.Queue()
        self.answers: queue.Queue[tuple[str, Any]] = queue.Queue()

    def __call__(self, event: dict[str, Any]) -> Any:
        """Raises RuntimeError with what the function reported, if it failed."""
        self.events.put(json.dumps(event).encode())
        kind, answer = self.answers.get(timeout=60)
        if kind != "response":
            raise RuntimeError(f"{kind}: {answer}")
        return answer


def api(function: Function) -> type[BaseHTTPRequestHandler]:
    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            event = function.events.get()
            self.send_response(200)
            deadline = int((time.time() + function.timeout) * 1000)
            self.send_header("Content-Type", "application/json")
            self.send_header("Lambda-Runtime-Aws-Request-Id", f"request-{deadline}")
            self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline))
            self.send_header("Lambda-Runtime-Invoked-Function-Arn", ARN)
            self.send_header("Content-Length", str(len(event)))
            self.end_headers()
            self.wfile.write(event)

        def do_POST(self) -> None:
            body = b"".join(self.chunks())
            function.answers.put((self.path.rpartition("/")[2], json.loads(body or b"null")))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def chunks(self) -> Iterator[bytes]:
            """The body, which may come with its length or in chunks: a size, bytes, CRLF each."""
            if "Content-Length" in self.headers:
                yield self.rfile.read(int(self.headers["Content-Length"]))
                return
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def log_message(self, *_: object) -> None:
            pass

    return Api


@contextmanager
def running(
    package: Path, handler: str, environment: dict[str, str], timeout: float = 30.0
) -> Iterator[Function]:
    """Start the handler with nothing on its path but the unpacked package and the runtime client.

    Args:
        package: the unpacked zip; Lambda's /var/task.
        handler: as the deployed function has it.
        environment: the deployed function's variables, and what stands for its role.
        timeout: the function's, in seconds.
    """
    function = Function(timeout)
    server = ThreadingHTTPServer(("127.0.0.1", 0), api(function))
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "awslambdaric", handler],
        cwd=package,
        env={
            "PATH": os.environ["PATH"],
            "LAMBDA_TASK_ROOT": str(package),
            "PYTHONPATH": str(package),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": "worker",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            **environment,
        },
    )
    try:
        yield function
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()


def as_event(
    received: list[dict[str, Any]], queue: str = "arn:aws:sqs:eu-central-1:123456789012:work"
) -> dict[str, Any]:
    """What SQS's ReceiveMessage gave, as Lambda hands it over; the queue by its ARN."""
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": queue,
                "awsRegion": "eu-central-1",
            }
            for message in received
        ]
    }


@contextmanager
def pumping(sqs: Any, queue_url: str, function: Function) -> Iterator[None]:
    """Hand the queue's messages to the function; delete those it does not return."""
    done = Event()

    def pump() -> None:
        while not done.wait(0.05):
            answer = sqs.receive_message(
                QueueUrl=queue_url, MaxNumberOfMessages=10, AttributeNames=["All"]
            )
            if not (received := answer.get("Messages", [])):
                continue
            failures = function(as_event(received))["batchItemFailures"]
            failed = {failure["itemIdentifier"] for failure in failures}
            for message in received:
                if message["MessageId"] not in failed:
                    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])

    thread = Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
