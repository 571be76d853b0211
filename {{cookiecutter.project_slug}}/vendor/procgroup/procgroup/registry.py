"""The node's registry: which group holds which ports, and who owns it.

One SQLite file for all projects and test runs of a user. Each change is one transaction that
begins by taking the write lock (BEGIN IMMEDIATE), so that two launchers never see the same port
free. A port is leased only after a server could be reached there under that lock, which guards
against everything that does not use the registry.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import struct
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from procgroup import processes
from procgroup.errors import PortsExhausted, RegistryError, refuse_other_than_utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Versions of this package share the file. What is added later (tables, columns with a default) leaves
# the version as it is, so every statement here names its columns; any other change raises it, and
# each version refuses the other's file.
SCHEMA_VERSION = 1
PATIENCE = 30.0  # seconds that others may keep the file locked
DEFAULT_PORTS = (20000, 32000)  # below 32768, where Linux hands out ephemeral ports
KEEP_FAILED = 3 * 24 * 3600.0  # seconds that the directory of a failed run is kept

_SCHEMA = """
CREATE TABLE groups (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, blueprint TEXT NOT NULL, directory TEXT NOT NULL,
    owner_pid INTEGER NOT NULL, owner_started TEXT NOT NULL,
    boot TEXT NOT NULL, namespace TEXT NOT NULL,
    created REAL NOT NULL, kept REAL
);
CREATE TABLE ports (
    port INTEGER PRIMARY KEY,
    group_id TEXT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
    role TEXT NOT NULL, replica INTEGER NOT NULL, name TEXT NOT NULL
);
CREATE INDEX ports_of_group ON ports (group_id);
CREATE TABLE cursor (next_port INTEGER NOT NULL);
INSERT INTO cursor VALUES (0);
"""
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


class Owner(NamedTuple):
    """A process that answers for a group; all four together name it for ever."""

    pid: int
    started: str
    boot: str
    namespace: str

    @classmethod
    def of(cls, pid: int) -> Owner:
        """The live process `pid`. Raises RegistryError when there is none."""
        start = processes.started(pid)
        if start is None:
            raise RegistryError(f"process {pid} cannot own a group: it is not running")
        return cls(pid, start, current_boot(), processes.pid_namespace())


class GroupRow(NamedTuple):
    """One group as registered; `kept` is when a failed run's directory was put aside, or None."""

    id: str
    name: str
    blueprint: str
    directory: str
    owner: Owner
    created: float
    kept: float | None

    def owner_alive(self) -> bool | None:
        """None when that cannot be known from here.

        So it is in another container on the same machine, and where one has the portable path.
        """
        if self._in_other_terms():
            return None
        if self.owner.boot != current_boot():
            return False
        if self.owner.namespace != processes.pid_namespace():
            return None
        return processes.alive(self.owner.pid, self.owner.started)

    def of_an_earlier_boot(self) -> bool:
        """Whether the machine has provably been restarted since: no process of it is left."""
        return not self._in_other_terms() and self.owner.boot != current_boot()

    def _in_other_terms(self) -> bool:
        """Whether boot and start were recorded by the portable path, and this is not, or vice versa."""
        portable = processes.PORTABLE
        return (self.owner.namespace == portable) != (processes.pid_namespace() == portable)


class PortRequest(NamedTuple):
    """A port wanted by one replica of a role, under the blueprint's name for it."""

    role: str
    replica: int
    name: str


_boot_token: list[str] = []


def current_boot() -> str:
    if not _boot_token:
        _boot_token.append(processes.boot_id())
    return _boot_token[0]


def state_directory(explicit: str | os.PathLike[str] | None = None) -> Path:
    """Where groups and the registry live: as given, $PROCGROUP_STATE_DIR, or the XDG state home.

    Raises RegistryError when that is no UTF-8.
    """
    chosen = explicit or os.environ.get("PROCGROUP_STATE_DIR")
    if chosen:
        found = Path(os.path.abspath(os.path.expanduser(chosen)))
    else:
        base = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(base):  # as the XDG specification wants it
            base = os.path.expanduser("~/.local/state")
        found = Path(base) / "procgroup"
    refuse_other_than_utf8(str(found), "state directory", RegistryError)
    return found


def make_state_directory(path: Path) -> None:
    """For its owner alone. Raises RegistryError when that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise RegistryError(f"{path}: cannot create the state directory: {error}") from error


def port_range() -> tuple[int, int]:
    """First and last port to lease: $PROCGROUP_PORTS ("20000-32000") or the default."""
    text = os.environ.get("PROCGROUP_PORTS")
    if not text:
        return _outside_ephemeral(DEFAULT_PORTS)
    first, _, last = text.partition("-")
    try:
        chosen = int(first), int(last)
    except ValueError:
        chosen = (0, 0)
    if not 1024 <= chosen[0] <= chosen[1] <= 65535:
        raise RegistryError(
            f"PROCGROUP_PORTS={text!r}: expected FIRST-LAST between 1024 and 65535, "
            "for example 20000-32000"
        )
    return _outside_ephemeral(chosen)


_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_compared: set[tuple[int, int]] = set()


def _outside_ephemeral(ports: tuple[int, int]) -> tuple[int, int]:
    """The same; warns once where the system gives such ports to whoever connects to somewhere."""
    if ports not in _compared:
        _compared.add(ports)
        with contextlib.suppress(OSError, ValueError):  # not Linux
            first, last = map(int, _EPHEMERAL.read_text().split())
            if ports[0] <= last and first <= ports[1]:
                print(
                    f"procgroup: ports {ports[0]}-{ports[1]} are not safe to lease: this system takes "
                    f"{first}-{last} for outgoing connections, too, so one may be gone before its "
                    "server listens; set PROCGROUP_PORTS to others",
                    file=sys.stderr,
                )
    return ports


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now and be reached (checked by doing both).

    Where a container engine was killed, its rules may go on sending the port's connections to a
    container that is no more, whoever listens.
    """
    reset = struct.pack("ii", 1, 0)  # close without TIME_WAIT, which would be in a server's way
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        client.setblocking(False)
        listener.settimeout(0.1)
        try:
            listener.bind((host, port))
            listener.listen(1)
            client.connect_ex((host, port))
            connection, _ = listener.accept()
        except OSError:
            return False
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    return True


_FILE = "registry.sqlite3"


class Registry:
    """The registry of one state directory; created when missing. Not shared between threads."""

    @classmethod
    def existing(cls, state_dir: str | Path) -> Registry | None:
        """The same; None where there is none, or somebody has removed it."""
        path = Path(state_dir)
        return cls(path) if (path / _FILE).exists() else None

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.path = state_dir / _FILE
        self.look_again = 0.0  # when `sweep` is to look at other processes' groups (monotonic)
        self.wardens: set[int] | None = None  # of this process, at its last sweep
        make_state_directory(state_dir)
        self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        for last in (False, False, True):
            # Looked at beforehand: a file that is set aside meanwhile is not taken for the new one.
            self._inode = self._inode_there()
            try:
                database = sqlite3.connect(
                    self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
                )
            except sqlite3.Error as error:
                raise self._unusable(error) from error
            try:
                self._prepare(database)
            except _FAILURES as error:
                database.close()
                if last:
                    raise self._unusable(error) from error
                if _is_damage(error):
                    self._set_aside(error, self._sound)
                    continue
                if _kind(error) != sqlite3.SQLITE_IOERR:
                    raise self._unusable(error) from error
                # Another process may be setting the file aside: once it has, there is a new one.
                with contextlib.suppress(OSError), self._lock():
                    pass
                continue
            except RegistryError:
                database.close()
                raise
            except OSError as error:  # the lock's file
                database.close()
                raise self._unusable(error) from error
            self._inode = self._inode or self._inode_there()
            return database
        raise AssertionError("unreachable")

    def _begin_anew(self, error: Exception) -> None:
        """After damage that opening the file does not find, as that would have to read all of it."""
        self._database.close()
        self._set_aside(error, self.replaced)
        self._database = self._open()

    def _unusable(self, error: Exception) -> RegistryError:
        if _kind(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL):
            name = getattr(error, "sqlite_errorname", "")
            return RegistryError(
                f"the disk that holds {self.state_dir} is full or broken: {error} ({name})"
            )
        return RegistryError(f"{self.path}: {error}")

    def _prepare(self, database: sqlite3.Connection) -> None:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with self._lock():  # nobody sets it aside meanwhile
                if self._emptied() or (self._inode and self.replaced()):
                    raise sqlite3.DatabaseError("somebody has emptied it")
                self._begin(database)
        self._check_version(database)
        _check_soundness(database)
        database.execute("PRAGMA foreign_keys = ON")
        # WAL with NORMAL never corrupts; what a power cut may lose is worthless after the reboot.
        database.execute("PRAGMA synchronous = NORMAL")

    def _begin(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("BEGIN IMMEDIATE")
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            from procgroup.sweep import enter_living

            enter_living(database, self.state_dir)  # those of a file that was set aside
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")

    def _check_version(self, database: sqlite3.Connection) -> None:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise RegistryError(
                f"{self.path} has schema version {version}, this procgroup knows "
                f"{SCHEMA_VERSION}: use the same version of procgroup in both projects, or set "
                "PROCGROUP_STATE_DIR to another directory"
            )

    def replaced(self) -> bool:
        """Whether the file at this path is no longer the one that was opened."""
        return self._inode_there() != self._inode

    def _inode_there(self) -> int:
        """0 while there is no file at this path."""
        try:
            return self.path.stat().st_ino
        except OSError:
            return 0

    def _emptied(self) -> bool:
        """Whether somebody has emptied the file: these come beside it after its first page.

        They are looked at first, since who begins a registry may write all at any moment.
        """
        begun = any(os.path.exists(f"{self.path}{suffix}") for suffix in ("-wal", "-shm"))
        try:
            return begun and self.path.stat().st_size == 0
        except OSError:
            return False

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        import fcntl

        with open(self.state_dir / "registry.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _sound(self) -> bool:
        """Whether the file at this path can be opened, or is empty and yet to be filled."""
        if self._emptied():
            return False
        try:
            with contextlib.closing(sqlite3.connect(self.path)) as database:
                _check_soundness(database)
                # The version last: who fills the file at this moment sets it together with the tables.
                empty = database.execute("SELECT 1 FROM sqlite_master").fetchone() is None
                return empty or database.execute("PRAGMA user_version").fetchone() != (0,)
        except _FAILURES:
            return False

    def _set_aside(self, error: Exception, done: Callable[[], bool]) -> None:
        """Move a damaged file away under a lock, unless another process has just done so."""
        with self._lock():
            if done():
                return
            aside = self.path.with_name(f"registry.sqlite3.damaged-{time.time_ns()}")
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
            print(
                f"procgroup: {self.path} is damaged ({error}); it was set aside as {aside} and a "
                "new registry begun",
                file=sys.stderr,
            )

    def close(self) -> None:
        self._database.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._check_version(self._database)  # another version may have changed it since
                yield self._database
            except BaseException:
                if self._database.in_transaction:  # on a full disk SQLite has rolled back by itself
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except _FAILURES as error:
            if _is_damage(error):
                self._begin_anew(error)
                raise RegistryError(f"{self.path} was damaged ({error}): try again") from error
            raise self._unusable(error) from error

    def _query(self, statement: str, parameters: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(statement, parameters).fetchall()
        except _FAILURES as error:
            if not _is_damage(error):
                raise self._unusable(error) from error
            self._begin_anew(error)
        try:
            return self._database.execute(statement, parameters).fetchall()
        except _FAILURES as error:
            raise self._unusable(error) from error

    def unused_id(self) -> str:
        """An id that no registered group has."""
        group_id = _new_id()
        while self._query("SELECT 1 FROM groups WHERE id = ?", (group_id,)):
            group_id = _new_id()
        return group_id

    def register(
        self,
        name: str,
        blueprint: str,
        owner: Owner,
        requests: Sequence[PortRequest],
        group_id: str | None = None,
    ) -> tuple[str, list[int]]:
        """Enter a new group; its id and one leased port for each request.

        With `group_id`, an unused one, its caller knows it also when an interrupt hides the answer.
        Raises PortsExhausted when the range holds too few free ports.
        """
        group_id = group_id or self.unused_id()
        with self._transaction() as database:
            database.execute(
                "INSERT INTO groups (id, name, blueprint, directory, owner_pid, owner_started,"
                " boot, namespace, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    group_id,
                    name,
                    blueprint,
                    str(self.state_dir / "groups" / group_id),
                    *owner,
                    time.time(),
                ),
            )
            ports = self._lease(database, len(requests)) if requests else []
            database.executemany(
                "INSERT INTO ports (port, group_id, role, replica, name) VALUES (?, ?, ?, ?, ?)",
                [(port, group_id, *request) for port, request in zip(ports, requests, strict=True)],
            )
        return group_id, ports

    def _lease(self, database: sqlite3.Connection, count: int) -> list[int]:
        """`count` free ports. The cursor moves on, so that a port just freed rests the longest."""
        first, last = port_range()
        size = last - first + 1
        leased = {row[0] for row in database.execute("SELECT port FROM ports")}
        (cursor,) = database.execute("SELECT max(next_port) FROM cursor").fetchone()
        if cursor is None or not first <= cursor <= last:
            # Each registry begins somewhere else: those of other users (and of test runs with a
            # state directory of their own) are then unlikely to reach for the same port in the
            # moment between the bind check and the server's own bind.
            cursor = first + int.from_bytes(os.urandom(4), "big") % size
        found: list[int] = []
        busy = 0
        for step in range(size):
            port = first + (cursor - first + step) % size
            if port in leased:
                continue
            if not port_is_free(port):
                busy += 1
                continue
            found.append(port)
            if len(found) == count:
                database.execute("DELETE FROM cursor")
                database.execute(
                    "INSERT INTO cursor (next_port) VALUES (?)",
                    (first + (port - first + 1) % size,),
                )
                return found
        ours = sum(first <= port <= last for port in leased)
        raise PortsExhausted(
            f"{count} port(s) wanted, {len(found)} free in {first}-{last}: "
            f"{ours} leased to groups (`procgroup ps`), {busy} in use by others. "
            "Stop some groups or widen PROCGROUP_PORTS"
        )

    def release(self, *group_ids: str) -> None:
        """Forget groups and free their ports; unknown ids are ignored."""
        with self._transaction() as database:
            database.executemany("DELETE FROM groups WHERE id = ?", [(each,) for each in group_ids])

    def keep(self, group_id: str) -> None:
        """Free a failed group's ports but remember its directory."""
        with self._transaction() as database:
            database.execute("UPDATE groups SET kept = ? WHERE id = ?", (time.time(), group_id))
            database.execute("DELETE FROM ports WHERE group_id = ?", (group_id,))

    def groups(self) -> list[GroupRow]:
        """Every registered group, oldest first."""
        rows = self._query(
            "SELECT id, name, blueprint, directory, owner_pid, owner_started, boot, namespace,"
            " created, kept FROM groups ORDER BY created"
        )
        return [
            GroupRow(row[0], row[1], row[2], row[3], Owner(*row[4:8]), row[8], row[9])
            for row in rows
        ]

    def ports(self, group_id: str) -> list[tuple[int, PortRequest]]:
        """The ports leased to one group."""
        rows = self._query(
            "SELECT port, role, replica, name FROM ports WHERE group_id = ? ORDER BY port",
            (group_id,),
        )
        return [(row[0], PortRequest(*row[1:])) for row in rows]


# The second where what SQLite says of the damage is itself no UTF-8.
_FAILURES = (sqlite3.Error, UnicodeDecodeError)


def _kind(error: Exception) -> int:
    """Its primary code, without what says where SQLite met it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_damage(error: Exception) -> bool:
    """Whether the file itself may be at fault, rather than a disk, a lock or a permission."""
    if isinstance(error, sqlite3.OperationalError):
        # A table that is missing or too many, or a text that is no UTF-8; these have no code of theirs.
        text = str(error)
        return text.startswith(("no such ", "Could not decode")) or text.endswith(" already exists")
    return type(error) in (sqlite3.DatabaseError, UnicodeDecodeError)


def _check_soundness(database: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError when the file's structure is damaged, wherever in it."""
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found.splitlines()[-1])


def _new_id() -> str:
    """Eight letters and digits: paths below stay short, and chance repeats none."""
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in os.urandom(8))
