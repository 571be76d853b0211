"""The Lambda Runtime API on loopback: what an execution environment's runtime talks to.

It drives the production runtime client (awslambdaric) as Lambda does: the runtime polls for an
invocation, is handed an event, and posts a response or an error (AWS documentation, "Using the
Lambda runtime API"). One server serves one runtime process. It is single-threaded and never blocks
but in ``step``, and ``fileno`` lets an event loop wait for many of them.
"""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from json import dumps
from uuid import uuid4

PREFIX = "/2018-06-01/runtime"

# Lambda's limit on a synchronous response.
RESPONSE_BYTES = 6 * 1024 * 1024
# What a header block may be; awslambdaric sends a traceback's summary as a header, up to 1 MiB.
HEAD_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class Invocation:
    """One event for the function.

    Attributes:
        event: the JSON document.
        deadline: when the function is out of time, in seconds since 1970.
        function_arn: what the function sees as ``invoked_function_arn``.
        request_id: unique to this invocation.
    """

    event: bytes
    deadline: float
    function_arn: str
    request_id: str


def invocation(
    event: bytes,
    *,
    timeout: float = 30.0,
    function_arn: str = "arn:aws:lambda:eu-central-1:123456789012:function:function",
) -> Invocation:
    """An invocation that starts now and may take ``timeout`` seconds."""
    return Invocation(event, time.time() + timeout, function_arn, str(uuid4()))


@dataclass(frozen=True)
class Polled:
    """The runtime asks for work. The first time: its initialisation is over."""


@dataclass(frozen=True)
class Responded:
    """The handler returned; ``body`` is what it returned, as JSON."""

    request_id: str
    body: bytes


@dataclass(frozen=True)
class Failed:
    """The handler raised; ``body`` is Lambda's error document (errorMessage, errorType, stackTrace)."""

    request_id: str
    body: bytes


@dataclass(frozen=True)
class InitFailed:
    """The handler could not be loaded; ``body`` as in Failed. The runtime exits by itself."""

    body: bytes


Happening = Polled | Responded | Failed | InitFailed


class ProtocolError(Exception):
    """Bytes that are no HTTP request; the connection is closed."""


@dataclass
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    too_large: bool = False


class _Connection:
    """Parses requests out of one connection's bytes."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self._received = bytearray()
        self._head: _Request | None = None
        self._chunks: bytearray | None = None

    def feed(self, data: bytes) -> list[_Request]:
        """The requests that these bytes complete. Raises ProtocolError."""
        self._received += data
        requests = []
        while (request := self._next()) is not None:
            requests.append(request)
        return requests

    def _next(self) -> _Request | None:
        if self._head is None and not self._parse_head():
            return None
        head = self._head
        assert head is not None
        complete = self._parse_chunks() if self._chunks is not None else self._parse_body(head)
        if not complete:
            return None
        self._head = self._chunks = None
        return head

    def _parse_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > HEAD_BYTES:
                raise ProtocolError("header block too long")
            return False
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        del self._received[: end + 4]
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise ProtocolError(f"not a request line: {first[:80]!r}")
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ProtocolError(f"not a header: {line[:80]!r}")
            headers[name.strip().lower()] = value.strip()
        self._head = _Request(parts[0], parts[1], headers, b"")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks = bytearray()
        if headers.get("expect", "").lower() == "100-continue":
            self.peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _parse_body(self, head: _Request) -> bool:
        text = head.headers.get("content-length", "0")
        if not text.isdecimal():
            raise ProtocolError(f"not a Content-Length: {text[:80]!r}")
        length = int(text)
        if len(self._received) < length:
            return False
        head.too_large = length > RESPONSE_BYTES
        head.body = bytes(self._received[:length])
        del self._received[:length]
        return True

    def _parse_chunks(self) -> bool:
        assert self._chunks is not None
        assert self._head is not None
        while True:
            end = self._received.find(b"\r\n")
            if end < 0:
                return False
            try:
                size = int(self._received[:end].split(b";")[0], 16)
            except ValueError:
                raise ProtocolError("not a chunk's size") from None
            # A chunk is its size, CRLF, its bytes, CRLF; the last is empty. (No trailers here.)
            if len(self._received) < end + 2 + size + 2:
                return False
            self._chunks += self._received[end + 2 : end + 2 + size]
            del self._received[: end + 2 + size + 2]
            if size == 0:
                self._head.body = bytes(self._chunks)
                self._head.too_large = len(self._chunks) > RESPONSE_BYTES
                return True


def _answer(status: HTTPStatus, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _document(status: HTTPStatus, document: dict[str, str]) -> bytes:
    return _answer(status, {"Content-Type": "application/json"}, dumps(document).encode())


ACCEPTED = _document(HTTPStatus.ACCEPTED, {"status": "OK"})


def _error(status: HTTPStatus, kind: str, text: str) -> bytes:
    return _document(status, {"errorType": kind, "errorMessage": text})


class RuntimeApi:
    """The Runtime API for one runtime process.

    ::

        with RuntimeApi() as api:
            ...  # start the runtime with AWS_LAMBDA_RUNTIME_API=api.address
            api.step(10)  # [Polled()]
            api.invoke(invocation(event))
            api.step(30)  # [Responded(request_id, body)]
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._waiting: _Connection | None = None  # a poll that has not been answered
        self._next: Invocation | None = None  # an invocation that nobody has polled for yet
        self._running: str | None = None  # the request id that an answer is expected for

    @property
    def address(self) -> str:
        """``host:port``, for AWS_LAMBDA_RUNTIME_API."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def fileno(self) -> int:
        """Readable when ``step(0)`` has something to do. Not on every system (see selectors)."""
        return self._selector.fileno()

    def invoke(self, work: Invocation) -> None:
        """Hand out an event: to the poll that waits, or to the next.

        Raises:
            RuntimeError: the last one has not been answered. An environment does one at a time.
        """
        if self._next is not None or self._running is not None:
            raise RuntimeError("the environment is busy with another invocation")
        self._next = work
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._hand_out(waiting)

    def step(self, timeout: float | None = 0.0) -> list[Happening]:
        """Serve what has arrived.

        Args:
            timeout: seconds to wait for something to arrive; None for ever.

        Returns:
            What the runtime did; [] after the timeout, or for a request's first part.
        """
        happenings: list[Happening] = []
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
            else:
                happenings += self._serve(key.data)
        return happenings

    def close(self) -> None:
        """Close every connection; a runtime that still polls then exits."""
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def __enter__(self) -> RuntimeApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        peer, _ = self._listener.accept()
        # Without it the second segment of an answer waits for the peer's delayed ACK: 44 ms.
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(peer, selectors.EVENT_READ, _Connection(peer))

    def _drop(self, connection: _Connection) -> None:
        if self._waiting is connection:
            self._waiting = None
        self._selector.unregister(connection.peer)
        connection.peer.close()

    def _serve(self, connection: _Connection) -> list[Happening]:
        try:
            data = connection.peer.recv(1 << 20)
        except OSError:  # the runtime was killed
            data = b""
        if not data:
            self._drop(connection)
            return []
        try:
            requests = connection.feed(data)
        except ProtocolError as error:
            self._send(connection, _error(HTTPStatus.BAD_REQUEST, "BadRequest", str(error)))
            self._drop(connection)
            return []
        found = (self._handle(connection, request) for request in requests)
        return [happening for happening in found if happening is not None]

    def _handle(self, connection: _Connection, request: _Request) -> Happening | None:
        match request.method, request.path.removeprefix(PREFIX).strip("/").split("/"):
            case "GET", ["invocation", "next"]:
                self._waiting = connection
                if self._next is not None:
                    self._waiting = None
                    self._hand_out(connection)
                return Polled()
            case "POST", ["invocation", request_id, ("response" | "error") as kind]:
                return self._end(connection, request, request_id, kind)
            case "POST", ["init", "error"]:
                self._send(connection, ACCEPTED)
                return InitFailed(request.body)
            case "GET", ["restore", "next"]:  # SnapStart; there is nothing to restore here
                self._send(connection, _answer(HTTPStatus.OK, {}, b""))
            case "POST", ["restore", "error"]:
                self._send(connection, ACCEPTED)
                return InitFailed(request.body)
            case _:
                self._send(
                    connection, _error(HTTPStatus.NOT_FOUND, "InvalidPath", request.path[:200])
                )
        return None

    def _end(
        self, connection: _Connection, request: _Request, request_id: str, kind: str
    ) -> Happening | None:
        if request_id != self._running:
            text = f"{request_id[:100]} is not the running invocation"
            self._send(connection, _error(HTTPStatus.BAD_REQUEST, "InvalidRequestID", text))
            return None
        self._running = None
        if request.too_large:
            text = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES} bytes)."
            error = {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": text}
            self._send(connection, _document(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error))
            return Failed(request_id, dumps(error).encode())
        self._send(connection, ACCEPTED)
        return (Responded if kind == "response" else Failed)(request_id, request.body)

    def _hand_out(self, connection: _Connection) -> None:
        work, self._next = self._next, None
        assert work is not None
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": work.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(work.deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": work.function_arn,
        }
        self._running = work.request_id
        self._send(connection, _answer(HTTPStatus.OK, headers, work.event))

    def _send(self, connection: _Connection, data: bytes) -> None:
        """Blocks until the runtime, which waits for nothing else, has taken it."""
        with suppress(OSError):  # it was killed: the connection's other direction tells
            connection.peer.sendall(data)
