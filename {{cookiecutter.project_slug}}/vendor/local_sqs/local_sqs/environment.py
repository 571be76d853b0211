"""Execution environments: where one invocation at a time runs, and what the poller sees of them."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec

from .child import ChildProcess, how_it_ended, watch
from .invocation import (
    INIT_DONE,
    INIT_FAILED,
    FrameReader,
    Invocation,
    Outcome,
    frame,
    frame_invocation,
    unframe_invocation,
)
from .message import new_id
from .settings import Settings


class Environment(Protocol):
    """One execution environment. No method blocks, `invoke` of the debug environment excepted.

    The first outcome is that of the init phase; after it each `invoke` gives one.
    """

    @property
    def pid(self) -> int:
        """The process that runs the function."""
        ...

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when `outcome` may have something; None: there is nothing
        to wait for, the outcome is there or the end of the process will be signalled."""
        ...

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The poller's descriptors that no other environment may inherit."""
        ...

    @property
    def unsent(self) -> bool:
        """Whether `flush` waits for the descriptor to become writable."""
        ...

    def flush(self) -> None:
        """Send on what `invoke` could not send at once."""
        ...

    def invoke(self, invocation: Invocation) -> None:
        """Hand over an event."""
        ...

    def outcome(self) -> Outcome | None:
        """The next outcome if it has arrived. Raises EnvironmentExited."""
        ...

    def signal_kill(self) -> None:
        """Send SIGKILL to the environment's process group; `outcome` will tell. For signal handlers."""
        ...

    def kill(self) -> None:
        """End the environment now, with all processes it started in its process group."""
        ...


class EnvironmentExited(Exception):
    """The environment's process ended; the text says how, in Lambda's words."""


class ForkedEnvironment:
    """An environment in a child process, forked from the poller."""

    def __init__(self, settings: Settings, close_in_child: Iterable[int]) -> None:
        """Fork and start the init phase. `close_in_child`: the poller's other descriptors."""
        ours, theirs = socket.socketpair()

        def main(lifeline: int) -> None:
            watch(lifeline)
            _serve(settings, theirs)

        self._child = ChildProcess(main, [ours.fileno(), *close_in_child])
        self.pid = self._child.pid
        theirs.close()
        ours.setblocking(False)
        self._socket = ours
        self._reader = FrameReader()
        self._out = b""
        self._closed = False  # the child's end of the socket

    @property
    def descriptors(self) -> tuple[int, ...]:
        return self._socket.fileno(), self._child.lifeline

    def fileno(self) -> int | None:
        return None if self._closed else self._socket.fileno()

    @property
    def unsent(self) -> bool:
        return bool(self._out)

    def invoke(self, invocation: Invocation) -> None:
        self._out = frame_invocation(invocation)
        self.flush()

    def flush(self) -> None:
        # A failed send means that the process has ended, which `outcome` reports.
        with contextlib.suppress(OSError):
            sent = self._socket.send(self._out)
            self._out = self._out[sent:]

    def outcome(self) -> Outcome | None:
        outcome = self._reader.next()
        while outcome is None and not self._closed:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self._closed = not data
            self._reader.feed(data)
            outcome = self._reader.next()
        if outcome is None and (status := self._child.exit_status()) is not None:
            raise EnvironmentExited(how_it_ended(status))
        return outcome

    def signal_kill(self) -> None:
        self._child.signal_kill()

    def kill(self) -> None:
        self._child.kill()
        self._socket.close()


def _serve(settings: Settings, connection: socket.socket) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # what a killed function printed is not lost

    from .function import Function, error_document, log_error

    try:
        function = Function(settings, log_stream=f"{time.strftime('%Y/%m/%d')}/[$LATEST]{new_id()}")
    except Exception as error:
        document = error_document(error)
        log_error(document, json_logs=True)
        connection.sendall(frame(INIT_FAILED, msgspec.json.encode(document)))
        return
    connection.sendall(frame(INIT_DONE, b""))
    reader = FrameReader()
    while data := connection.recv(1 << 18):
        reader.feed(data)
        while (request := reader.next()) is not None:
            outcome = function.invoke(unframe_invocation(request.payload))
            sys.stdout.flush()
            connection.sendall(frame(outcome.kind, outcome.payload))


class DebugEnvironment:
    """The function in the poller's own process: no fork, no time limit, so that breakpoints work."""

    unsent = False
    descriptors = ()

    def __init__(self, settings: Settings) -> None:
        from .function import Function, error_document, log_error

        self.pid = os.getpid()
        self._outcome: Outcome | None
        try:
            self._function = Function(settings, log_stream="debug", json_logs=False)
            self._outcome = Outcome(INIT_DONE, b"")
        except Exception as error:
            document = error_document(error)
            log_error(document, json_logs=False)
            self._outcome = Outcome(INIT_FAILED, msgspec.json.encode(document))

    def fileno(self) -> int | None:
        return None

    def flush(self) -> None:
        return

    def invoke(self, invocation: Invocation) -> None:
        self._outcome = self._function.invoke(
            Invocation(invocation.request_id, None, invocation.payload)
        )

    def outcome(self) -> Outcome | None:
        outcome, self._outcome = self._outcome, None
        return outcome

    def signal_kill(self) -> None:
        return

    def kill(self) -> None:
        return
