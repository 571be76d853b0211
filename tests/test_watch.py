"""A test that hangs ends, whatever it hangs in, and the others run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .baking import ROOT

HANGING = """
import signal, time
import pytest

def test_before(): pass

def test_heeds_no_alarm():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(1000)

@pytest.fixture
def endless():
    yield
    time.sleep(1000)

def test_whose_fixture_hangs_as_well(endless):
    time.sleep(1000)

def test_after(): pass
"""


def test_a_test_that_hangs_ends(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(HANGING)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("-c", str(ROOT / "pyproject.toml"), "-o", "timeout=1", "-n", "1", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "3 failed, 2 passed" in done.stdout, done.stdout
    assert "in test_heeds_no_alarm" in done.stderr
    assert "in endless" in done.stderr
