"""The built zip, unpacked as Lambda unpacks it, for scenarios to run instead of the sources."""

import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import pytest

from tools.build import LOCAL_ONLY, PROJECT


class Package(NamedTuple):
    """An unpacked zip, and what the local ring needs beside it."""

    code: Path
    overlay: Path


def suffix(name: str) -> str:
    """``msgspec/_core.cpython-313-x86_64-linux-gnu.so`` → ``.cpython-313-x86_64-linux-gnu.so``."""
    return "." + name.rpartition("/")[2].partition(".")[2]


def unpack(archive: Path, directory: Path) -> Package:
    """Raises pytest.UsageError when there is no zip, or one that this interpreter cannot run."""
    if not archive.is_file():
        raise pytest.UsageError(f"no {archive}: make build")
    package = Package(directory / "code", directory / "overlay")
    with zipfile.ZipFile(archive) as file:
        compiled = [name for name in file.namelist() if name.endswith(".so")]
        if foreign := [name for name in compiled if suffix(name) not in EXTENSION_SUFFIXES]:
            have = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise pytest.UsageError(
                f"{archive} is not for this Python {have} on {sys.platform}: {foreign[0]}. "
                "Set UV_PYTHON to the version that tools/build.py names, then make setup"
            )
        file.extractall(package.code)
    package.overlay.mkdir()
    for path in (PROJECT / "src").glob("*/adapters/*.py"):
        if path.name in LOCAL_ONLY["adapters"]:
            (package.overlay / path.name).write_bytes(path.read_bytes())
    return package
