"""What systems other than Linux are asked by their own programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from procgroup import processes


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the system's programs lie, which is not on PATH."""
    monkeypatch.setattr(processes, "LINUX", False)
    monkeypatch.setattr(processes, "_SYSTEM_PROGRAMS", str(tmp_path / "sbin"), raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "sbin").mkdir()
    return tmp_path / "sbin"


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_boot_is_known_whatever_path_is(system: Path) -> None:
    assert processes.boot_id() == "unknown", "there is no such program"
    program(system / "sysctl", '[ "$2" = kern.boottime ] && echo "{ sec = 1 }"')
    assert processes.boot_id() == "{ sec = 1 }"
    program(system / "sysctl", "exit 1")
    assert processes.boot_id() == "unknown"


def test_processes_are_listed_whatever_path_is(system: Path) -> None:
    program(system / "ps", "echo 7 1 S")
    assert processes.parents() == {7: 1}
    program(system / "ps", "echo S  now")
    assert processes.alive(os.getpid(), "now")
