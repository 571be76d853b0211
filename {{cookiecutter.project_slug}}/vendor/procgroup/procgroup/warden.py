"""The warden: one process for each launching process; forks a keeper a group and outlives them.

It is small, warm and single-threaded, so that a fork costs a millisecond and carries no locks. It
is a subreaper too: when a keeper is killed, the keeper's processes become its children, and every
child of the warden that is not a keeper is such an orphan, and is killed. When the warden itself
is killed, its keepers see their pipe end and take their groups down.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys

from procgroup import processes
from procgroup.channel import Channel
from procgroup.forked import BecomeRole, run
from procgroup.keeper import run_keeper

# A launcher's requests: a keeper, with its lease as ancillary data; no more of them; the end.
KEEPER, RETIRE, GOODBYE = b"k", b"r", b"g"
_DYING = 0.2  # seconds that a killed launcher takes to close its sockets, one after the other


class Warden:
    """The warden's loop. Requests come with the keeper's socket as ancillary data."""

    def __init__(self, launcher: socket.socket, launcher_pid: int) -> None:
        self._launcher = launcher
        self._pidfd = processes.open_pidfd(launcher_pid)
        self._keepers: set[int] = set()
        self.dismissed = False  # the launcher left in good order, and leaves nothing behind
        self._retired = False
        # Keepers hold the reading end; the kernel closes the writing end with this process.
        self._life = os.pipe()
        self._signals = os.pipe()
        for descriptor in self._signals:
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def run(self) -> None:
        """Serve until the launcher and every keeper are gone."""
        poll = select.poll()
        poll.register(self._launcher, select.POLLIN)
        poll.register(self._signals[0], select.POLLIN)
        if self._pidfd is not None:
            poll.register(self._pidfd, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._signals[0]:
                    with contextlib.suppress(BlockingIOError):
                        os.read(descriptor, 512)
                    self._reap()
                elif descriptor == self._pidfd or not self._serve():
                    self._close()
                    return
            if self._retired and not self._keepers:
                self._look_after_launcher()
                return

    def _serve(self) -> bool:
        """Take one request for a keeper; False at the launcher's end."""
        size = array.array("i", [0]).itemsize
        try:
            data, ancillary, _, _ = self._launcher.recvmsg(1, socket.CMSG_SPACE(size))
        except OSError:
            return False
        if data == RETIRE:
            self._retired = True
            self.dismissed = not self._keepers  # then there is nothing to clear, whoever dies
            return not self.dismissed
        if data != KEEPER:
            self.dismissed = data == GOODBYE
            return False
        descriptors = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(payload[: len(payload) - len(payload) % size])
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            self._fork(descriptor)
            os.close(descriptor)
        return True

    def _fork(self, descriptor: int) -> None:
        pid = os.fork()
        if pid:
            self._keepers.add(pid)
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            for each in (*self._signals, self._life[1]):
                os.close(each)
            self._launcher.close()
            run_keeper(socket.socket(fileno=descriptor), self._life[0], self._pidfd)
            status = 0
        except BecomeRole:
            raise  # a fork of the keeper, on its way out of all this
        except BaseException:  # this is a forked child: nothing may return from here
            import traceback

            with contextlib.suppress(BaseException):
                traceback.print_exc()
            with contextlib.suppress(BaseException):
                processes.kill_descendants()
        os._exit(status)

    def _reap(self) -> None:
        lost = self._keepers.intersection(pid for pid, _ in processes.reap_exited())
        while lost:
            self._keepers -= lost
            if not processes.LINUX:
                return
            # Another keeper may end while this one's descendants are killed.
            lost = self._keepers & processes.kill_descendants(spare=self._keepers)

    def _close(self) -> None:
        """The launcher is gone. Keepers know by themselves; detached ones live on."""
        self._launcher.close()
        while self._keepers:
            select.select([self._signals[0]], [], [], 1.0)
            with contextlib.suppress(BlockingIOError):
                os.read(self._signals[0], 512)
            self._reap()

    def _look_after_launcher(self) -> None:
        """The last keeper of a retired warden is gone: perhaps since the launcher is dying."""
        if select.select([self._launcher], [], [], _DYING)[0]:
            self._serve()
        else:
            self.dismissed = True  # it lives, and knows what it has stopped
        self._launcher.close()


def main() -> None:
    """Entry point of the warden's process.

    argv is the launcher's socket, its pid, the state directory, and for a warm warden the modules
    to import as JSON.
    """
    descriptor, launcher_pid, state_dir, *more = sys.argv[1:]
    os.chdir("/")
    processes.become_subreaper()
    launcher = socket.socket(fileno=int(descriptor))
    os.set_inheritable(launcher.fileno(), False)
    if more and not _preload(launcher, json.loads(more[0])):
        return
    # Keepers share these pages as long as nobody writes to them, and a collection writes to all that
    # it looks at. There is little to collect in a keeper.
    gc.freeze()
    gc.set_threshold(100_000)
    warden = Warden(launcher, int(launcher_pid))
    try:
        warden.run()
    except BecomeRole as become:
        role = become
    else:
        if not warden.dismissed:
            _clean_up(state_dir)
        return
    del warden, launcher
    run(role.plan)


def _preload(launcher: socket.socket, modules: list[str]) -> bool:
    from procgroup.preloading import Unfit, preload

    processes.make_room("PROCGROUP_ROOM")
    # An import may hang. Nobody depends on this process yet, so it may die with the launcher.
    processes.die_with_parent()
    try:
        facts = preload(modules, sys.path[0])
    except Unfit as error:
        facts = {"error": str(error)}
    processes.outlive_parent()
    return Channel(launcher).send(facts) and "error" not in facts


def _clean_up(state_dir: str) -> None:
    """Leave the registry without the dead launcher's groups, now that nothing runs any more."""
    from procgroup.registry import Registry
    from procgroup.sweep import sweep

    registry = Registry.existing(state_dir)
    if registry is None:
        return
    sweep(registry)
    registry.close()
