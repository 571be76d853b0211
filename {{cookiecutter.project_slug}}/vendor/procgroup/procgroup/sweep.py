"""Clearing away what dead owners left: the last line of defence, run at every launch.

A group is swept when its owner is provably gone (other boot, or no process with that pid and
start time) and no keeper of it lives, or when its recorded keeper is provably gone, whoever owns it.
Each step is idempotent, so two sweepers may race.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time

from procgroup import processes
from procgroup.channel import connect_unix
from procgroup.registry import KEEP_FAILED, GroupRow, Registry, current_boot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Mapping
    from pathlib import Path
    from typing import Any


def group_document(directory: str) -> dict[str, Any]:
    """The group's group.json; empty when it is missing, unreadable, or of another format."""
    document = _read_document(directory)
    return document if document.get("format") == 1 else {}


def _read_document(directory: str) -> dict[str, Any]:
    try:
        with open(os.path.join(directory, "group.json"), encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def recorded_processes(document: dict[str, Any]) -> list[tuple[int, str]]:
    """(pid, start time) of every process that group.json names, the keeper left out."""
    return [
        (replica["pid"], replica["started"])
        for role in document.get("roles", {}).values()
        for replica in role.get("replicas", [])
        if replica.get("pid") and replica.get("started")
    ]


def keeper_alive(document: dict[str, Any]) -> bool:
    """Whether the group's keeper still runs."""
    keeper = document.get("keeper") or {}
    return bool(keeper) and processes.alive(keeper["pid"], keeper["started"])


def served(directory: str) -> bool | None:
    """Whether a keeper serves the group, in whatever container it runs: its `control` is listened on.

    None when that cannot be known.
    """
    try:
        connect_unix(os.path.join(directory, "control"), 1.0).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return None
    return True


def clean_up(documents: Mapping[str, dict[str, Any]]) -> set[str]:
    """Run the `cleanup` of each role as group.json names it, all at once, within their limit.

    The ids of the groups with one that failed, which is said on standard error.
    """
    wanted = [
        (group, replica["cleanup"])
        for group, document in documents.items()
        for role in document.get("roles", {}).values()
        for replica in role.get("replicas", [])
        if replica.get("cleanup")
    ]
    failed: set[str] = set()
    if not wanted:
        return failed
    import subprocess
    import tempfile

    def complain(group: str, command: list[str], problem: str) -> None:
        failed.add(group)
        _warn(f"{' '.join(command)}: {problem}")

    running = []
    for group, command in wanted:
        try:
            # A file, since what the command leaves running may hold a pipe open.
            errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            complain(group, command, str(error))
        else:
            running.append((group, command, process, errors))
    ends = time.monotonic() + processes.CLEANUP_LIMIT
    for group, command, process, errors in running:
        try:
            process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            processes.send_group(process.pid, signal.SIGKILL)
            process.wait()
        with errors:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
        if process.returncode and "no such container" not in said.lower():
            complain(group, command, said or f"ended with {process.returncode}")
    return failed


def clear_groups(
    groups: Mapping[str, str], *, earlier: Collection[str] = (), elsewhere: Collection[str] = ()
) -> set[str]:
    """End what provably belongs to groups without keeper, and what they have outside of their tree.

    `groups` are directories by id; those of an `earlier` boot have no processes any more, and pids
    that one from `elsewhere`, another container, has recorded mean nothing here. All are looked for
    in one walk through the machine's processes. The ids of those of which something is left.
    """
    documents = {group: group_document(directory) for group, directory in groups.items()}
    recent = {group: directory for group, directory in groups.items() if group not in earlier}
    if recent:
        recorded = [
            each
            for group in recent
            if group not in elsewhere
            for each in recorded_processes(documents[group])
        ]
        processes.kill_members(recent, recorded)
    return clean_up(documents)


def remove_groups(
    groups: Mapping[str, str], *, earlier: Collection[str] = (), elsewhere: Collection[str] = ()
) -> set[str]:
    """`clear_groups`, and remove their directories; the ids of those of which something is left.

    Each for itself: what is wrong with one is said on standard error, and is no other's trouble.
    """
    left = clear_groups(groups, earlier=earlier, elsewhere=elsewhere)
    for group, directory in groups.items():
        if group in left:
            continue  # its group.json says how to remove the rest
        try:
            processes.remove_tree(directory)
        except OSError as error:
            left.add(group)
            _warn(f"{directory} cannot be removed: {error}")
    return left


def _warn(text: str) -> None:
    with contextlib.suppress(OSError):  # a warden's standard error may lie on a full disk
        print(f"procgroup: {text}; `procgroup gc --all` tries again", file=sys.stderr)


_TIME_TO_END = 10.0  # seconds that a keeper gets to end its group in good order


def end_lost(row: GroupRow) -> bool:
    """End a detached group whose group.json is gone: its owner is its keeper. False for any other.

    Nothing else leads to it: its `control` is gone with its directory, or nobody knows of it.
    """
    if _read_document(row.directory) or not row.owner_alive() or not _at_work(row):
        return False
    ends = time.monotonic() + _TIME_TO_END
    number = signal.SIGTERM
    while row.owner_alive():
        processes.send(row.owner.pid, number)
        time.sleep(0.02)
        if time.monotonic() > ends:
            number = signal.SIGKILL
    return True


def _at_work(row: GroupRow) -> bool:
    """Whether the owner is provably the group's keeper, which has begun and is not at its end.

    A launcher has another command line. A keeper that serves works in the group's directory; where
    that is not to be seen, a minute tells.
    """
    if "from procgroup.warden import main" not in processes.command_line(row.owner.pid):
        return False
    if not processes.LINUX:
        return time.time() - row.created > _YOUNG
    try:
        place = os.readlink(f"/proc/{row.owner.pid}/cwd")
    except OSError:
        return False
    return os.path.basename(place.removesuffix(" (deleted)")) == row.id


_PAUSE = 1.0  # seconds, at least, between two looks at the groups of other living processes,
_RARELY = 20  # and so many times as long as the last one took


def sweep(registry: Registry, *, kept: bool = False, keepers: bool = True) -> list[GroupRow]:
    """Remove every dead group of the registry; the groups removed.

    Directories of failed runs go when they are `KEEP_FAILED` old, or all of them with `kept`. A group
    that cannot be removed is treated as one of these, and no launch meets it again at once. Those of
    other containers that no keeper serves go with `kept`, too, as do detached ones that nothing
    leads to.

    Without `keepers`, of groups whose owner lives no group.json is read that this process answers
    for, and others' about once a second: each of many launches would read those of all others.
    """
    dead = []
    began = time.monotonic()
    others = keepers or began >= registry.look_again
    verdicts: dict[tuple[int, str, str, str], bool | None] = {}
    for row in registry.groups():
        if row.kept is not None:
            if not kept and time.time() - row.kept < KEEP_FAILED:
                continue
        else:
            if row.owner not in verdicts:
                verdicts[row.owner] = row.owner_alive()
            alive = verdicts[row.owner]
            if alive is None:
                if kept and served(row.directory) is False:
                    dead.append(row)
                continue
            if alive and not (keepers or (others and row.owner.pid != os.getpid())):
                continue
            document = group_document(row.directory)
            if keeper_alive(document):
                continue  # and takes the group down at this moment, should the owner be gone
            if alive and not document.get("keeper") and not (kept and end_lost(row)):
                continue  # it has yet to begin, or has ended in good order
        dead.append(row)
    if others:
        ended = time.monotonic()
        registry.look_again = ended + max(_PAUSE, _RARELY * (ended - began))
    if dead:
        earlier = {row.id for row in dead if row.of_an_earlier_boot()}
        elsewhere = {row.id for row in dead if row.owner.namespace != processes.pid_namespace()}
        left = remove_groups(
            {row.id: row.directory for row in dead}, earlier=earlier, elsewhere=elsewhere
        )
        for group in left:
            registry.keep(group)
        dead = [row for row in dead if row.id not in left]
        registry.release(*(row.id for row in dead))
    return dead


def enter_living(database: sqlite3.Connection, state_dir: Path) -> None:
    """Enter the groups whose keepers live, by their group.json, into a registry that is new.

    From then on their keepers own them: that those live is what can be proven.
    """
    try:
        entries = list(os.scandir(state_dir / "groups"))
    except FileNotFoundError:
        return
    for entry in entries:
        document = group_document(entry.path)
        if not keeper_alive(document):
            continue
        database.execute(
            "INSERT INTO groups (id, name, blueprint, directory, owner_pid, owner_started,"
            " boot, namespace, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(document[key] for key in ("id", "name", "blueprint", "directory")),
                *(document["keeper"][key] for key in ("pid", "started")),
                *(current_boot(), processes.pid_namespace(), document["created"]),
            ),
        )
        database.executemany(
            "INSERT OR IGNORE INTO ports (port, group_id, role, replica, name)"
            " VALUES (?, ?, ?, ?, ?)",
            [
                (port, document["id"], role, replica["replica"], name)
                for role, described in document["roles"].items()
                for replica in described["replicas"]
                for name, port in replica["ports"].items()
            ],
        )


_YOUNG = 60.0  # seconds: a directory this new may belong to a launch that is under way


def remove_strays(registry: Registry) -> list[str]:
    """Remove group directories that no registry knows (one that was damaged, say) and none keeps.

    The directories removed.
    """
    known = {row.directory for row in registry.groups()}
    strays = {}
    try:
        entries = list(os.scandir(registry.state_dir / "groups"))
    except FileNotFoundError:
        return []
    for entry in entries:
        document = group_document(entry.path)
        young = time.time() - entry.stat(follow_symlinks=False).st_mtime < _YOUNG
        if entry.path in known or young or keeper_alive(document) or served(entry.path):
            continue
        strays[entry.name] = entry.path
    left = remove_groups(strays) if strays else set()
    return [path for group, path in strays.items() if group not in left]
