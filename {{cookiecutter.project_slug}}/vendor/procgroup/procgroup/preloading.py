"""Importing modules on behalf of roles that are forked later."""

from __future__ import annotations

import os
import sys
import time

from procgroup import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Unfit(Exception):
    """The modules cannot be preloaded; the text says why."""


def preload(modules: Iterable[str], package_home: str) -> dict[str, Any]:
    """Import the modules, and report what a launcher must know to use this process.

    `files`: [path, modification time in ns, size in bytes] of each file imported, the standard
    library's left out; `names`: the top-level modules now loaded. `package_home` is the entry of
    sys.path that this package came from; roles are not to see it. Raises Unfit.
    """
    import runpy  # noqa: F401  every forked role needs it

    began = time.time_ns()
    sys.path.remove(package_home)
    before = _descriptors()
    for module in modules:
        try:
            __import__(module)
        except BaseException as error:
            raise Unfit(f"{module}: {type(error).__name__}: {error}") from error
        if _threads() > 1:
            raise Unfit(f"{module}: it starts threads, which a fork would not carry over")
        if opened := _descriptors() - before:
            raise Unfit(f"{module}: it opens {_target(min(opened))}, which forks would share")
    _drop_foreign_self()
    files = [file for path in sorted(_imported_files()) if (file := _stamp(path, began))]
    return {"files": files, "names": sorted({name.partition(".")[0] for name in sys.modules})}


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _descriptors() -> set[int]:
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    return {each for each in found if os.path.lexists(f"/proc/self/fd/{each}")}


def _target(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "a descriptor"


def _imported_files() -> set[str]:
    """The files of all modules, without the standard library and this package."""
    library = os.path.dirname(os.__file__)
    found = set()
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or name.partition(".")[0] == "procgroup":
            continue
        inside = path.removeprefix(library + os.sep)
        if inside == path or "-packages" in inside.partition(os.sep)[0]:
            found.add(path)
    return found


def _stamp(path: str, began: int) -> tuple[str, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:  # a zip archive's member
        return None
    # What was written meanwhile may have been imported as it was before: never fresh.
    modified = status.st_mtime_ns if status.st_mtime_ns < began else -1
    return path, modified, status.st_size


def _drop_foreign_self() -> None:
    """Let roles import their own copy of this package, unless it is this one."""
    from importlib.machinery import PathFinder

    import procgroup

    spec = PathFinder.find_spec("procgroup")
    if spec is None or spec.origin != procgroup.__file__:
        processes.foreign_package = True
