"""Execution environments: where one invocation at a time runs, and what the poller sees of them."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec

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

    def kill(self) -> None:
        """End the environment now, with all processes it started in its process group."""
        ...


class EnvironmentExited(Exception):
    """The environment's process ended; the text says how, in Lambda's words."""


class ForkedEnvironment:
    """An environment in a child process, forked from the poller.

    The child leads a session and process group of its own. It dies with the poller, however that ends:
    the poller holds the only write end of a pipe, and the child has asked the kernel to send SIGKILL to
    its whole group when that closes (Linux), or watches the pipe in a thread (elsewhere).
    """

    def __init__(self, settings: Settings, close_in_child: Iterable[int]) -> None:
        """Fork and start the init phase. `close_in_child`: the poller's other descriptors."""
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for descriptor in (ours.fileno(), self._lifeline, *close_in_child):
                    os.close(descriptor)
                _die_with(lifeline)
                _serve(settings, theirs)
            except SystemExit as error:
                _leave(error.code if isinstance(error.code, int) else int(error.code is not None))
            except BaseException:
                sys.excepthook(*sys.exc_info())
                _leave(1)
            _leave(0)
        theirs.close()
        os.close(lifeline)
        ours.setblocking(False)
        self._socket = ours
        self._reader = FrameReader()
        self._out = b""
        self._closed = False  # the child's end of the socket
        self._reaped = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        return self._socket.fileno(), self._lifeline

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
        if outcome is None and (status := self._exit_status()) is not None:
            raise EnvironmentExited(how_it_ended(status))
        return outcome

    def kill(self) -> None:
        if self._reaped:
            return
        # The group before its leader is reaped: after that the number may be another's.
        for end in (os.killpg, os.kill):  # and the leader, which may not have its own group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._reaped = True
        self._socket.close()
        os.close(self._lifeline)

    def _exit_status(self) -> int | None:
        """None while the process lives; negative: the signal that ended it. Does not reap it."""
        state = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if state is None:
            return None
        return state.si_status if state.si_code == os.CLD_EXITED else -state.si_status


def _leave(status: int) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def _die_with(lifeline: int) -> None:
    os.setsid()
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
        if select.select([lifeline], [], [], 0)[0]:  # the poller was gone before we asked
            os.killpg(0, signal.SIGKILL)
        return

    import _thread

    def watch() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    _thread.start_new_thread(watch, ())


def _serve(settings: Settings, connection: socket.socket) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # the terminal belongs to the poller
    os.close(nothing)
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


def how_it_ended(status: int) -> str:
    """Lambda's words for an exit status; negative: by that signal."""
    if status < 0:
        try:
            name = signal.Signals(-status).name.removeprefix("SIG").lower()
        except ValueError:
            name = str(-status)
        return f"Runtime exited with error: signal: {_SIGNAL_WORDS.get(name, name)}"
    if status:
        return f"Runtime exited with error: exit status {status}"
    return "Runtime exited without providing a reason"


_SIGNAL_WORDS = {"kill": "killed", "segv": "segmentation fault", "abrt": "aborted"}


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

    def kill(self) -> None:
        return
