"""Many groups alive at once, from one process and from many: each on ports of its own, none left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from .conftest import BLUEPRINTS, PACKAGE, PROGRAMS, State, alive, expect_free


def live_at_once(state: State, supervisor: str, launchers: int, groups: int) -> None:
    """So many launching processes with so many groups of four processes each."""
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                str(PROGRAMS / "many.py"),
                str(BLUEPRINTS / "crew.yaml"),
                supervisor,
                str(groups),
            ],
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(launchers)
    ]
    found: list[dict[str, Any]] = []
    for process in processes:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "a launcher died"
        found.append(json.loads(line))
    pids = [pid for facts in found for pid in facts["pids"]]
    ports = [port for facts in found for port in facts["ports"]]
    assert len(set(pids)) == len(pids) == launchers * groups * 4
    assert len(set(ports)) == len(ports) == launchers * groups
    assert all(map(alive, pids))
    assert {each for facts in found for each in facts["states"]} == {"ready"}
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert not any(map(alive, pids))
    expect_free(*ports)
    state.expect_nothing_left()


def test_a_dozen_groups_at_once(fresh_state: State, supervisor: str) -> None:
    live_at_once(fresh_state, supervisor, 3, 4)


@pytest.mark.stress
@pytest.mark.parametrize(("launchers", "groups"), [(1, 200), (16, 13)])
def test_two_hundred_groups_at_once(
    fresh_state: State, supervisor: str, launchers: int, groups: int
) -> None:
    live_at_once(fresh_state, supervisor, launchers, groups)
