"""The path of systems other than Linux: the behavioural suite with Linux's calls switched off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_behaviour_without_the_calls_of_linux(tmp_path: Path) -> None:
    """Without subreaper, pidfd, PDEATHSIG and /proc, groups behave the same."""
    suite = str(Path(__file__).with_name("test_behaviour.py"))
    options = ["-q", "-p", "no:xdist", "--basetemp", str(tmp_path / "pytest")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, suite],
        cwd=ROOT,
        env=os.environ | {"PROCGROUP_PORTABLE": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
