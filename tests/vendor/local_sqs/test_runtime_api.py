"""The Runtime API against a plain HTTP client and against the production runtime client."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_sqs.invocation import (
    ERROR,
    INIT_DONE,
    INIT_FAILED,
    MAXIMUM_RESPONSE_BYTES,
    RESPONSE,
    Invocation,
    Outcome,
)
from local_sqs.message import new_id
from local_sqs.runtime_api import RuntimeApi

PREFIX = "/2018-06-01/runtime"


READY = Outcome(INIT_DONE, b"")


def invocation(event: bytes, *, timeout: float = 30.0) -> Invocation:
    return Invocation(new_id(), time.monotonic() + timeout, event)


@pytest.fixture
def api() -> Iterator[RuntimeApi]:
    with RuntimeApi("arn:aws:lambda:eu-central-1:123456789012:function:f") as server:
        yield server


def happens(api: RuntimeApi) -> Outcome:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for happening in api.step(deadline - time.monotonic()):
            return happening
    raise TimeoutError("nothing happened")


def until_done(api: RuntimeApi, thread: threading.Thread) -> list[Outcome]:
    outcomes: list[Outcome] = []
    deadline = time.monotonic() + 10
    while thread.is_alive() and time.monotonic() < deadline:
        outcomes += api.step(0.01)
    assert not thread.is_alive()
    return outcomes


class Client:
    """One request at a time on one connection, in a thread, as a runtime in a process would."""

    def __init__(self, api: RuntimeApi) -> None:
        self.api = api
        self.connection = http.client.HTTPConnection(api.address, timeout=10)
        self.outcomes: list[Outcome] = []

    def __call__(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        answers: list[http.client.HTTPResponse] = []

        def ask() -> None:
            self.connection.request(method, PREFIX + path, body)  # type: ignore[arg-type]
            answers.append(self.connection.getresponse())

        thread = threading.Thread(target=ask)
        thread.start()
        self.outcomes = until_done(self.api, thread)
        return answers[0]


@pytest.fixture
def client(api: RuntimeApi) -> Client:
    return Client(api)


def test_an_invocation_is_handed_out_and_answered(api: RuntimeApi, client: Client) -> None:
    work = invocation(b'{"n": 1}', timeout=3)
    api.invoke(work)
    answer = client("GET", "/invocation/next")
    assert client.outcomes == [READY]
    assert answer.status == 200
    assert answer.read() == b'{"n": 1}'
    assert answer.headers["Lambda-Runtime-Aws-Request-Id"] == work.request_id
    left = int(answer.headers["Lambda-Runtime-Deadline-Ms"]) / 1000 - time.time()
    assert 0 < left <= 3
    accepted = client("POST", f"/invocation/{work.request_id}/response", b'"done"')
    assert accepted.status == 202
    accepted.read()
    assert client.outcomes == []  # not before it asks for more
    assert api.take_ended() == Outcome(RESPONSE, b'"done"')
    api.invoke(invocation(b"{}"))  # it is free again


def test_an_error_is_told_apart(api: RuntimeApi, client: Client) -> None:
    work = invocation(b"{}")
    api.invoke(work)
    client("GET", "/invocation/next").read()
    client("POST", f"/invocation/{work.request_id}/error", b'{"errorType": "X"}').read()
    assert client.outcomes == []  # not before it asks for more
    assert api.take_ended() == Outcome(ERROR, b'{"errorType": "X"}')


def test_init_errors(client: Client) -> None:
    assert client("POST", "/init/error", b"{}").status == 202
    assert client.outcomes == [Outcome(INIT_FAILED, b"{}")]


def test_an_environment_does_one_thing_at_a_time(api: RuntimeApi) -> None:
    api.invoke(invocation(b"{}"))
    with pytest.raises(RuntimeError, match="busy"):
        api.invoke(invocation(b"{}"))


def test_an_answer_to_another_invocation_is_refused(api: RuntimeApi, client: Client) -> None:
    api.invoke(invocation(b"{}"))
    client("GET", "/invocation/next").read()
    answer = client("POST", "/invocation/other/response", b"{}")
    assert answer.status == 400
    assert json.loads(answer.read())["errorType"] == "InvalidRequestID"
    assert client.outcomes == []


def test_a_response_over_6_mb_is_refused(api: RuntimeApi, client: Client) -> None:
    work = invocation(b"{}")
    api.invoke(work)
    client("GET", "/invocation/next").read()
    body = b"x" * (MAXIMUM_RESPONSE_BYTES + 1)
    answer = client("POST", f"/invocation/{work.request_id}/response", body)
    assert answer.status == 413
    assert json.loads(answer.read())["errorType"] == "Function.ResponseSizeTooLarge"
    assert client.outcomes == []  # not before it asks for more
    assert api.take_ended() == Outcome(RESPONSE, body)


def test_a_chunked_body(api: RuntimeApi, client: Client) -> None:
    work = invocation(b"{}")
    api.invoke(work)
    client("GET", "/invocation/next").read()
    client("POST", f"/invocation/{work.request_id}/response", iter([b"[1,", b"2]"])).read()
    assert client.outcomes == []  # not before it asks for more
    assert api.take_ended() == Outcome(RESPONSE, b"[1,2]")


def test_an_unknown_path(client: Client) -> None:
    assert client("GET", "/nowhere").status == 404


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /x HTTP/1.1\r\nno colon\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(api: RuntimeApi, request_bytes: bytes) -> None:
    host, _, port = api.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(request_bytes)
        deadline = time.monotonic() + 10
        while not api.step(0.01) and time.monotonic() < deadline:
            peer.setblocking(False)
            try:
                data = peer.recv(65536)
            except BlockingIOError:
                continue
            assert data.startswith(b"HTTP/1.1 400 ")
            return
    pytest.fail("no answer")


Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(api: RuntimeApi, tmp_path: Path) -> Iterator[Start]:
    """Starts the production runtime client with a module of this source."""
    processes = []

    def run(source: str) -> subprocess.Popen[bytes]:
        (tmp_path / "app.py").write_text(source)
        variables = {
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "AWS_LAMBDA_FUNCTION_NAME": "f",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", "app.handler"],
            cwd=tmp_path,
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


def test_the_production_client_works_through_several(api: RuntimeApi, start: Start) -> None:
    start(
        "def handler(event, context):\n"
        "    assert context.get_remaining_time_in_millis() > 0\n"
        "    return {'twice': 2 * event['n'], 'id': context.aws_request_id}\n"
    )
    assert happens(api) == READY
    for n in range(3):
        work = invocation(json.dumps({"n": n}).encode())
        api.invoke(work)
        done = happens(api)
        assert done.kind == RESPONSE
        assert json.loads(done.payload) == {"twice": 2 * n, "id": work.request_id}


def test_the_production_client_reports_a_raise(api: RuntimeApi, start: Start) -> None:
    start("def handler(event, context):\n    raise LookupError('gone')\n")
    assert happens(api) == READY
    api.invoke(invocation(b"{}"))
    failed = happens(api)
    assert failed.kind == ERROR
    assert json.loads(failed.payload)["errorType"] == "LookupError"


def test_an_event_of_6_mb_goes_out_in_parts(api: RuntimeApi, start: Start) -> None:
    """More than a socket's buffer holds; `invoke` does not block."""
    start("def handler(event, context):\n    return len(event)\n")
    assert happens(api) == READY
    api.invoke(invocation(json.dumps("x" * 6_000_000).encode()))
    assert happens(api) == Outcome(RESPONSE, b"6000000")


def test_the_production_client_reports_a_failing_import(api: RuntimeApi, start: Start) -> None:
    process = start("import no_such_module_here\n")
    failed = happens(api)
    assert failed.kind == INIT_FAILED
    assert "no_such_module_here" in json.loads(failed.payload)["errorMessage"]
    assert process.wait(10) == 1
