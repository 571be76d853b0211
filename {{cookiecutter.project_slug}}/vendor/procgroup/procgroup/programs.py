"""Finding the program of a `binary:` role."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_found: dict[tuple[tuple[str, ...], Path, str | None], str] = {}


def find_program(candidates: Iterable[str], relative_to: Path) -> str | None:
    """The absolute path of the first candidate that exists and may be executed; None if none does.

    A candidate is a name on PATH, a path (relative ones from the blueprint's directory), or
    `package:glob`, a file inside an installed Python package.
    """
    candidates = tuple(candidates)
    key = candidates, relative_to, os.environ.get("PATH")
    known = _found.get(key)
    if known is not None and os.access(known, os.X_OK):
        return known
    for candidate in candidates:
        try:
            path = _resolve(candidate, relative_to)
        except Exception:  # a package may raise anything as it is imported, a glob be none
            continue
        if path is not None:
            _found[key] = path
            return path
    return None


def describe_missing(candidate: str, relative_to: Path) -> str:
    """A candidate that was not found, for a person, with what is wrong with it where that is known."""
    try:
        _resolve(candidate, relative_to)
    except Exception as error:
        return f"{candidate} ({type(error).__name__}: {error})"
    there = "/" in candidate and os.path.isfile(_path(candidate, relative_to))
    return f"{candidate} (which is not executable)" if there else candidate


def _path(candidate: str, relative_to: Path) -> str:
    return os.path.abspath(relative_to / os.path.expanduser(candidate))


def _resolve(candidate: str, relative_to: Path) -> str | None:
    package, colon, pattern = candidate.partition(":")
    if colon and "/" not in package:
        return _in_package(package, pattern)
    if "/" in candidate:
        path = _path(candidate, relative_to)
        return path if os.path.isfile(path) and os.access(path, os.X_OK) else None
    found = shutil.which(candidate)
    return None if found is None else os.path.abspath(found)


def _in_package(package: str, pattern: str) -> str | None:
    spec = importlib.util.find_spec(package)
    for root in (spec and spec.submodule_search_locations) or []:
        for path in sorted(Path(root).glob(pattern)):
            if path.is_file() and os.access(path, os.X_OK):
                return str(path)
    return None
