"""Messages between a launcher, its warden and the keepers: JSON, one object a line, on a socket.

A request is {"id": n, "call": name, ...}; the reply carries the same id and either "result" or
"error" (a text, with "kind"). One shape for the launcher's socket pair and for the socket
`control` in a group's directory, which any process of the same user may open.
"""

from __future__ import annotations

import json
import os
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]


class Channel:
    """One end of a connection; reading returns whole messages only."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = bytearray()
        self.closed = False

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: Message) -> bool:
        """Send one message; False when the other end is gone."""
        try:
            self.connection.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self) -> list[Message]:
        """The messages that one read completes; sets `closed` at end of file, and at nonsense."""
        try:
            data = self.connection.recv(65536)
        except (BlockingIOError, InterruptedError, TimeoutError):
            return []
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return []
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = bytearray(rest)
        try:
            messages = [json.loads(line) for line in lines if line]
        except (ValueError, RecursionError):
            messages = [None]
        if not all(isinstance(message, dict) for message in messages):
            self.closed = True
            return []
        return messages

    def close(self) -> None:
        self.closed = True
        self.connection.close()


def connect_unix(path: str, timeout: float) -> socket.socket:
    """Connect to a Unix socket whose path may be longer than the 107 bytes an address holds.

    Raises OSError when nothing listens.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        if len(os.fsencode(path)) <= 100:
            connection.connect(path)
        elif sys.platform == "linux":
            directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            finally:
                os.close(directory)
        else:
            here = os.getcwd()
            os.chdir(os.path.dirname(path))
            try:
                connection.connect(os.path.basename(path))
            finally:
                os.chdir(here)
    except OSError:
        connection.close()
        raise
    return connection
