"""Logs for a person's eyes: whatever a role wrote, a terminal shall survive it.

The log files themselves stay as written, byte by byte.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_]|[ -/]+[0-~])"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_TAIL = 65536  # bytes of a log that a report looks at
_WIDTH = 1000  # characters of a line that a report shows
_CHUNK = 1 << 20  # bytes that a follower reads at a time


def printable(line: str) -> str:
    """A line without escape sequences; other control characters become visible as \\xNN."""
    return _CONTROLS.sub(_visible, _ESCAPES.sub("", line))


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, made safe for a terminal; "(empty)" when there are none."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            data = file.read(_TAIL)
    except FileNotFoundError:
        data = b""
    shown = []
    for line in _split(data)[-lines:]:
        text = printable(line)
        cut = len(text) - _WIDTH
        shown.append(text if cut <= 0 else f"{text[:_WIDTH]}… ({cut} more characters)")
    return "\n".join(shown) or "(empty)"


def _split(data: bytes) -> list[str]:
    # By newline alone: str.splitlines would also split at what a role meant as data.
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


class Follower:
    """Reads a log as it grows, and begins again when it is truncated or replaced."""

    def __init__(self, path: Path, last: int | None = None) -> None:
        """`last`: begin with that many of the lines already there; None: with all of them."""
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        self._rest = b""
        if last is not None:
            self._skip_to_tail(last)

    def _skip_to_tail(self, last: int) -> None:
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                self._identity = status.st_dev, status.st_ino
                self._offset = begin = status.st_size
                wanted = last + 1  # newlines: the one before the first line shown counts too
                while begin > 0 and last > 0:
                    size = min(begin, 8192)
                    begin -= size
                    file.seek(begin)
                    block = file.read(size)
                    if self._offset == status.st_size and not block.endswith(b"\n"):
                        wanted = last  # the last line is not ended yet
                    found = block.count(b"\n")
                    if found >= wanted:
                        for _ in range(found - wanted + 1):
                            begin += block.index(b"\n") + 1
                            block = block[block.index(b"\n") + 1 :]
                        self._offset = begin
                        return
                    wanted -= found
                    self._offset = begin
        except FileNotFoundError:
            return

    def read(self) -> list[str]:
        """The lines completed since the last call, at most a mebibyte of them."""
        return self._completed(self._chunk())

    def finish(self) -> list[str]:
        """All that is left, with the last line even if it was never ended."""
        lines = []
        while chunk := self._chunk():  # which need not complete a line
            lines += self._completed(chunk)
        if self._rest:
            lines += _split(self._rest)
            self._rest = b""
        return lines

    def _chunk(self) -> bytes:
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                identity = status.st_dev, status.st_ino
                if status.st_size < self._offset or identity != (self._identity or identity):
                    self._offset, self._rest = 0, b""
                self._identity = identity
                file.seek(self._offset)
                data = file.read(_CHUNK)
                self._offset += len(data)
        except FileNotFoundError:
            return b""
        return data

    def _completed(self, data: bytes) -> list[str]:
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        return _split(whole + newline)
