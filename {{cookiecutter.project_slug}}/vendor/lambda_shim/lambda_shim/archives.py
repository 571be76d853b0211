"""Unpacking the zip of a function or a layer. Nothing is ever written outside of the directory."""

from __future__ import annotations

import errno
import os
import stat
import zipfile
import zlib
from typing import IO

# Lambda's own limit for function and layers together.
UNPACKED_MOST = 250 * 1024 * 1024
LINK_MOST = 4096
# What the system says of links that lead in a circle, of a file that is a directory as well, of
# names that are too long or empty; unlike a full disk, it says so every time.
AT_ODDS = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT}


class BadArchive(ValueError):
    """The archive is none, is too large, or would write outside of its directory."""


def unpack(file: IO[bytes], directory: str, most: int = UNPACKED_MOST) -> int:
    """Unpack a zip file.

    Args:
        file: the archive.
        directory: an existing one; files that lie there already are replaced.
        most: bytes, unpacked.

    Returns how many bytes it has written.

    Raises:
        BadArchive: nothing was unpacked, or not all of it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            for entry in entries:
                _check(entry.filename)
            if sum(entry.file_size for entry in entries) > most:
                raise BadArchive(f"more than {most:,} bytes, unpacked")
            return sum(_write(archive, entry, directory, most) for entry in entries)
    except BadArchive:
        raise
    # A name or a link's target that is no text, or holds a null, is a ValueError.
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError) as error:
        raise BadArchive(str(error)) from None
    except OSError as error:
        if error.errno not in AT_ODDS:
            raise
        raise BadArchive(f"its entries are at odds with each other: {error.strerror}") from None


def _check(name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or ":" in parts[0]:
        raise BadArchive(f"an entry climbs out of the archive: {name!r}")


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, directory: str, most: int) -> int:
    path = os.path.join(directory, entry.filename)
    mode = entry.external_attr >> 16
    root = os.path.realpath(directory)
    # A link unpacked before might lead the way out.
    parent = os.path.realpath(os.path.dirname(path.rstrip("/")))
    if parent != root and not parent.startswith(root + os.sep):
        raise BadArchive(f"an entry climbs out of the archive over a link: {entry.filename!r}")
    if entry.is_dir():
        os.makedirs(path, exist_ok=True)
        return 0
    os.makedirs(parent, exist_ok=True)
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.path.islink(path)):
        os.unlink(path)
    if stat.S_ISLNK(mode):
        if entry.file_size > LINK_MOST:
            raise BadArchive(f"a link of {entry.file_size:,} bytes: {entry.filename!r}")
        target = archive.read(entry).decode()
        end = os.path.realpath(os.path.join(parent, target))
        if os.path.isabs(target) or (end != root and not end.startswith(root + os.sep)):
            raise BadArchive(f"a link leads out of the archive: {entry.filename!r}")
        os.symlink(target, path)
        return 0
    written = 0
    with archive.open(entry) as source, open(path, "wb") as file:
        while block := source.read(1 << 20):
            written += len(block)
            if written > most:  # whatever the entry says of its size
                raise BadArchive(f"more than {most:,} bytes, unpacked")
            file.write(block)
    os.chmod(path, 0o755 if mode & 0o111 else 0o644)
    return written
