"""Nothing leaks, whoever is killed: counted in processes, ports, directories and registry rows."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from procgroup import GroupLost, ProcessGroup
from procgroup.registry import Owner, Registry

from .conftest import (
    BLUEPRINTS,
    PACKAGE,
    Launch,
    Launcher,
    State,
    alive,
    free,
    processes_of,
    sweep_now,
    wait_until,
)

StartLauncher = Callable[..., Launcher]
FAMILY = BLUEPRINTS / "family.yaml"
PAIR = BLUEPRINTS / "pair.yaml"


def descendants_in(directory: str) -> list[int]:
    return [int(word) for word in Path(directory, "parent.0", "pids").read_text().split()]


def test_stop_ends_descendants_in_sessions_of_their_own(launch: Launch, state: State) -> None:
    group = launch(FAMILY)
    pids = descendants_in(str(group.directory))
    assert all(map(alive, pids))
    group.stop()
    assert not any(map(alive, pids))
    assert not group.directory.exists()
    state.expect_nothing_left()


def test_kill_9_of_the_launcher(launcher: StartLauncher, state: State) -> None:
    one = launcher(FAMILY, mood="stubborn")
    pids = [*descendants_in(one.facts["directory"]), *one.facts["pids"].values()]
    assert all(map(alive, pids))
    one.kill()
    state.expect_no_process()
    assert not any(map(alive, pids))
    state.expect_nothing_left()  # the warden deregisters: no later start is needed


def test_kill_9_of_the_launcher_frees_ports(launcher: StartLauncher, state: State) -> None:
    one = launcher(PAIR)
    (port,) = one.facts["ports"]
    assert not free(port)
    one.kill()
    state.expect_no_process()
    assert free(port)
    state.expect_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_deadly_signal_to_the_launcher(
    launcher: StartLauncher, state: State, number: signal.Signals
) -> None:
    one = launcher(PAIR)
    one.kill(number)
    state.expect_no_process()
    state.expect_nothing_left()


def test_kill_9_of_the_warden(launcher: StartLauncher, state: State) -> None:
    one = launcher(FAMILY, mood="stubborn")
    pids = descendants_in(one.facts["directory"])
    os.kill(one.facts["warden"], signal.SIGKILL)
    wait_until(lambda: not any(map(alive, [one.facts["keeper"], *pids])), "all gone", 0.5)
    assert not Path(one.facts["directory"]).exists()
    one.kill()
    sweep_now(state)
    state.expect_nothing_left()


def test_kill_9_of_the_keeper(launcher: StartLauncher, state: State) -> None:
    one = launcher(FAMILY, mood="stubborn")
    pids = [*descendants_in(one.facts["directory"]), *one.facts["pids"].values()]
    os.kill(one.facts["keeper"], signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), "the warden kills orphans", 0.5)
    one.kill()
    state.expect_nothing_left()


def test_kill_9_of_keeper_warden_and_launcher_is_swept_by_the_next_launch(
    launcher: StartLauncher, state: State, launch: Launch
) -> None:
    one = launcher(FAMILY, mood="stubborn")
    other = launcher(PAIR)  # Redis overwrites its environment: it must be recognised all the same
    pids = [*descendants_in(one.facts["directory"]), *other.facts["pids"].values()]
    for each in (one, other):
        # Stopped first, so that none can react to another's death.
        for name in ("keeper", "warden"):
            os.kill(each.facts[name], signal.SIGSTOP)
        for name in ("keeper", "warden"):
            os.kill(each.facts[name], signal.SIGKILL)
        each.kill()
    launch(PAIR).stop()
    assert not any(map(alive, pids))
    assert free(other.facts["ports"][0])
    state.expect_nothing_left()


def test_kill_9_of_keeper_and_warden_is_cleared_by_the_launchers_own_stop(
    launch: Launch, state: State
) -> None:
    group = launch(FAMILY)
    pids = descendants_in(str(group.directory))
    keeper = json.loads(group.file.read_text())["keeper"]["pid"]
    warden = int(Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()[1])
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (keeper, warden):
            os.kill(pid, number)
    with pytest.raises(GroupLost, match="keeper is gone"):
        wait_until(lambda: group["parent"].state == "never", "the loss is noticed")
    group.stop()
    assert not any(map(alive, pids))
    with launch(FAMILY) as again:  # and a new warden serves the next launch
        assert again["parent"].running
    state.expect_nothing_left()


def test_kill_9_of_runsv_starts_no_second_copy(launch: Launch, supervisor: str) -> None:
    if supervisor != "runit":
        pytest.skip("the built-in supervisor has no runsv")
    group = launch(PAIR)
    before = group["worker"].pid
    assert before is not None
    runsv = int(Path(f"/proc/{before}/stat").read_text().rpartition(")")[2].split()[1])
    assert "runsv" in Path(f"/proc/{runsv}/cmdline").read_text()
    os.kill(runsv, signal.SIGKILL)
    wait_until(lambda: group["worker"].pid not in (None, before), "restarted")
    group["worker"].wait_ready()
    copies = [
        pid
        for pid, command in processes_of(group.directory).items()
        if "pair_worker" in command and "runsv" not in command
    ]
    assert copies == [group["worker"].pid]


def test_role_that_ignores_sigterm_is_killed_after_its_stop_timeout(launch: Launch) -> None:
    group = launch(FAMILY, variables={"mood": "stubborn", "stop_timeout": 0.2})
    pids = descendants_in(str(group.directory))
    began = time.monotonic()
    group["parent"].stop()
    assert 0.2 <= time.monotonic() - began < 2
    assert group["parent"].state == "stopped"
    wait_until(lambda: not any(map(alive, pids)), "its descendants are gone as well")


def test_graceful_stop_escalates(launch: Launch, state: State) -> None:
    group = launch(FAMILY, variables={"mood": "stubborn", "stop_timeout": 0.1})
    group.stop(graceful=True)
    state.expect_nothing_left()


def test_exception_while_rendering_leaves_nothing(
    launch: Launch, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    from procgroup import launching

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launching.Builder, "_config", full)
    with pytest.raises(OSError, match="No space left"):
        launch(PAIR)
    state.expect_nothing_left()


def test_a_forked_child_does_not_keep_the_group_alive(fresh_state: State) -> None:
    """The launcher forks without exec, as multiprocessing does, and is killed."""
    code = (
        "import os, sys, signal; from procgroup import ProcessGroup\n"
        f"group = ProcessGroup.launch({str(PAIR)!r})\n"
        "pid = os.fork()\n"
        "if pid == 0: signal.pause()\n"
        "print(pid, flush=True); signal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        wait_until(
            lambda: set(processes_of(fresh_state.directory)) <= {child},
            "the group is gone",
            timeout=1,
        )
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_sweep_spares_live_groups_and_recycled_pids(launch: Launch, state: State) -> None:
    group = launch(PAIR)
    worker = group["worker"].pid
    assert worker is not None
    # A dead owner's group whose record names a pid that now belongs to somebody else.
    registry = Registry(state.directory)
    dead = Owner(2**22 - 1, "1", Owner.of(os.getpid()).boot, Owner.of(os.getpid()).namespace)
    stale, _ = registry.register("stale", "none.yaml", dead, [])
    directory = state.directory / "groups" / stale
    directory.mkdir()
    record = {"pid": worker, "started": "12345", "replica": 0}
    document = {"keeper": record, "roles": {"worker": {"replicas": [record]}}}
    (directory / "group.json").write_text(json.dumps(document))
    sweep_now(state)
    assert group["worker"].pid == worker
    assert [row.id for row in registry.groups()] == [group.id]
    assert not directory.exists()
    registry.close()


def test_groups_of_an_earlier_boot_are_swept(state: State) -> None:
    registry = Registry(state.directory)
    own = Owner.of(os.getpid())
    earlier = Owner(own.pid, own.started, "another-boot", own.namespace)
    group, _ = registry.register("old", "none.yaml", earlier, [])
    (state.directory / "groups" / group).mkdir(parents=True)
    sweep_now(state)
    assert registry.groups() == []
    registry.close()
    state.expect_nothing_left()


def test_groups_of_another_container_are_left_alone(state: State) -> None:
    """Same boot, other pid namespace: from here their pids mean nothing."""
    registry = Registry(state.directory)
    own = Owner.of(os.getpid())
    elsewhere = Owner(2**22 - 1, "1", own.boot, "pid:[1]")
    group, _ = registry.register("elsewhere", "none.yaml", elsewhere, [])
    sweep_now(state)
    assert [row.id for row in registry.groups()] == [group]
    registry.release(group)
    registry.close()


def test_two_launchers_sweep_at_once(launcher: StartLauncher, state: State) -> None:
    one = launcher(PAIR)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for name in ("keeper", "warden"):
            os.kill(one.facts[name], number)
    one.kill()
    code = (
        "from procgroup.sweep import sweep; from procgroup.registry import Registry; "
        f"from pathlib import Path; sweep(Registry(Path({str(state.directory)!r})))"
    )
    sweepers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(PACKAGE)}
        )
        for _ in range(4)
    ]
    assert [sweeper.wait(20) for sweeper in sweepers] == [0, 0, 0, 0]
    state.expect_nothing_left()


def test_many_launches_leave_no_descriptor(launch: Launch, state: State) -> None:
    launch(PAIR).stop()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        launch(PAIR).stop()
    assert len(os.listdir("/proc/self/fd")) == before
    state.expect_nothing_left()


def test_exit_without_stop_leaves_nothing(state: State, supervisor: str) -> None:
    code = (
        f"from procgroup import ProcessGroup; ProcessGroup.launch({str(PAIR)!r}, "
        f"supervisor={supervisor!r})"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        check=True,
        timeout=30,
    )
    state.expect_nothing_left()


def test_portable_path_leaves_nothing(
    launch: Launch, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without subreaper, pidfd, PDEATHSIG and /proc, as on macOS."""
    monkeypatch.setenv("PROCGROUP_PORTABLE", "1")
    code = (
        f"from procgroup import ProcessGroup, processes; assert not processes.LINUX\n"
        f"with ProcessGroup.launch({str(PAIR)!r}) as group:\n"
        "    group['worker'].kill(); group['worker'].wait_ready()\n"
        "    assert group['worker'].children() == []\n"
        "    group['queue'].restart()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        check=True,
        timeout=30,
    )
    state.expect_nothing_left()


def test_portable_kill_9_of_the_launcher(
    launcher: StartLauncher, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCGROUP_PORTABLE", "1")
    one = launcher(PAIR)
    one.kill()
    state.expect_no_process(2.0)
    state.expect_nothing_left()


def test_a_damaged_registry_is_set_aside(
    launch: Launch, fresh_state: State, capfd: pytest.CaptureFixture[str]
) -> None:
    fresh_state.directory.mkdir()
    (fresh_state.directory / "registry.sqlite3").write_bytes(b"not a database" * 100)
    launch(PAIR).stop()
    assert "is damaged" in capfd.readouterr().err
    assert list(fresh_state.directory.glob("registry.sqlite3.damaged-*"))


def test_registry_of_a_newer_version_is_refused(fresh_state: State) -> None:
    Registry(fresh_state.directory).close()
    with sqlite3.connect(fresh_state.directory / "registry.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(Exception, match="schema version 99"):
        ProcessGroup.launch(PAIR)
    (fresh_state.directory / "registry.sqlite3").unlink()
