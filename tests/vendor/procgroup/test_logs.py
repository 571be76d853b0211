"""Logs: harmless on a terminal whatever they hold, and followed whatever happens to the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from procgroup import LaunchError
from procgroup.logs import Follower, printable, tail

from .conftest import Launch, State, Write


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain ä\tx", "plain ä\tx"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice control\x1b\\after", "after"),
        ("\x1b(0line", "line"),
        ("\x1bcreset", "\\x1bcreset"),
        ("bell\x07 null\x00 back\x08", "bell\\x07 null\\x00 back\\x08"),
        ("\x9b31mred", "\\x9b31mred"),
        ("over\rwritten", "over\\x0dwritten"),
        ("\u202eevil", "\\u202eevil"),
    ],
)
def test_printable(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert all(char.isprintable() or char in "\t\n" or ord(char) > 0x9F for char in printable(text))


def test_tail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == "(empty)"
    log.write_bytes(b"")
    assert tail(log) == "(empty)"
    log.write_bytes(b"one\r\ntwo\xff\x00\nthree")
    assert tail(log, 2) == "two\ufffd\\x00\nthree"
    log.write_bytes(b"x" * 5000 + b"\n")
    assert tail(log) == "x" * 1000 + "… (4000 more characters)"
    log.write_bytes(b"line\n" * 1_000_000)
    assert tail(log, 3) == "line\nline\nline"


def test_follower(tmp_path: Path) -> None:
    log = tmp_path / "log"
    follower = Follower(log)
    assert follower.read() == []
    log.write_bytes(b"one\ntw")
    assert follower.read() == ["one"]
    with log.open("ab") as file:
        file.write(b"o\nthree")
    assert follower.read() == ["two"]
    assert follower.finish() == ["three"]
    assert follower.finish() == []


def test_follower_reads_on_after_a_line_longer_than_what_it_reads_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n" + b"x" * 3_000_000 + b"\nafter\nlast")
    whole = ["first", "x" * 3_000_000, "after", "last"]
    assert Follower(log).finish() == whole
    follower = Follower(log)
    assert follower.read() + follower.finish() == whole


def test_follower_survives_truncation_and_replacement(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a long first line\npart")
    follower = Follower(log)
    assert follower.read() == ["a long first line"]
    log.write_bytes(b"after\n")  # as `> log` does
    assert follower.read() == ["after"]
    log.rename(tmp_path / "log.1")
    log.write_bytes(b"a new and much longer file\n")
    assert follower.read() == ["a new and much longer file"]
    log.unlink()
    assert follower.read() == []


@given(
    lines=st.lists(st.text("ab", max_size=5), max_size=30),
    last=st.integers(0, 35),
    ended=st.booleans(),
    padding=st.sampled_from([0, 8180, 8192]),
)
def test_follower_begins_with_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], last: int, ended: bool, padding: int
) -> None:
    if lines and not ended and not lines[-1]:
        lines[-1] = "x"
    if lines and padding:
        lines[len(lines) // 2] += "y" * padding
    log = tmp_path_factory.getbasetemp() / "follower.log"
    log.write_text("\n".join(lines) + ("\n" if ended and lines else ""))
    follower = Follower(log, last)
    assert follower.read() + follower.finish() == (lines[-last:] if last else [])


def test_binary_output_is_harmless_in_reports_and_raw_in_the_file(
    launch: Launch, state: State, write: Write
) -> None:
    script = r"printf '\033[31mred\033[0m \000\377 end\n'; exit 3"
    path = write(f"name: x\nroles: {{a: {{binary: sh, args: [-c, {json.dumps(script)}]}}}}\n")
    with pytest.raises(LaunchError) as caught:
        launch(path, overrides={"roles": {"a": {"ready": {"log": "never"}}}})
    message = str(caught.value)
    assert "    red \\x00\ufffd end\n" in message
    assert "command: " in message
    assert "exited with status 3, restarted" in message
    assert "a.0 is not ready after " in message
    (kept,) = (state.directory / "groups").iterdir()
    assert b"\x1b[31mred\x1b[0m \x00\xff end\n" in (kept / "a.0" / "log").read_bytes()
    clear(state)


def clear(state: State) -> None:
    from procgroup.registry import Registry
    from procgroup.sweep import sweep

    registry = Registry(state.directory)
    sweep(registry, kept=True)
    registry.close()
