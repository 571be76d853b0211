"""A Redis client over one plain socket: commands, pipelines and Lua scripts.

redis-py costs more to import than everything else a small group does at its start; hiredis packs and
parses the protocol in C, and the rest is short.
"""

import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

Argument = str | bytes | int | float

# hiredis's stub says a tuple of exactly one argument.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)


# A server that is just being restarted is nobody's concern.
_TELL_AFTER = 0.5  # seconds


class RedisError(Exception):
    """Redis answered with an error."""


class ConnectionLost(ConnectionError):
    """Redis could not be reached, or went away, for as long as the client was willing to retry."""


class _Loading(OSError):
    """Redis is up but still reading its data: as good as away."""


_LOOKING = 0.0002
"""For how many seconds an answer is looked for before the client sleeps until it comes: longer than nearly
every command of the queue takes."""

_SCRIPTS = os.path.join(os.path.dirname(__file__), "lua")


def split_url(url: str) -> tuple[str, int, str]:
    """Host, port and name of `redis://host:port/name`; the port defaults to 6379, the name may be empty.

    Raises ValueError for anything else. urllib.parse, which knows far more, takes longer to import.
    """
    scheme, _, rest = url.partition("://")
    address, _, name = rest.partition("/")
    host, colon, port = address.partition(":")
    if scheme != "redis" or not host or (colon and not port.isdecimal()):
        raise ValueError(f"expected redis://host:port/name, got {url!r}")
    return host, int(port or 6379), name.strip("/")


class Script:
    """A Lua script from `lua/`, preceded by the preludes that it uses."""

    __slots__ = ("name", "preludes", "sha", "source")

    def __init__(self, name: str, *preludes: str) -> None:
        self.name = name
        self.preludes = preludes
        self.source = ""
        self.sha = b""  # depends on the text alone, so one value serves every server

    def text(self) -> str:
        if not self.source:
            for part in (*self.preludes, self.name):
                with open(os.path.join(_SCRIPTS, f"{part}.lua"), encoding="utf-8") as file:
                    self.source += file.read()
        return self.source


class Client:
    """One connection to one Redis server, for one thread.

    A command that meets a lost connection is sent again after reconnecting, with back-off, for up to
    `retry_for` seconds, and then raises `ConnectionLost`. It may therefore be carried out twice; the
    queue's scripts are written for that. A process forked from the owner gets a connection of its own.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 6379,
        *,
        retry_for: float = 5.0,
        timeout: float = 5.0,
    ) -> None:
        """`retry_for`, `timeout` (for one answer): seconds."""
        self.host = host
        self.port = port
        self.retry_for = retry_for
        self.timeout = timeout
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader(replyError=RedisError)
        self._owner = 0

    @classmethod
    def from_url(cls, url: str, *, retry_for: float = 5.0, timeout: float = 5.0) -> "Client":
        """A client for `redis://host:port[/anything]`.

        Raises ValueError for another scheme or a missing host.
        """
        host, port, _ = split_url(url)
        return cls(host, port, retry_for=retry_for, timeout=timeout)

    def twin(self) -> "Client":
        """A second client, not yet connected, of the same server and settings."""
        return Client(self.host, self.port, retry_for=self.retry_for, timeout=self.timeout)

    def fileno(self) -> int:
        """The connection's descriptor, -1 when there is none."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def close(self) -> None:
        """Drop the connection; the next command opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, *command: Argument) -> Any:
        """One command's reply. Raises RedisError, ConnectionLost."""
        (reply,) = self._converse(_pack(command), 1)
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def pipeline(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """The replies to several commands sent at once. Raises the first RedisError among them."""
        replies = self._converse(b"".join(map(_pack, commands)), len(commands))
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    def run(self, script: Script, key: str, *arguments: Argument) -> Any:
        """A script's reply, loading the script first where the server does not know it.

        Raises RedisError, ConnectionLost.
        """
        return self.run_all((script, key, arguments))[0]

    def run_all(self, *calls: tuple[Script, str, Sequence[Argument]]) -> list[Any]:
        """Run several scripts in one round trip; not atomic as a whole. Raises as `run` does."""
        packed = []
        for script, key, arguments in calls:
            if not script.sha:
                script.sha = self.execute("SCRIPT", "LOAD", script.text())
            packed.append(_pack(("EVALSHA", script.sha, 1, key, *arguments)))
        replies = self._converse(b"".join(packed), len(calls))
        for index, reply in enumerate(replies):
            if isinstance(reply, RedisError):
                if not str(reply).startswith("NOSCRIPT"):
                    raise reply
                script, key, arguments = calls[index]
                replies[index] = self.execute("EVAL", script.text(), 1, key, *arguments)
        return replies

    # What follows is for waiters, which read an answer long after they asked.

    def post(self, *command: Argument) -> int:
        """Send a command whose answer is read by `collect`; gives the socket to wait on.

        Raises ConnectionLost; never retries.
        """
        try:
            connection = self._connected()
            connection.sendall(_pack(command))
            return connection.fileno()
        except OSError as error:
            self.close()
            raise ConnectionLost(f"Redis at {self.address}: {error}") from error

    def collect(self) -> Any:
        """The answer to `post`. Raises RedisError, ConnectionLost."""
        try:
            reply = self._read(self._connected())
        except OSError as error:
            self.close()
            raise ConnectionLost(f"Redis at {self.address}: {error}") from error
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def _converse(self, packed: bytes, replies: int) -> list[Any]:
        away_since = None
        pause, told = 0.005, False
        while True:
            try:
                connection = self._connected()
                connection.sendall(packed)
                answers = [self._read(connection) for _ in range(replies)]
            except (OSError, hiredis.ProtocolError) as error:
                self.close()
                now = time.monotonic()
                away_since = now if away_since is None else away_since
                if now + pause > away_since + self.retry_for:
                    raise ConnectionLost(f"Redis at {self.address}: {error}") from error
                if now - away_since > _TELL_AFTER and not told:
                    told = True
                    _tell(f"Redis at {self.address}: {error}; trying for {self.retry_for:g} s")
            else:
                if told and away_since is not None:
                    away = time.monotonic() - away_since
                    _tell(f"Redis at {self.address} is back after {away:.1f} s")
                return answers
            time.sleep(pause)
            pause = min(2 * pause, 0.25)

    def _connected(self) -> socket.socket:
        if self._socket is None or self._owner != os.getpid():
            self.close()
            self._reader = hiredis.Reader(replyError=RedisError)
            self._socket = self._connect()
            self._owner = os.getpid()
        return self._socket

    def _connect(self) -> socket.socket:
        # As bytes, since getaddrinfo imports the IDNA codec for a str: 3 ms of a worker's start.
        address: Any = (self.host.encode("ascii"), self.port)
        connection = socket.create_connection(address, self.timeout)
        if connection.getpeername() == connection.getsockname():
            # Nobody listens, and the system has given us the very port that we ask for.
            connection.close()
            raise ConnectionRefusedError("connected to itself")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel's own time limits: with settimeout() each send and recv is preceded by a poll().
        connection.setblocking(True)
        limit = struct.pack("ll", int(self.timeout), int(self.timeout % 1 * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        return connection

    def _receive(self, connection: socket.socket) -> bytes:
        # To put a processor to sleep and wake it again takes longer than most commands take, most of all
        # in a virtual machine: look for a moment, leaving the processor to whoever wants it meanwhile.
        give_up = time.perf_counter() + _LOOKING
        while True:
            try:
                return connection.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if time.perf_counter() > give_up:
                    break
                os.sched_yield()
        try:
            return connection.recv(65536)
        except BlockingIOError:
            raise TimeoutError(f"no answer within {self.timeout:g} s") from None

    def _read(self, connection: socket.socket) -> Any:
        while (reply := self._reader.gets()) is False:
            data = self._receive(connection)
            if not data:
                raise ConnectionResetError("connection closed by Redis")
            self._reader.feed(data)
        if isinstance(reply, RedisError) and str(reply).startswith("LOADING"):
            raise _Loading(str(reply))
        return reply


def _tell(text: str) -> None:
    from . import log  # seldom needed, and not cheap to import

    log.line(text)
