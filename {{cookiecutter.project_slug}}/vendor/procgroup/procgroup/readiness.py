"""Looking whether a role is ready, without ever blocking the keeper that looks."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import socket
import time

from procgroup import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ANSWER_LIMIT = 1.0  # seconds until an unanswered question is asked on a new connection


class Probe:
    """One way to tell readiness; `step` is called again and again until it says True."""

    def step(self) -> bool:
        """Look once. Never blocks."""
        raise NotImplementedError

    # Whether every change shows at a descriptor that is watched; else it is looked at now and then.
    tells = False

    def awaits(self) -> int | None:
        """The descriptor whose readability is worth the next look; None: only time will tell."""
        return None

    def close(self) -> None:
        """Give back what the probe holds."""


class ConnectionProbe(Probe):
    """Ready when a connection to the port is accepted and, if asked, answered."""

    def __init__(self, host: str, port: int, question: bytes, answer: re.Pattern[bytes]) -> None:
        self._address = host, port
        self._question = question
        self._answer = answer
        self._connection: socket.socket | None = None
        self._asked = False
        self._received = b""
        self._since = 0.0

    def step(self) -> bool:
        if self._connection is None:
            self._connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._connection.setblocking(False)
            self._asked, self._received, self._since = False, b"", time.monotonic()
            self._connection.connect_ex(self._address)
        try:
            if not self._asked:
                if self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise ConnectionError
                # Raises as long as it is not connected. To itself it may be, where nobody listens yet on a
                # port that the system gives to whoever connects.
                if self._connection.getpeername() == self._connection.getsockname():
                    raise ConnectionError
                self._connection.sendall(self._question)
                self._asked = True
            if self._question and not self._received_all():
                return False
        except BlockingIOError:
            if time.monotonic() - self._since > _ANSWER_LIMIT:
                self.close()
            return False
        except OSError:
            self.close()
            return False
        self.close()
        return True

    def awaits(self) -> int | None:
        return self._connection.fileno() if self._connection is not None and self._asked else None

    def _received_all(self) -> bool:
        assert self._connection is not None
        data = self._connection.recv(4096)
        if not data:
            raise ConnectionError
        self._received += data
        if self._answer.match(self._received):
            return True
        if b"\n" in self._received:
            raise ConnectionError  # a complete first line, but the wrong one: ask again
        return False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class LogProbe(Probe):
    """Ready when what the role has logged since its start matches."""

    def __init__(self, path: str, pattern: str) -> None:
        self._path = path
        self._pattern = re.compile(pattern, re.MULTILINE)
        try:
            self._offset = os.path.getsize(path)
        except FileNotFoundError:
            self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._watch = processes.watch_directory(os.path.dirname(path), processes.WRITTEN)
        self.tells = self._watch is not None

    def awaits(self) -> int | None:
        return self._watch

    def close(self) -> None:
        if self._watch is not None:
            os.close(self._watch)
            self._watch = None

    def step(self) -> bool:
        if self._watch is not None:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._watch, 4096):
                    pass
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return False
        if not data:
            return False
        self._offset += len(data)
        self._text = (self._text + self._decoder.decode(data))[-65536:]
        return self._pattern.search(self._text) is not None


class NotifyProbe(Probe):
    """Ready when the role writes a line to its notify FIFO.

    It stays open for the role's whole life, and is read: a role that writes again must not block.
    """

    tells = True

    def __init__(self, path: str) -> None:
        # Open for reading *and* writing: then there is always a writer, and never an end of file.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._ready = False

    def arm(self) -> None:
        """Forget what has been written, by an earlier incarnation say."""
        self._ready = False
        self._read()

    def fileno(self) -> int:
        return self._descriptor

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, 65536)  # all that it holds
        except BlockingIOError:
            return b""

    def step(self) -> bool:
        self._ready = self._ready or b"\n" in self._read()
        return self._ready


def probe_for(ready: dict[str, Any] | None, log: str) -> Probe | None:
    """The probe that a plan's `ready` entry asks for; None: ready as soon as it runs.

    Made just before the role starts, so that it sees nothing of an earlier incarnation.
    """
    if ready is None:
        return None
    kind = ready["kind"]
    if kind == "log":
        return LogProbe(log, ready["pattern"])
    host, port = ready["host"], ready["port"]
    if kind == "redis":
        return ConnectionProbe(host, port, b"PING\r\n", re.compile(rb"(\+PONG|-NOAUTH)"))
    if kind == "http":
        request = (
            f"GET {ready['path']} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "User-Agent: procgroup\r\nConnection: close\r\n\r\n"
        )
        return ConnectionProbe(host, port, request.encode(), re.compile(rb"HTTP/1\.[01] [23]\d\d"))
    return ConnectionProbe(host, port, b"", re.compile(rb""))
