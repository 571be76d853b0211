"""Readiness, looked at as a keeper does."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from typing import Any

import pytest
from procgroup import processes
from procgroup.readiness import LogProbe, probe_for


@pytest.mark.skipif(not processes.LINUX, reason="inotify is Linux's")
def test_a_log_tells_when_it_is_worth_a_look(tmp_path: Path) -> None:
    log = tmp_path / "log"
    probe = probe_for({"kind": "log", "pattern": "^up$"}, str(log))
    assert probe is not None
    awaited = probe.awaits()
    assert awaited is not None
    assert probe.tells

    def told(seconds: float = 0.0) -> bool:
        return bool(select.select([awaited], [], [], seconds)[0])

    assert not probe.step()
    for text, ready in (("down\n", False), ("u", False), ("p\n", True)):
        assert not told()
        with log.open("a") as file:
            file.write(text)
        assert told(10.0)
        assert probe.step() is ready
    probe.close()
    assert probe.awaits() is None


def test_a_log_is_looked_at_now_and_then_where_it_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on Linux, or where this user's inotify instances are all taken."""
    monkeypatch.setattr(processes, "watch_directory", lambda *_: None)
    probe = probe_for({"kind": "log", "pattern": "up"}, str(tmp_path / "log"))
    assert probe is not None
    assert (probe.awaits(), probe.tells) == (None, False)
    (tmp_path / "log").write_text("up")
    assert probe.step()


def test_a_log_is_matched_where_a_character_was_read_in_two(tmp_path: Path) -> None:
    log = tmp_path / "log"
    probe = LogProbe(str(log), "^bereit für alle$")
    text = "bereit für alle".encode()
    with log.open("ab", buffering=0) as file:
        for index in range(len(text)):
            assert not probe.step()
            file.write(text[index : index + 1])
    assert probe.step()


def test_a_probe_that_reaches_itself_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it may where ports are leased among those that the system gives to whoever connects."""

    class Looped(socket.socket):
        def connect_ex(self, address: Any) -> int:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind(address)
            return super().connect_ex(address)

    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    monkeypatch.setattr(socket, "socket", Looped)
    for kind in ("tcp", "redis"):
        probe = probe_for({"kind": kind, "host": "127.0.0.1", "port": port}, "")
        assert probe is not None
        for _ in range(10):
            assert not probe.step()
            assert probe.awaits() is None
        probe.close()
