"""A test that hangs ends, whatever it hangs in, and all others run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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

@pytest.mark.xdist_group("group")
@pytest.mark.parametrize("number", range(3))
def test_in_a_group(number):
    if number == 1:
        test_heeds_no_alarm()

def test_that_is_last():
    test_heeds_no_alarm()
"""


# The more workers, the more that have finished when the last one dies.
@pytest.mark.parametrize("workers", ["1", "2", "4"])
def test_a_test_that_hangs_ends(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_it.py").write_text(HANGING)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("-c", str(ROOT / "pyproject.toml"), "-o", "timeout=2", "-n", workers),
            *("--dist", "loadgroup", "--no-loadscope-reorder", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "5 failed, 4 passed" in done.stdout, done.stdout
    assert "in test_heeds_no_alarm" in done.stderr
    assert "in endless" in done.stderr
