"""Discovery: group.json names the others, before, while and after they restart."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import procgroup
import pytest

from .conftest import BLUEPRINTS, PROGRAMS, Launch, Write, wait_until

PAIR = BLUEPRINTS / "pair.yaml"


def logged(role: procgroup.Role, line: str) -> bool:
    return line in role.log()


def test_a_role_finds_another_again_after_that_one_restarted(launch: Launch) -> None:
    """It keeps its port; its new pid is in group.json by the time that it answers."""
    overrides = {
        "roles": {
            "worker": {
                "python": "rediscovering",
                "args": None,
                "environment": {
                    "PYTHONPATH": f"{PROGRAMS}:{{{{ environment.PROCGROUP_TEST_PATH }}}}"
                },
            }
        }
    }
    group = launch(PAIR, overrides=overrides)
    queue, worker = group["queue"], group["worker"]
    address = queue.address
    for act in (lambda: None, queue.restart, queue.kill):
        act()
        queue.wait_ready()
        line = f"connected to {address} of process {queue.pid}\n"
        wait_until(functools.partial(logged, worker, line), line)
    assert worker.status()["restarts"] == 0, "it was the same worker all the time"


def test_the_file_is_replaced_in_one_step(launch: Launch) -> None:
    """A reader sees a whole document at any moment, while roles come and go."""
    group = launch(PAIR)
    with group.file.open() as early:
        for _ in range(10):
            group["worker"].kill()
            for _ in range(20):
                assert set(json.loads(group.file.read_text())["roles"]) == {"queue", "worker"}
            group["worker"].wait_ready()
        now = json.loads(group.file.read_text())["roles"]["worker"]["pid"]
        assert now == group["worker"].pid
        assert json.load(early)["roles"]["worker"]["pid"] != now, "what was open did not change"


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_any_language_can_read_it(launch: Launch, write: Write) -> None:
    path = write(
        "name: x\nroles:\n"
        "  web: {binary: sleep, args: [999], ports: [http, admin], replicas: 2}\n"
        "  reader:\n    binary: sh\n    args:\n    - -c\n"
        "    - jq -r .roles.web.address,.roles.web.replicas[1].ports.admin "
        "$PROCGROUP_GROUP_FILE && echo done; sleep 999\n"
        "    ready: {log: done}\n"
    )
    group = launch(path)
    web, other = group["web"], group["web", 1]
    assert group["reader"].log() == f"{web.address}\n{other.ports['admin']}\ndone\n"


def test_outside_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROCGROUP_GROUP_FILE", raising=False)
    with pytest.raises(LookupError, match="this process runs in no process group"):
        procgroup.discover()


def test_facts_of_roles(launch: Launch) -> None:
    group = launch(PAIR, overrides={"roles": {"queue": {"replicas": 2}}})
    found = procgroup.Discovery(group.file)
    assert [role.label for role in found.all_roles()] == ["queue.0", "queue.1", "worker.0"]
    assert found.replicas["queue"][1].address == group["queue", 1].address
    assert found.roles["queue"].container is None
    assert found.variables == group.variables
    assert isinstance(found.roles["queue"].directory, Path)
