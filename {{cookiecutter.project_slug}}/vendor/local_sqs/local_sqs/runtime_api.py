"""The Lambda Runtime API on loopback: what an execution environment's runtime talks to.

It drives the production runtime client (awslambdaric) as Lambda does: the runtime polls for an
invocation, is handed an event, and posts a response or an error
(https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html). One server serves one runtime process.
It is single-threaded and never blocks but in `step`, and `fileno` lets an event loop wait for many.
"""

import selectors
import socket
import time
from contextlib import suppress
from http import HTTPStatus

import msgspec

from .invocation import (
    ERROR,
    INIT_DONE,
    INIT_FAILED,
    MAXIMUM_RESPONSE_BYTES,
    RESPONSE,
    Invocation,
    Outcome,
    response_too_large,
)

PREFIX = "/2018-06-01/runtime"

# What a header block may be; awslambdaric sends a traceback's summary as a header, up to 1 MiB.
_HEAD_BYTES = 2 * 1024 * 1024


class ProtocolError(Exception):
    """Bytes that are no HTTP request; the connection is closed."""


class _Request(msgspec.Struct):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class _Connection:
    """Parses requests out of one connection's bytes, and holds what could not be sent yet."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.unsent = b""
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

    def send(self, data: bytes = b"") -> None:
        """Send what the peer takes now of what is due."""
        self.unsent += data
        try:
            self.unsent = self.unsent[self.peer.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # the runtime was killed: the connection's other direction tells
            self.unsent = b""

    def _next(self) -> _Request | None:
        if self._head is None and not self._parse_head():
            return None
        head = self._head
        assert head is not None
        complete = self._parse_chunks(head) if self._chunks is not None else self._parse_body(head)
        if not complete:
            return None
        self._head = self._chunks = None
        return head

    def _parse_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > _HEAD_BYTES:
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
        self._head = _Request(parts[0], parts[1], headers)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks = bytearray()
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _parse_body(self, head: _Request) -> bool:
        text = head.headers.get("content-length", "0")
        if not text.isdecimal():
            raise ProtocolError(f"not a Content-Length: {text[:80]!r}")
        length = int(text)
        if len(self._received) < length:
            return False
        head.body = bytes(self._received[:length])
        del self._received[:length]
        return True

    def _parse_chunks(self, head: _Request) -> bool:
        assert self._chunks is not None
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
                head.body = bytes(self._chunks)
                return True


def _answer(status: HTTPStatus, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _document(status: HTTPStatus, document: bytes) -> bytes:
    return _answer(status, {"Content-Type": "application/json"}, document)


def _refusal(status: HTTPStatus, kind: str, text: str) -> bytes:
    return _document(status, msgspec.json.encode({"errorType": kind, "errorMessage": text}))


_ACCEPTED = _document(HTTPStatus.ACCEPTED, b'{"status":"OK"}')


class RuntimeApi:
    """The Runtime API for one runtime process.

    ::

        with RuntimeApi(function_arn) as api:
            ...  # start the runtime with AWS_LAMBDA_RUNTIME_API=api.address
            api.step(10)  # [Outcome(INIT_DONE, b"")]
            api.invoke(Invocation(request_id, deadline, event))
            api.step(30)  # [Outcome(RESPONSE, body)]

    As on Lambda, an invocation is over when the runtime asks for the next: one that answers and exits is
    not handed another.
    """

    def __init__(self, function_arn: str) -> None:
        """Listen on a free port of loopback. `function_arn`: what the function is told as its own."""
        self._function_arn = function_arn
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ended: Outcome | None = Outcome(INIT_DONE, b"")  # what the next poll brings to an end
        self._waiting: _Connection | None = None  # a poll that has not been answered
        self._next: Invocation | None = None  # an invocation that nobody has polled for yet
        self._running: str | None = None  # the request id that an answer is expected for

    @property
    def address(self) -> str:
        """`host:port`, for AWS_LAMBDA_RUNTIME_API."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def fileno(self) -> int:
        """Readable when `step(0)` has something to do. Not on every system (see selectors)."""
        return self._selector.fileno()

    def invoke(self, invocation: Invocation) -> None:
        """Hand out an event: to the poll that waits, or to the next.

        Raises RuntimeError when the last one has not been answered: an environment does one at a time.
        """
        if self._next is not None or self._running is not None:
            raise RuntimeError("the environment is busy with another invocation")
        self._next = invocation
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._hand_out(waiting)

    def step(self, timeout: float | None = 0.0) -> list[Outcome]:
        """Serve what has arrived, waiting up to `timeout` seconds (None: for ever) for something.

        Gives what it came to: INIT_DONE with the runtime's first poll, INIT_FAILED, RESPONSE (also one
        that was refused for its size, for the caller to judge), ERROR.
        """
        outcomes: list[Outcome] = []
        while arrived := self._selector.select(timeout):
            for key, events in arrived:
                if key.fileobj is self._listener:
                    self._accept()
                    continue
                if events & selectors.EVENT_WRITE:
                    self._send(key.data)
                if events & selectors.EVENT_READ:
                    outcomes += self._serve(key.data)
            timeout = 0
        return outcomes

    def take_ended(self) -> Outcome | None:
        """What the runtime has answered without asking for more, for when it has exited."""
        ended, self._ended = self._ended, None
        return ended

    def close(self) -> None:
        """Close every connection; a runtime that still polls then exits."""
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def __enter__(self) -> "RuntimeApi":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(BlockingIOError):  # it has gone again
            peer, _ = self._listener.accept()
            peer.setblocking(False)
            # Without it the second segment of an answer waits for the peer's delayed ACK: 44 ms.
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(peer, selectors.EVENT_READ, _Connection(peer))

    def _drop(self, connection: _Connection) -> None:
        if self._waiting is connection:
            self._waiting = None
        self._selector.unregister(connection.peer)
        connection.peer.close()

    def _serve(self, connection: _Connection) -> list[Outcome]:
        try:
            data = connection.peer.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:  # the runtime was killed
            data = b""
        if not data:
            self._drop(connection)
            return []
        try:
            requests = connection.feed(data)
        except ProtocolError as error:
            connection.send(_refusal(HTTPStatus.BAD_REQUEST, "BadRequest", str(error)))
            self._drop(connection)
            return []
        found = [self._handle(connection, request) for request in requests]
        return [outcome for outcome in found if outcome is not None]

    def _handle(self, connection: _Connection, request: _Request) -> Outcome | None:
        match request.method, request.path.removeprefix(PREFIX).strip("/").split("/"):
            case "GET", ["invocation", "next"]:
                if self._next is None:
                    self._waiting = connection
                else:
                    self._hand_out(connection)
                return self.take_ended()
            case "POST", ["invocation", request_id, ("response" | "error") as kind]:
                self._end(connection, request.body, request_id, kind)
            case "POST", ["init", "error"]:
                self._send(connection, _ACCEPTED)
                self._ended = None
                return Outcome(INIT_FAILED, request.body)
            case _:
                refusal = _refusal(HTTPStatus.NOT_FOUND, "InvalidPath", request.path[:200])
                self._send(connection, refusal)
        return None

    def _end(self, connection: _Connection, body: bytes, request_id: str, kind: str) -> None:
        if request_id != self._running:
            text = f"{request_id[:100]} is not the running invocation"
            self._send(connection, _refusal(HTTPStatus.BAD_REQUEST, "InvalidRequestID", text))
            return
        self._running = None
        if len(body) > MAXIMUM_RESPONSE_BYTES:
            failure = response_too_large(len(body))
            refusal = _document(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, failure.payload)
            self._send(connection, refusal)
        else:
            self._send(connection, _ACCEPTED)
        self._ended = Outcome(RESPONSE if kind == "response" else ERROR, body)

    def _hand_out(self, connection: _Connection) -> None:
        invocation, self._next = self._next, None
        assert invocation is not None
        assert invocation.deadline is not None
        deadline = time.time() + invocation.deadline - time.monotonic()
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self._function_arn,
        }
        self._running = invocation.request_id
        self._send(connection, _answer(HTTPStatus.OK, headers, invocation.payload))

    def _send(self, connection: _Connection, data: bytes = b"") -> None:
        connection.send(data)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if self._selector.get_key(connection.peer).events != events:
            self._selector.modify(connection.peer, events, connection)
