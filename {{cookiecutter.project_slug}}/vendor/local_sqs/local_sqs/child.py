"""Child processes of the poller: each leads a process group of its own, and dies with the poller."""

import contextlib
import fcntl
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable

KERNEL_WATCHES = hasattr(fcntl, "F_SETSIG")
"""Whether the kernel kills a child whose lifeline closes; else a thread of the child does."""


class ChildProcess:
    """A forked child.

    It leads a session and process group of its own. It dies with the poller, however that ends: the
    poller holds the only write end of a pipe, the child's lifeline, and the child has asked the kernel to
    send SIGKILL to its whole group when that closes (Linux; this outlives an exec), or watches the pipe
    in a thread (elsewhere; `main` sees to that).
    """

    def __init__(self, main: Callable[[int], None], close_in_child: Iterable[int]) -> None:
        """Fork, and run `main` in the child, given its end of the lifeline. `close_in_child`: the
        parent's descriptors that the child must not hold."""
        lifeline, self.lifeline = os.pipe()  # the parent's end, which no other child may inherit
        sys.stdout.flush()
        sys.stderr.flush()
        self._reaped = False
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for descriptor in (self.lifeline, *close_in_child):
                    os.close(descriptor)
                os.setsid()
                _die_with(lifeline)
                nothing = os.open(os.devnull, os.O_RDONLY)
                os.dup2(nothing, 0)  # the terminal belongs to the poller
                os.close(nothing)
                main(lifeline)
            except SystemExit as error:
                _leave(error.code if isinstance(error.code, int) else int(error.code is not None))
            except BaseException:
                sys.excepthook(*sys.exc_info())
                _leave(1)
            _leave(0)
        os.close(lifeline)

    def exit_status(self) -> int | None:
        """None while the process lives; negative: the signal that ended it. Does not reap it."""
        state = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if state is None:
            return None
        return state.si_status if state.si_code == os.CLD_EXITED else -state.si_status

    def signal_kill(self) -> None:
        """SIGKILL to the child's process group, unless it was reaped. Safe in a signal handler."""
        if self._reaped:
            return
        # The group before its leader is reaped: after that the number may be another's.
        for end in (os.killpg, os.kill):  # and the leader, which may not have its own group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL, and wait for the end; nothing if that was done before."""
        if self._reaped:
            return
        self.signal_kill()
        self._reaped = True
        os.waitpid(self.pid, 0)
        os.close(self.lifeline)


def _leave(status: int) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def _die_with(lifeline: int) -> None:
    if not KERNEL_WATCHES:
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the poller was gone before we asked
        os.killpg(0, signal.SIGKILL)


def watch(lifeline: int) -> None:
    """Kill this process's group when the lifeline closes, where the kernel does not."""
    if KERNEL_WATCHES:
        return
    import _thread

    def wait() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    _thread.start_new_thread(wait, ())


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


def memory_mb(pid: int) -> int:
    """The memory of an environment, in MB as Lambda counts them (2**20 bytes): the most that its process
    has held at once, or what it holds now together with its descendants, whichever is more. Of these counts
    what they share with nobody. 0 where the system does not tell (no /proc).
    """
    kilobytes = _kilobytes(f"/proc/{pid}/status", b"VmHWM:", b"VmRSS:")
    descendants = _children(pid)
    for child in descendants:  # grows meanwhile
        descendants += _children(child)
    private = (b"Private_Clean:", b"Private_Dirty:")
    theirs = sum(sum(_kilobytes(f"/proc/{x}/smaps_rollup", *private)) for x in descendants)
    return max(kilobytes[0], kilobytes[1] + theirs) // 1024


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def _kilobytes(path: str, *fields: bytes) -> list[int]:
    """Numbers of a file in /proc, each 0 where it is not there."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return [0] * len(fields)
    numbers = []
    for field in fields:
        _, found, rest = text.partition(field)
        numbers.append(int(rest.split(None, 1)[0]) if found else 0)
    return numbers
