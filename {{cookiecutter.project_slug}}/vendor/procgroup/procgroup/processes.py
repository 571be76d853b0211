"""What the operating system knows about processes.

Standard library only and cheap to import: the warden and the keepers run on this. Calls that
exist on Linux alone are guarded; `PROCGROUP_PORTABLE=1` switches them off, so that the path of
other systems can be tested on Linux.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any

LINUX = sys.platform == "linux" and os.environ.get("PROCGROUP_PORTABLE") != "1"

CLEANUP_LIMIT = 10.0  # seconds that a role's `cleanup` may take

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
WRITTEN = 0x2 | 0x100  # IN_MODIFY, IN_CREATE
DELETED = 0x200  # IN_DELETE


_c_library: list[Any] = []  # looked up once: in a fork on its way to exec it would cost much


def _c() -> Any:
    if not _c_library:
        import ctypes

        _c_library.append(ctypes.CDLL(None))
        _c_library[0].prctl.argtypes = [ctypes.c_int] + 4 * [ctypes.c_ulong]
    return _c_library[0]


def _prctl(option: int, value: int) -> bool:
    return bool(_c().prctl(option, value, 0, 0, 0) == 0)


def become_subreaper() -> bool:
    """Make orphaned descendants children of this process. False where the system cannot."""
    return LINUX and _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when the *thread* that forked it ends (Linux)."""
    if LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def outlive_parent() -> None:
    """Take `die_with_parent` back."""
    if LINUX:
        _prctl(_PR_SET_PDEATHSIG, 0)


# Set when roles forked from this process must not see its own copy of this package.
foreign_package = False


_shown: list[int] = []  # first and last address of the command line, and of the room below


def make_room(variable: str) -> None:
    """Take an environment variable's memory for what `retitle` shows (Linux)."""
    fields = _stat("self") if LINUX else None
    os.environ.pop(variable, None)
    if fields is None or len(fields) < 49:
        return
    with open("/proc/self/environ", "rb") as file:
        environment = file.read()
    begin, end, base, _ = (int(field) for field in fields[45:49])
    start = environment.find(os.fsencode(f"{variable}="))
    if 0 < begin < end <= base and start >= 0:
        stop = environment.index(b"\0", start)
        _shown[:] = [begin, end, base + start, base + stop]


def retitle(arguments: Sequence[str], changes: Mapping[str, str]) -> None:
    """Show these in /proc as this process's command line, and as changes of its environment.

    They overwrite memory in which the kernel put those of the process's exec. What does not fit is
    cut off. Does nothing without `make_room`.
    """
    if not _shown:
        return
    import ctypes

    def overwrite(first: int, last: int, texts: Sequence[str]) -> None:
        data = b"\0".join(map(os.fsencode, texts))[: last - first - 1]
        ctypes.memmove(first, data.ljust(last - first, b"\0"), last - first)

    begin, end, room, room_end = _shown
    overwrite(begin, end, arguments)
    overwrite(room, room_end, [f"{name}={value}" for name, value in changes.items()])


def open_pidfd(pid: int) -> int | None:
    """A descriptor that polls readable once `pid` has exited; None where unsupported."""
    if not LINUX or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def watch_directory(path: str, events: int) -> int | None:
    """A descriptor that polls readable when a file in the directory is `WRITTEN` or `DELETED`.

    None where that is unsupported, or where this user has no more of them: 128 by default (inotify(7)).
    """
    if not LINUX:
        return None
    descriptor: int = _c().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    if _c().inotify_add_watch(descriptor, os.fsencode(path), events) < 0:
        os.close(descriptor)
        return None
    return descriptor


def _stat(pid: int | str) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on; the name before may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except (OSError, ValueError):
        return None


def _ended(fields: list[str]) -> bool:
    """Whether these fields of /proc/PID/stat are of a zombie, none of whose threads goes on.

    A killed process holds its ports and files until its last thread is gone, and one whose main
    thread has ended by itself may live for ever.
    """
    return fields[0] in "ZX" and int(fields[17]) < 2


def started(pid: int) -> str | None:
    """When the live process `pid` started, as a token to compare; None when there is none.

    A pid and this token name one process: a recycled pid has another start time. Zombies count
    as gone.
    """
    if LINUX:
        fields = _stat(pid)
        return None if fields is None or _ended(fields) else fields[19]
    row = _ps("-o", "stat=,lstart=", "-p", str(pid))
    if not row or row[0].startswith("Z"):
        return None
    return " ".join(row[0].split()[1:])


def alive(pid: int, start: str) -> bool:
    """Whether the process that had `pid` and started at `start` still runs."""
    return started(pid) == start


def command_line(pid: int) -> str:
    """A process's command, its words apart; empty when that cannot be known."""
    if not LINUX:
        return "".join(_ps("-ww", "-o", "args=", "-p", str(pid)))
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def boot_id() -> str:
    """A token that changes when the machine restarts."""
    if LINUX:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    import subprocess

    for name in ("kern.bootsessionuuid", "kern.boottime"):
        try:
            result = subprocess.run(
                ["sysctl", "-n", name],
                env=_with_system_programs(),
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:
            break
        if result.returncode == 0:
            return result.stdout.strip()
    return "unknown"


_SYSTEM_PROGRAMS = "/bin:/usr/bin:/usr/sbin:/sbin"


def _with_system_programs() -> dict[str, str]:
    """This environment, in which `ps` and `sysctl` are found whatever PATH is."""
    path = os.environ.get("PATH") or os.defpath
    return {**os.environ, "PATH": f"{path}:{_SYSTEM_PROGRAMS}"}


PORTABLE = "portable"


def pid_namespace() -> str:
    """The namespace in which this process's pids have a meaning (a container has its own).

    PORTABLE without the calls of Linux: what `started` and `boot_id` say is then something else, too.
    """
    if not LINUX:
        return PORTABLE
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _ps(*arguments: str) -> list[str]:
    import subprocess

    with subprocess.Popen(
        ["ps", *arguments], env=_with_system_programs(), stdout=subprocess.PIPE, text=True
    ) as process:
        output, _ = process.communicate()
    own = str(process.pid)  # where pids are listed, ps lists itself
    lines = (line.strip() for line in output.splitlines())
    return [line for line in lines if line and line.split()[0] != own]


def parents() -> dict[int, int]:
    """The parent of every live process."""
    if LINUX:
        table = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and (fields := _stat(name)) and not _ended(fields):
                table[int(name)] = int(fields[1])
        return table
    rows = (line.split() for line in _ps("-axo", "pid=,ppid=,stat="))
    return {int(row[0]): int(row[1]) for row in rows if not row[2].startswith("Z")}


def _listed_children(pid: int) -> list[int] | None:
    """The kernel's own list of children, zombies included; None where it keeps none."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
    except (FileNotFoundError, ProcessLookupError):
        return found if os.path.exists("/proc/self/task") and _kernel_lists_children() else None
    except OSError:
        return found
    return found


def _kernel_lists_children() -> bool:
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def children(pid: int) -> list[int]:
    """The direct children of `pid` (on Linux including zombies)."""
    if LINUX and (found := _listed_children(pid)) is not None:
        return found
    return [child for child, parent in parents().items() if parent == pid]


def descendants(pid: int) -> list[int]:
    """The live descendants of `pid`, parents before children, zombies left out."""
    if LINUX and _kernel_lists_children():
        found: list[int] = []
        queue = [pid]
        while queue:
            for child in children(queue.pop()):
                queue.append(child)
                fields = _stat(child)
                if fields is not None and not _ended(fields):
                    found.append(child)
        return found
    by_parent: dict[int, list[int]] = {}
    for child, parent in parents().items():
        by_parent.setdefault(parent, []).append(child)
    found, queue = [], [pid]
    while queue:
        level = by_parent.get(queue.pop(), [])
        found.extend(level)
        queue.extend(level)
    return found


def group_of(pid: int) -> int | None:
    """The process group of `pid`, None when the process is gone."""
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def listeners(port: int) -> set[str]:
    """The sockets that listen on a TCP port, as /proc/<pid>/fd names them (Linux)."""
    try:
        inodes = _ask_kernel(port, socket.AF_INET) + _ask_kernel(port, socket.AF_INET6)
    except OSError:  # a kernel or a sandbox without sock_diag
        inodes = _read_tables(port)
    return {f"socket:[{inode}]" for inode in inodes}


def _ask_kernel(port: int, family: int) -> list[int]:
    """The inodes of the sockets that listen on a port, by sock_diag(7).

    Takes 0.05 ms where reading /proc/net/tcp takes 6 ms, which walks through the table of all
    connections.
    """
    listen, dump = 1 << 10, 0x301  # TCP_LISTEN's bit; NLM_F_REQUEST | NLM_F_DUMP
    by_family, done, error = 20, 3, 2  # SOCK_DIAG_BY_FAMILY, NLMSG_DONE, NLMSG_ERROR
    header, sock_diag = struct.Struct("=IHHII"), 4  # struct nlmsghdr; NETLINK_SOCK_DIAG
    # struct inet_diag_req_v2: what to list, then an all but empty struct inet_diag_sockid
    request = struct.pack("=BBxxI", family, socket.IPPROTO_TCP, listen) + bytes(48)
    found: list[int] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sock_diag) as connection:
        connection.settimeout(1.0)
        connection.send(header.pack(header.size + len(request), by_family, dump, 1, 0) + request)
        while True:
            data = connection.recv(65536)
            at = 0
            while at < len(data):
                length, kind, *_ = header.unpack_from(data, at)
                body = at + header.size
                if kind == done:
                    return found
                if kind == error:
                    raise OSError(-struct.unpack_from("=i", data, body)[0], "sock_diag")
                # struct inet_diag_msg: the source port, in network order, at 4; the inode at 68
                if struct.unpack_from("!H", data, body + 4)[0] == port:
                    found.append(struct.unpack_from("=I", data, body + 68)[0])
                at += (length + 3) & ~3


def _read_tables(port: int) -> list[int]:
    """The same from /proc/net."""
    found = []
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{table}", encoding="ascii") as file:
            for line in file:
                fields = line.split(None, 10)
                if fields[1].endswith(wanted) and fields[3] == "0A":
                    found.append(int(fields[9]))
    return found


def holds(pid: int, sockets: Collection[str]) -> bool | None:
    """Whether a process has one of the sockets open; None when that is not for us to see."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            if os.readlink(f"/proc/{pid}/fd/{descriptor}") in sockets:
                return True
        except OSError:
            continue
    return False


def send(pid: int, number: int) -> bool:
    """Signal one process; False when it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def send_group(group: int, number: int) -> bool:
    """Signal a whole process group; False when it has no member left."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS: EPERM when only zombies are left
        return False
    return True


def wait_stopped(pid: int, limit: float) -> None:
    """Wait until a process that was sent SIGSTOP has stopped (Linux), for `limit` seconds."""
    deadline = time.monotonic() + limit
    while LINUX and time.monotonic() < deadline:
        fields = _stat(pid)
        if fields is None or fields[0] in "TtZX":
            return
        time.sleep(0.0002)


def environment_of(pid: int) -> dict[bytes, bytes]:
    """What /proc still shows of a process's initial environment (Linux).

    Programs that rewrite their title, as Redis does, overwrite it: empty proves nothing.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return {}
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def reap_exited() -> list[tuple[int, int]]:
    """Every child of this process that has exited, with its wait status."""
    reaped: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return reaped
        if pid == 0:
            return reaped
        reaped.append((pid, status))


def kill_descendants(spare: Collection[int] = ()) -> set[int]:
    """SIGKILL all descendants of this process, and reap until none is left.

    This process must be a subreaper: then nothing can leave the tree, not by setsid, not by a
    double fork. `spare` are direct children that stay, with all below them. Returns whom it has
    reaped: one of `spare` may have ended by itself meanwhile.
    """
    wait = 0.0002
    reaped: set[int] = set()
    while True:
        reaped.update(pid for pid, _ in reap_exited())
        own = [child for child in children(os.getpid()) if child not in spare]
        if not own:
            return reaped
        for child in own:
            for pid in (*descendants(child), child):
                send(pid, signal.SIGKILL)
        # The kernel needs a moment to take a process apart; what it had forked meanwhile is then
        # a child of this process, and the next round finds it.
        time.sleep(wait)
        wait = min(wait * 1.5, 0.005)


def freeze(find: Callable[[], Iterable[int]]) -> set[int]:
    """SIGSTOP what `find` finds until it finds nobody new; all of these.

    Where nobody inherits orphans, who forks while he is killed leaves a child that nothing leads to:
    so none of a tree may be killed before all of it stands still.
    """
    frozen: set[int] = set()
    while found := set(find()) - frozen:
        for pid in found:
            send(pid, signal.SIGSTOP)
        frozen |= found
    return frozen


def members(groups: Mapping[str, str], recorded: Iterable[tuple[int, str]]) -> set[int]:
    """Live processes that provably belong to groups (id → directory) whose keepers are gone.

    The proofs, none of which a recycled pid can fake: the pid still has the recorded start time;
    its environment names a group's id; its standard output or error is a log in a group's
    directory (Redis overwrites its environment). Where nothing but pids and command lines is to be
    seen, the second proof is a `runsv` told to run a directory in a group's. Everything descended from
    such a process belongs too. This process and its ancestors never do.
    """
    found = {pid for pid, start in recorded if alive(pid, start)}
    table = parents()
    if LINUX:
        user = os.getuid()
        wanted = {group.encode() for group in groups}
        prefixes = tuple(directory.rstrip("/") + "/" for directory in groups.values())
        for pid in table:
            try:
                if os.stat(f"/proc/{pid}").st_uid != user:
                    continue
            except OSError:
                continue
            if environment_of(pid).get(b"PROCGROUP_ID") in wanted or _logs_into(pid, prefixes):
                found.add(pid)
    else:
        found |= _runsvs(groups.values())
    for pid in table:
        seen = []
        ancestor = pid
        while ancestor in table and ancestor not in found:
            seen.append(ancestor)
            ancestor = table[ancestor]
        if ancestor in found:
            found.update(seen)
    own = os.getpid()
    while own in table or own in found:
        found.discard(own)
        if own not in table:
            break
        own = table[own]
    return found


def _runsvs(directories: Iterable[str]) -> set[int]:
    prefixes = tuple(directory.rstrip("/") + "/" for directory in directories)
    found = set()
    for line in _ps("-axww", "-o", "pid=,args="):
        pid, _, command = line.partition(" ")
        program, _, directory = command.lstrip().partition("runsv ")
        if " " not in program and directory.startswith(prefixes):
            found.add(int(pid))
    return found


def _logs_into(pid: int, prefixes: tuple[str, ...]) -> bool:
    for number in (1, 2):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}").removesuffix(" (deleted)")
        except OSError:
            continue
        if target.startswith(prefixes) and target.endswith("/log"):
            return True
    return False


def kill_members(groups: Mapping[str, str], recorded: Iterable[tuple[int, str]]) -> int:
    """SIGKILL what `members` finds until it finds nothing; the number of processes killed."""
    recorded = list(recorded)
    killed = set() if LINUX else freeze(lambda: members(groups, recorded))
    for pid in killed:
        send(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5.0
    while found := members(groups, recorded):
        for pid in found:
            send(pid, signal.SIGKILL)
        killed |= found
        if time.monotonic() > deadline:
            break
        time.sleep(0.002)
    return len(killed)


def remove_tree(path: str) -> None:
    """Remove a directory and everything below it; what is already gone is no error.

    Raises OSError when something cannot be removed.
    """
    try:
        _remove_tree(path)
    except PermissionError:  # a role may leave read-only directories, as Go's module cache does
        _make_writable(path)
        _remove_tree(path)


def _make_writable(path: str) -> None:
    """Give the directory and all below it back to their owner, links not followed."""
    with contextlib.suppress(FileNotFoundError):
        os.chmod(path, 0o700)
        for entry in list(os.scandir(path)):
            if entry.is_dir(follow_symlinks=False):
                _make_writable(entry.path)


def _remove_tree(path: str) -> None:
    # shutil.rmtree would do, but importing shutil costs a keeper more than the removal.
    try:
        entries = list(os.scandir(path))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(entry.path)
        else:
            try:
                os.unlink(entry.path)
            except FileNotFoundError:
                continue
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return
