"""Groups that stay up between test runs (`pytest --procgroup-keep`), to be taken up again.

Such a group is detached and carries a mark: a file that says for what it was made (a blueprint with
certain variables and overrides) and from what. A run that wants the same takes it up again; one
whose blueprint, configuration or program differ by now is ended and replaced. A lock on the mark
says that a run is using the group, so that no two ever share one; the kernel releases it with the
process that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from procgroup.errors import GroupLost, UnknownGroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from procgroup.blueprint import Blueprint
    from procgroup.group import ProcessGroup, Role

_MARK = "kept_by_pytest.json"


def kept_by_pytest(directory: str | os.PathLike[str]) -> bool:
    """Whether the group of this directory was left running by `--procgroup-keep`."""
    return os.path.exists(os.path.join(directory, _MARK))


class KeptGroup:
    """A group in use by this process. `reused`: it ran before; `replaced`: an outdated one went."""

    def __init__(
        self, group: ProcessGroup, lock: int, *, reused: bool, replaced: list[str]
    ) -> None:
        self.group = group
        self.reused = reused
        self.replaced = replaced
        self._lock = lock

    def release(self) -> None:
        """Leave it running, for the next to use."""
        self.group.close()
        os.close(self._lock)


def acquire(
    blueprint: str | os.PathLike[str],
    variables: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    user: str = "",
    state_dir: str | os.PathLike[str] | None = None,
    supervisor: str | None = None,
    timeout: float = 30.0,
) -> KeptGroup:
    """Take up the group that an earlier run left for the same purpose, or launch one.

    `user` keeps apart those that run side by side (the workers of pytest-xdist). In a group that is
    taken up again, `python` roles are restarted, since their code may have changed, and whatever is
    not as the blueprint has it (stopped, paused) is mended; the other roles keep their process and
    their data. All logs begin anew.
    Raises what `ProcessGroup.launch` does, and NotReady.
    """
    from procgroup.blueprint import load
    from procgroup.group import ProcessGroup
    from procgroup.preview import resolve
    from procgroup.registry import Registry, state_directory

    wanted = load(blueprint, variables, overrides)
    purpose = _digest([str(wanted.file), user, variables or {}, overrides or {}, supervisor])
    made_of = _digest(resolve(wanted, supervisor))
    registry = Registry(state_directory(state_dir))
    rows = [row for row in registry.groups() if row.kept is None]
    registry.close()
    replaced: list[str] = []
    for row in rows:
        if row.blueprint != str(wanted.file) or not kept_by_pytest(row.directory):
            continue
        lock = _locked(Path(row.directory) / _MARK)
        if lock is None:
            continue
        try:
            mark = _mark(lock)
            if mark.get("purpose") != purpose:
                os.close(lock)
                continue
            group = ProcessGroup.attach(row.directory)
            if mark.get("made_of") == made_of:
                _mend(group, wanted)
                return KeptGroup(group, lock, reused=True, replaced=replaced)
            replaced.append(group.id)
            group.stop()
            os.close(lock)
        except (GroupLost, UnknownGroup):  # another has taken it down
            os.close(lock)
        except BaseException:
            os.close(lock)
            raise
    locks: list[int] = []

    def mark_of(directory: Path) -> Path:
        """Lay it ready, locked; the keeper puts it in its place when all is ready."""
        new = directory / f"{_MARK}.new"
        new.write_text(json.dumps({"purpose": purpose, "made_of": made_of}), encoding="utf-8")
        own_lock = _locked(new)
        assert own_lock is not None
        while locks:
            os.close(locks.pop())  # of an attempt whose ports were taken
        locks.append(own_lock)
        return directory / _MARK

    try:
        group = ProcessGroup.launch(
            blueprint, variables, overrides, state_dir=state_dir, supervisor=supervisor,
            timeout=timeout, detach=True, _mark=mark_of,
        )  # fmt: skip
    except BaseException:
        for each in locks:
            os.close(each)
        raise
    return KeptGroup(group, locks.pop(), reused=False, replaced=replaced)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _mark(descriptor: int) -> dict[str, Any]:
    """What the mark says; empty when it is damaged, so that its group fits nothing."""
    try:
        mark = json.loads(os.read(descriptor, 65536))
    except ValueError:
        return {}
    return mark if isinstance(mark, dict) else {}


def _locked(path: Path) -> int | None:
    """A descriptor of the file with a lock on it; None when another process has it or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _mend(group: ProcessGroup, blueprint: Blueprint) -> None:
    """Make every role what the blueprint says, those first that others need."""
    from procgroup.blueprint import start_order

    for name in start_order({name: spec.needs for name, spec in blueprint.roles.items()}):
        spec = blueprint.roles[name]
        for role in group[name].replicas if name in group.roles else ():
            _mend_role(role, autostart=spec.autostart, restart=spec.python is not None)


def _mend_role(role: Role, *, autostart: bool, restart: bool) -> None:
    if restart or not autostart:
        role.stop()
    with contextlib.suppress(FileNotFoundError):
        os.truncate(role.log_path, 0)  # what earlier tests made it say is no news
    if autostart:
        if role.state == "paused":
            role.resume()
        role.start()
