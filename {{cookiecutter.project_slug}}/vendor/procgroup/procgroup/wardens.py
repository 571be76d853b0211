"""A launching process's wardens: the small one that serves at once, and warm ones.

A warm warden is a warden in an interpreter started as the roles' own are (with site, without -I),
which has imported a blueprint's `preload` modules. Its keepers can fork roles that are ready to run
instead of starting an interpreter for each. It gets warm in the background, is used once it is, and
never when a file of what it has imported has changed since.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from procgroup import processes
from procgroup.channel import Channel

KEEPER, RETIRE, GOODBYE = b"k", b"r", b"g"  # as in `warden`, which a launcher need not import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from procgroup.warden import main; main()"
# `-c` puts the working directory first on the path; a role has its own there.
_WARM_CODE = _CODE.replace("; ", "; sys.flags.safe_path or sys.path.pop(0); ", 1)

# Variables that an interpreter, its memory allocator or its loader reads once, when it starts. The
# two below are followed anew by each forked role.
_READ_AT_START = ("PYTHON", "LC_", "LD_", "DYLD_", "MALLOC_")
_READ_AT_START_TOO = {"LANG", "LANGUAGE", "GLIBC_TUNABLES", "VIRTUAL_ENV"}
_FOLLOWED = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
# Room in a warm warden's environment for what its forks show of their own in /proc.
_ROOM = 4096


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a running interpreter cannot be told anew."""
    return {
        name: value
        for name, value in environment.items()
        if (name.startswith(_READ_AT_START) or name in _READ_AT_START_TOO) and name not in _FOLLOWED
    }


class Warden:
    """This process's handle on its warden for one state directory."""

    def __init__(self, state_dir: Path) -> None:
        flags = ["-I", "-S"]
        if sys.dont_write_bytecode:
            flags.append("-B")
        if sys.pycache_prefix:
            flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
        self._start(state_dir, [*flags, "-c", _CODE], [], {})

    def _start(
        self, state_dir: Path, flags: list[str], more: list[str], changes: dict[str, str]
    ) -> None:
        from procgroup.registry import make_state_directory

        self.environment = dict(os.environ)
        make_state_directory(state_dir)
        ours, theirs = socket.socketpair()
        package_home = str(Path(__file__).resolve().parent.parent)
        arguments = [package_home, str(theirs.fileno()), str(os.getpid()), str(state_dir), *more]
        with theirs, open(state_dir / "warden.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *flags, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=self.environment | changes,
            )
        self.socket = ours
        self.detached = False
        self.passed_over = 0  # launches, one after the other, that a warm one has served
        self._leases: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def changes(self) -> dict[str, str | None]:
        """What this process's environment has become since; None: no such variable any more."""
        now, then = dict(os.environ), self.environment
        changed: dict[str, str | None] = {
            name: now[name] for name in now if now[name] != then.get(name)
        }
        return changed | dict.fromkeys(then.keys() - now.keys())

    def alive(self) -> bool:
        return self.process.poll() is None

    def ends_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def busy(self) -> bool:
        """Whether it has, or may have, a keeper."""
        return self.detached or any(lease.fileno() >= 0 for lease in self._leases)

    def new_keeper(self) -> socket.socket:
        """Have a keeper forked; our end of its lease. Raises OSError when the warden is gone."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = array.array("i", [theirs.fileno()])
            try:
                self.socket.sendmsg(
                    [KEEPER], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes())]
                )
            except OSError:
                ours.close()
                raise
        self._leases.add(ours)
        return ours

    def leave(self) -> None:
        """Let the warden end, as soon as its keepers have; this process leaves nothing behind."""
        with contextlib.suppress(OSError):  # it has left us, or has been left before
            self.socket.send(GOODBYE)
        self.socket.close()

    def retire(self) -> None:
        """Let it end likewise; should this process die meanwhile, it still clears the registry.

        The socket stays open: its end is how a warden learns that.
        """
        with contextlib.suppress(OSError):
            self.socket.send(RETIRE)

    def close(self, timeout: float) -> None:
        """`leave`, and wait for its end, unless it stays for detached groups."""
        self.leave()
        if self.detached:
            self.process.returncode = 0  # not ours to wait for
            return
        if not self.ends_within(timeout):
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """In a forked child: the warden is the parent's."""
        self.socket.close()
        self.process.returncode = 0


class WarmWarden(Warden):
    """A warden that has imported modules, or is about to."""

    def __init__(self, state_dir: Path, modules: Iterable[str]) -> None:
        self.modules = tuple(modules)
        changes = {"PROCGROUP_ROOM": "." * _ROOM}
        if sys.dont_write_bytecode:
            changes["PYTHONDONTWRITEBYTECODE"] = "1"
        self._start(state_dir, ["-c", _WARM_CODE], [json.dumps(self.modules)], changes)
        self._channel = Channel(self.socket)
        self._ready = False
        self._files: list[tuple[str, int, int]] = []
        self.names: set[str] = set()  # of the top-level modules that are loaded
        self.failed = False

    def ready(self) -> bool:
        """Whether it may be used now. Says on standard error, once, why it never will be."""
        if not self._ready and not self.failed and not self._channel.closed:
            self.socket.setblocking(False)
            for message in self._channel.receive():
                self._hear(message)
            self.socket.setblocking(True)
        return self._ready

    def _hear(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self.failed = True
            print(
                f"procgroup: cannot preload: {message['error']}; roles start without it",
                file=sys.stderr,
            )
            return
        self._files = [(path, time, size) for path, time, size in message["files"]]
        self.names = set(message["names"])
        self._ready = True

    def fresh(self) -> bool:
        """Whether each imported file, and what an interpreter reads at start, is as it was."""
        same = read_at_start(os.environ) == read_at_start(self.environment)
        if not same or os.environ.get("PYTHONPATH") != self.environment.get("PYTHONPATH"):
            return False
        for path, modified, size in self._files:
            try:
                status = os.stat(path)
            except OSError:
                return False
            if status.st_mtime_ns != modified or status.st_size != size:
                return False
        return True

    def may_run(self, environment: Mapping[str, str], directory: str) -> bool:
        """Whether a fork would be as a new interpreter in that environment and directory.

        Not when a variable that is read only at start differs; nor when a module that is loaded
        would be found elsewhere there.
        """
        if read_at_start(environment) != read_at_start(self.environment):
            return False
        places = [directory]
        search = environment.get("PYTHONPATH", "")
        if search != self.environment.get("PYTHONPATH", ""):
            places += [os.path.join(directory, place) for place in search.split(os.pathsep)]
        for place in places:
            try:
                found = os.listdir(place)
            except OSError:
                continue
            if any(name.partition(".")[0] in self.names for name in found):
                return False
        return True

    def leave(self) -> None:
        """As ever, but at once while it still imports."""
        self._stop_importing()
        super().leave()

    def retire(self) -> None:
        """As ever, but at once while it still imports."""
        self._stop_importing()
        super().retire()

    def _stop_importing(self) -> None:
        """It would not hear of its end, and has no keepers."""
        if not self._ready and self.alive():
            self.process.kill()


# Of each kind, at once in a process, however many state directories and sets of modules it uses. Each
# holds some 10 to 20 MB; those used least lately go first.
MOST = 4
# A plain warden without groups ends when so many launches, one after the other, have done without.
SPARE = 8
_lock = threading.RLock()  # guards what follows
_plain: dict[Path, Warden] = {}
_warm: dict[tuple[Path, tuple[str, ...]], WarmWarden] = {}
_retired: list[Warden] = []  # they serve no new groups, and end with those they have


def prepare(state_dir: Path) -> Warden:
    """The plain warden for that state directory; started when it does not run."""
    with _lock:
        warden = _plain.pop(state_dir, None)
        if warden is not None and not warden.alive():
            warden.close(1.0)
            warden = None
        if warden is None:
            _make_room(_plain)
            warden = Warden(state_dir)
        _plain[state_dir] = warden  # last: the one used most lately
        return warden


def expect(state_dir: Path) -> None:
    """`prepare`, unless a warm one is likely to serve what is launched next."""
    with _lock:
        warm = (warden for (place, _), warden in _warm.items() if place == state_dir)
        if not any(warden.ready() and warden.alive() for warden in warm):
            prepare(state_dir)


def new_keeper(state_dir: Path, modules: tuple[str, ...]) -> tuple[Warden, socket.socket]:
    """A new keeper's lease, and the warden it is from: warm with the modules, if one is."""
    with _lock:
        warm = _usable(state_dir, modules) if modules else None
        if warm is not None:
            with contextlib.suppress(OSError):
                lease = warm.new_keeper()
                _pass_over(state_dir)
                return warm, lease
        with contextlib.suppress(OSError):  # it may be killed at this very moment
            return _from_plain(state_dir)
        return _from_plain(state_dir)


def _from_plain(state_dir: Path) -> tuple[Warden, socket.socket]:
    warden = prepare(state_dir)
    warden.passed_over = 0
    return warden, warden.new_keeper()


def _pass_over(state_dir: Path) -> None:
    plain = _plain.get(state_dir)
    if plain is not None:
        plain.passed_over += 1
        if plain.passed_over >= SPARE and not plain.busy():
            _retire(_plain.pop(state_dir))


def _usable(state_dir: Path, modules: tuple[str, ...]) -> WarmWarden | None:
    key = state_dir, modules
    warden = _warm.pop(key, None)
    if warden is None:
        return None
    ready = warden.ready()  # asked once: it may become so at any moment
    usable = ready and warden.alive() and warden.fresh()
    if usable or warden.failed or (warden.alive() and not ready):
        _warm[key] = warden  # last: the one used most lately
    else:
        _retire(warden)
    return warden if usable else None


def running() -> set[int]:
    """The pids of this process's wardens."""
    with _lock:
        every = (*_plain.values(), *_warm.values(), *_retired)
        return {warden.process.pid for warden in every if warden.alive()}


def warm_up(state_dir: Path, modules: tuple[str, ...]) -> None:
    """Begin to have a warm warden, unless there is one or it is known not to work (Linux)."""
    with _lock:
        if not processes.LINUX or (state_dir, modules) in _warm:
            return
        _make_room(_warm)
        _warm[state_dir, modules] = WarmWarden(state_dir, modules)


def _make_room(table: dict[Any, Any]) -> None:
    """Retire those used least lately, for one more."""
    while len(table) >= MOST:
        _retire(table.pop(next(iter(table))))


def _retire(warden: Warden) -> None:
    warden.retire()
    _retired.append(warden)
    for each in [each for each in _retired if not each.alive()]:
        each.leave()
        _retired.remove(each)


def close_all(timeout: float) -> None:
    """Let all wardens end, and wait for them."""
    with _lock:
        every = [*_plain.values(), *_warm.values(), *_retired]
        for warden in every:
            warden.leave()
        for warden in every:
            warden.close(timeout)
        forget_tables()


def forget_all() -> None:
    """In a forked child: all of them are the parent's."""
    global _lock
    _lock = threading.RLock()
    for warden in (*_plain.values(), *_warm.values(), *_retired):
        warden.forget()
    forget_tables()


def forget_tables() -> None:
    """No wardens from here on."""
    _plain.clear()
    _warm.clear()
    _retired.clear()
