"""The ways to run one role's process: under runit's `runsv`, or as the keeper's own child, which
runs a program or, where the keeper has the role's modules in memory, goes on from there.

A supervisor here is mechanics only: begin an incarnation, say when it has ended and how. When to
restart, what to signal and when to give up is the keeper's, and thereby the same for both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from procgroup import processes
from procgroup.forked import BecomeRole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

# The signals that a keeper handles.
KEEPER_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_EVERY_SIGNAL = {int(number) for number in signal.valid_signals()}

# runsv sleeps a second when its service ended within a second of its start.
_RUNSV_SLEEP = 1.1

# Seconds that `finish` may take to say how a role has ended. Long, for the machine may be busy.
_FINISH_LATE = 2.0


def exit_text(status: int | None) -> str:
    """What a wait status means, for a person; None: runsv, or its `finish`, could not say it."""
    if status is None:
        return "ended (its status was lost)"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exited with status {os.waitstatus_to_exitcode(status)}"


def fork_exec(
    argv: list[str], environment: dict[str, str], directory: str, log: str, pipe: int | None = None
) -> int:
    """Fork, lead a new session, write to `log`, have `pipe` as descriptor 3, run argv; the pid.

    `environment` is added to this process's own.
    A program that cannot be run says so in the log and exits with 127, as under a shell.
    """
    pid = _fork()
    if pid:
        return pid
    try:
        _settle(directory, log, pipe)
        os.environ.update(environment)
        os.execv(argv[0], argv)
    except BaseException as error:  # this is a forked child: nothing may return from here
        _give_up(argv[0], error)


def fork_module(plan: dict[str, Any]) -> int:
    """Fork a process that goes on as `python -m` with the plan's module; the pid."""
    pid = _fork()
    if pid:
        return pid
    try:
        _settle(plan["working_directory"], plan["log"], None)
    except BaseException as error:
        _give_up(plan["module"], error)
    raise BecomeRole(plan)


def _fork() -> int:
    # A signal that reached the child before its exec would run the keeper's handlers there, and be
    # lost: it waits until the child has handlers of its own.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _give_up(program: str, error: BaseException) -> NoReturn:
    message = f"procgroup: cannot run {program}: {error}\n"
    with contextlib.suppress(OSError):
        os.write(2, message.encode(errors="replace"))
    os._exit(127)


def _settle(directory: str, log: str, pipe: int | None) -> None:
    """In a forked child: everything between the fork and the role's own code."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if pipe is not None:
        if pipe == 3:
            os.set_inheritable(pipe, True)
        else:
            os.dup2(pipe, 3)
    os.chdir(directory)
    processes.die_with_parent()
    # The keeper's handlers, and those that Python ignores, which exec would keep.
    signal.set_wakeup_fd(-1)
    for number in (*KEEPER_SIGNALS, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


class Supervisor:
    """One role's process. `on_start(pid)` and `on_exit(wait status)` report to the keeper."""

    pid: int | None = None
    sees_ends = True  # whether `on_exit` is sure to be called

    def __init__(
        self,
        plan: dict[str, Any],
        on_start: Callable[[int], None],
        on_exit: Callable[[int | None], None],
    ) -> None:
        self.plan = plan
        self.on_start = on_start
        self.on_exit = on_exit

    def begin(self) -> None:
        """Start one incarnation; the one before has ended."""
        raise NotImplementedError

    def reaped(self, pid: int, status: int) -> bool:
        """A child of the keeper has ended; True when it was this supervisor's."""
        raise NotImplementedError

    def own_pids(self) -> list[int]:
        """Direct children of the keeper that this supervisor accounts for."""
        raise NotImplementedError

    def patience(self) -> float:
        """Seconds after the process's end, of which nothing was heard, until `lost` is due."""
        return 0.0

    def lost(self) -> None:
        """The process has ended, and nobody has said so."""

    def descriptor(self) -> int | None:
        """A descriptor to poll; `readable` is called when it has something."""
        return None

    def readable(self) -> None:
        """Read the descriptor."""


class Builtin(Supervisor):
    """Forks the role itself."""

    def begin(self) -> None:
        self.pid = fork_exec(
            self.plan["argv"],
            self.plan["environment"],
            self.plan["working_directory"],
            self.plan["log"],
        )
        self.on_start(self.pid)

    def reaped(self, pid: int, status: int) -> bool:
        if pid != self.pid:
            return False
        self.pid = None
        self.on_exit(status)
        return True

    def own_pids(self) -> list[int]:
        return [] if self.pid is None else [self.pid]


class Forked(Builtin):
    """Forks the role with the modules that the keeper's warden has imported."""

    def begin(self) -> None:
        self.pid = fork_module(self.plan)
        self.on_start(self.pid)


class Runit(Supervisor):
    """Lets `runsv` run the role's `run` script.

    The scripts of `runit/` report through a pipe: "run PID" when an incarnation begins, "exit CODE
    STATUS" when it has ended. So nothing has to poll the status file. Each incarnation is started
    with `u` and, once it runs, set to `o` (once): the next is the keeper's to begin. Behind each
    line stands the pid of its runsv: what one that was killed had begun is not the next one's.
    """

    sees_ends = False  # where `finish` cannot be run

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._runsv: int | None = None
        self._teller = 0  # the runsv whose scripts are heard, though it may have ended
        self._directory = os.path.join(self.plan["directory"], "runit")
        self._pipe: tuple[int, int] | None = None
        self._buffer = b""
        self._started = 0.0
        self._ended = 0.0
        self._beginning = False

    def begin(self) -> None:
        if self._runsv is not None and self._ended - self._started < _RUNSV_SLEEP:
            self._retire()
        self._beginning = True
        if self._runsv is None or not self._control(b"u"):
            self._retire()
            if self._pipe is None:
                self._pipe = os.pipe()
                os.set_blocking(self._pipe[0], False)
            self._runsv = self._teller = self._spawn(self._pipe[1])

    def _spawn(self, pipe: int) -> int:
        """Start runsv; its pid.

        Spawned, not forked: a keeper that holds imported modules takes milliseconds to fork. What
        cannot be asked of a spawn is that it dies with its parent, and it need not: it is its role
        that must be found anyhow, and runsv with it.
        """
        argv = [self.plan["runsv"], self._directory]
        environment = self.plan["environment"]
        try:
            return os.posix_spawn(
                argv[0],
                argv,
                {**os.environ, **environment},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 1, self.plan["log"], os.O_WRONLY | os.O_APPEND, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                    (os.POSIX_SPAWN_DUP2, pipe, 3),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[*KEEPER_SIGNALS, signal.SIGPIPE, signal.SIGXFSZ],
            )
        except (OSError, NotImplementedError):  # the fork says in the role's log what is wrong
            return fork_exec(argv, environment, self._directory, self.plan["log"], pipe)

    def _retire(self) -> None:
        """Kill an idle runsv and wait for it, since it holds the directory's lock."""
        if self._runsv is not None:
            processes.send_group(self._runsv, signal.SIGKILL)  # a `finish` that hangs, too
            processes.send(self._runsv, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._runsv, 0)
            self._runsv = None

    def _control(self, command: bytes) -> bool:
        """Write to runsv's control FIFO; False when no runsv reads it."""
        try:
            fifo = os.open(
                os.path.join(self._directory, "supervise", "control"), os.O_WRONLY | os.O_NONBLOCK
            )
        except OSError:
            return False
        try:
            os.write(fifo, command)
        finally:
            os.close(fifo)
        return True

    def descriptor(self) -> int | None:
        return None if self._pipe is None else self._pipe[0]

    def readable(self) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):
            self._buffer += os.read(self._pipe[0], 4096)
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            word, *texts = line.split()
            *numbers, teller = map(int, texts)
            if word == b"run" and (teller != self._teller or not self._beginning):
                if teller == self._teller:
                    # runsv, which `o` has not reached, was quicker: the next start is the keeper's.
                    self._retire()
                processes.send_group(numbers[0], signal.SIGKILL)
                processes.send(numbers[0], signal.SIGKILL)
            elif word == b"run":
                self._started = time.monotonic()
                self._beginning = False
                self.pid = numbers[0]
                self._control(b"o")
                self.on_start(self.pid)
            elif word == b"exit" and self.pid is not None and teller == self._teller:
                self._end(_wait_status(*numbers))

    def patience(self) -> float:
        # Nothing can be expected where the script is gone, may not be run, or lies on `noexec`.
        can_say = os.access(os.path.join(self._directory, "finish"), os.X_OK)
        return _FINISH_LATE if can_say else 0.0

    def lost(self) -> None:
        pid = self.pid
        self._retire()
        self.readable()
        if pid is not None and self.pid == pid:
            self._end(None)

    def _end(self, status: int | None) -> None:
        self._ended = time.monotonic()
        self.pid = None
        self.on_exit(status)

    def reaped(self, pid: int, status: int) -> bool:
        if pid == self.pid:  # adopted from a runsv that was killed, and is not reaped yet
            self._end(status)
            return True
        if pid != self._runsv:
            return False
        self._runsv = None
        # A script of its own that has not come to a process group of its own.
        processes.send_group(pid, signal.SIGKILL)
        if self._pipe is not None:
            self.readable()  # it may have said how the role ended before it was killed itself
        if self.pid is not None:
            # runsv was killed and its role runs on, now as a child of the keeper. Two copies must
            # never run: nothing else is begun before this one is gone.
            processes.send_group(self.pid, signal.SIGKILL)
            processes.send(self.pid, signal.SIGKILL)
            self._end(None)
        elif self._beginning:
            self._beginning = False
            self._end(status)  # runsv could not even run the script
        return True

    def own_pids(self) -> list[int]:
        return [pid for pid in (self._runsv, self.pid) if pid is not None]


SUPERVISORS = {"builtin": Builtin, "forked": Forked, "runit": Runit}


def _wait_status(code: int, low_byte: int) -> int:
    """The wait status from what runsv tells `finish`: exit code (or -1) and low byte."""
    return (code << 8) if code >= 0 else low_byte


# `run` of a role works by hand too; "$@" lets a person write `./run strace -f`. chpst -P (setsid)
# gives the role a process group of its own, which runsv does not.
RUNIT_RUN = """#!/bin/sh
echo "run $$ $PPID" >&3
exec 3>&-
set -- {chpst} -P
. ../run
"""
RUNIT_FINISH = """#!/bin/sh
echo "exit $1 $2 $PPID" >&3
"""


def runit_programs() -> dict[str, str] | None:
    """The absolute paths of runsv and chpst; None when runit is not installed."""
    import shutil

    found = {name: shutil.which(name) for name in ("runsv", "chpst")}
    if sys.platform == "win32" or not all(found.values()):
        return None
    return {name: os.path.abspath(path) for name, path in found.items() if path}
