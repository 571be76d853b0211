"""Nothing leaks, whoever is killed: counted in processes, ports, directories and registry rows."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from procgroup import (
    BlueprintError,
    GroupLost,
    ProcessGroup,
    UnknownGroup,
    cli,
    processes,
    wardens,
)
from procgroup.registry import GroupRow, Owner, Registry
from procgroup.sweep import group_document, keeper_alive, sweep
from procgroup.warden import Warden

from .conftest import (
    BLUEPRINTS,
    PACKAGE,
    PATIENCE,
    Launch,
    Launcher,
    State,
    Write,
    alive,
    expect_free,
    free,
    kill_all_that_watch,
    kill_at_once,
    processes_of,
    sweep_now,
    wait_until,
    warmed,
)

# What asks instead of /proc; a Mac has both.
portable = pytest.mark.skipif(
    not (shutil.which("ps") and shutil.which("sysctl")), reason="needs ps and sysctl (procps)"
)
StartLauncher = Callable[..., Launcher]
FAMILY = BLUEPRINTS / "family.yaml"
PAIR = BLUEPRINTS / "pair.yaml"
# Its being ready takes as long as to launch it.
SLOW = """\
name: slow
roles: {a: {binary: sh, args: [-c, sleep 0.3; echo up; exec sleep 1000], ready: {log: up}}}
"""


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
    expect_free(port)
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
    wait_until(lambda: not any(map(alive, [one.facts["keeper"], *pids])), "all gone")
    assert not Path(one.facts["directory"]).exists()
    one.kill()
    sweep_now(state)
    state.expect_nothing_left()


def test_kill_9_of_the_keeper(launcher: StartLauncher, state: State) -> None:
    one = launcher(FAMILY, mood="stubborn")
    pids = [*descendants_in(one.facts["directory"]), *one.facts["pids"].values()]
    os.kill(one.facts["keeper"], signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), "the warden kills orphans")
    one.kill()
    state.expect_nothing_left()


def test_kill_9_of_keeper_warden_and_launcher_is_swept_by_the_next_launch(
    launcher: StartLauncher, state: State, launch: Launch
) -> None:
    one = launcher(FAMILY, mood="stubborn")
    other = launcher(PAIR)  # Redis overwrites its environment: it must be recognised all the same
    pids = [*descendants_in(one.facts["directory"]), *other.facts["pids"].values()]
    kill_all_that_watch(one, other)
    launch(PAIR).stop()
    assert not any(map(alive, pids))
    expect_free(*other.facts["ports"])
    state.expect_nothing_left()


def test_a_process_that_lives_on_without_its_main_thread_is_swept(
    launcher: StartLauncher, state: State, write: Write
) -> None:
    """Its directory in /proc is that of a zombie, with neither environment nor descriptors."""
    program = (
        "import ctypes, socket, threading, time\nfrom procgroup import notify_ready\n"
        "server = socket.create_server(('127.0.0.1', {{ role.port }}))\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "notify_ready()\nctypes.CDLL(None).pthread_exit(None)\n"
    )
    path = write(
        "name: x\nroles:\n  a:\n    binary: [" + sys.executable + "]\n"
        "    args: ['{{ configs[\"it.py\"] }}']\n    ports: [p]\n    configs: {it.py: it.py.j2}\n"
        "    environment: {PYTHONPATH: '{{ environment.PROCGROUP_TEST_PATH }}'}\n"
        "    ready: {notify: true}\n",
        it__py__j2=program,
    )
    one = launcher(path)
    (pid,), (port,) = one.facts["pids"].values(), one.facts["ports"]
    stat = Path(f"/proc/{pid}/stat")
    wait_until(
        lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "its main thread ends"
    )
    kill_all_that_watch(one)
    sweep_now(state)
    assert not alive(pid)
    expect_free(port)


def test_kill_9_of_keeper_and_warden_is_cleared_by_the_launchers_own_stop(
    launch: Launch, state: State
) -> None:
    group = launch(FAMILY)
    pids = descendants_in(str(group.directory))
    keeper = json.loads(group.file.read_text())["keeper"]["pid"]
    warden = int(Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()[1])
    kill_at_once(keeper, warden)
    with pytest.raises(GroupLost, match="keeper is gone"):
        wait_until(lambda: group["parent"].state == "never", "the loss is noticed")
    group.stop()
    assert not any(map(alive, pids))
    with launch(FAMILY) as again:  # and a new warden serves the next launch
        assert again["parent"].running
    state.expect_nothing_left()


@pytest.mark.parametrize("sweeper", ["gc", "up", "a process with wardens", "the same process"])
def test_kill_9_of_keeper_and_warden_is_swept_though_the_launcher_lives(
    launch: Launch, launcher: StartLauncher, state: State, sweeper: str
) -> None:
    spared = launcher(FAMILY)
    if sweeper == "a process with wardens":
        launch(PAIR).stop()
    if sweeper == "the same process":
        group = launch(FAMILY)
        directory = group.directory
        keeper = json.loads(group.file.read_text())["keeper"]["pid"]
        facts = {"keeper": keeper, "warden": processes.parents()[keeper]}
    else:
        facts = launcher(FAMILY).facts
        directory = Path(facts["directory"])
    pids = descendants_in(str(directory))
    kill_at_once(facts["keeper"], facts["warden"])
    wait_until(lambda: not alive(facts["keeper"]) and not alive(facts["warden"]), "both are dead")
    if sweeper == "gc":
        sweep_now(state)
    elif sweeper == "up":
        wardens.close_all(PATIENCE)  # as in a process that has launched nothing yet
        launch(PAIR).stop()
    elif sweeper == "a process with wardens":

        def swept() -> bool:
            launch(PAIR).stop()
            return not directory.exists()

        wait_until(swept, "a launch of the next second or two sweeps it")
    else:
        launch(PAIR).stop()
    assert not any(map(alive, pids))
    assert not directory.exists()
    assert alive(spared.facts["keeper"])


def test_many_launches_look_at_others_groups_once_in_a_while(
    fresh_state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would read what all others have launched, else."""
    read: list[str] = []

    def noted(path: str) -> dict[str, Any]:
        read.append(path)
        return {}

    monkeypatch.setattr("procgroup.sweep.group_document", noted)
    monkeypatch.setattr("procgroup.sweep._PAUSE", PATIENCE)
    other = subprocess.Popen(["sleep", "1000"])
    registry = Registry(fresh_state.directory)
    ours, _ = registry.register("ours", "x", Owner.of(os.getpid()), [])
    theirs, _ = registry.register("theirs", "x", Owner.of(other.pid), [])
    for _ in range(100):
        sweep(registry, keepers=False)
    assert [os.path.basename(path) for path in read] == [theirs]
    registry.look_again = time.monotonic()
    sweep(registry, keepers=False)
    assert len(read) == 2
    sweep(registry)
    assert len(read) == 4
    sweep(registry, keepers=False)
    assert len(read) == 4
    other.kill()
    other.wait()
    registry.release(ours, theirs)
    registry.close()


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
    assert time.monotonic() - began >= 0.2
    assert group["parent"].state == "stopped"
    assert group["parent"].status()["exit"] == "killed by SIGKILL"
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


def test_a_launch_that_fails_before_it_begins_leaves_nothing(
    launch: Launch, state: State, write: Write
) -> None:
    """The keeper is there and was told nothing yet."""
    role = "roles:\n  a: {binary: sleep, args: [1000]}\n"
    with pytest.raises(BlueprintError, match="'nope' is undefined"):
        launch(write(f"name: x\nhint: '{{{{ nope }}}}'\n{role}"))
    state.expect_nothing_left()
    with pytest.raises(ValueError, match="NaN"):
        launch(write(f"name: x\n{role}"), timeout=float("nan"))
    state.expect_nothing_left()


@pytest.mark.parametrize("detach", [False, True])
def test_an_interrupt_right_after_a_group_is_registered_leaves_nothing(
    fresh_state: State, monkeypatch: pytest.MonkeyPatch, detach: bool
) -> None:
    """Where ctrl-C is likely to be heard: a commit that waits for the disk heeds no signal."""

    def interrupted(*arguments: Any) -> None:
        register(*arguments)
        raise KeyboardInterrupt

    register = Registry.register
    monkeypatch.setattr(Registry, "register", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ProcessGroup.launch(PAIR, detach=detach)
    fresh_state.expect_nothing_left()


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
    document = {"format": 1, "keeper": record, "roles": {"worker": {"replicas": [record]}}}
    (directory / "group.json").write_text(json.dumps(document))
    sweep_now(state)
    assert group["worker"].pid == worker
    assert [row.id for row in registry.groups()] == [group.id]
    assert not directory.exists()
    registry.close()


@pytest.mark.parametrize("lost", ["the directory", "group.json"])
@pytest.mark.parametrize("ending", [("gc", "--all"), ("down", "--all")])
def test_a_detached_group_that_nothing_leads_to_can_be_ended(
    state: State,
    supervisor: str,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    ending: tuple[str, str],
) -> None:
    monkeypatch.setattr("procgroup.sweep._TIME_TO_END", 0.2)
    group = ProcessGroup.launch(FAMILY, supervisor=supervisor, detach=True)
    keeper = json.loads(group.file.read_text())["keeper"]["pid"]
    pids = [*descendants_in(str(group.directory)), group["parent"].pid or 0, keeper]
    group.close()
    os.kill(keeper, signal.SIGSTOP)  # or it would end the group by itself
    if lost == "group.json":
        group.file.unlink()
    else:
        shutil.rmtree(group.directory)
    sweep_now(state)
    assert cli.main(["gc"]) == 0
    assert all(map(alive, pids)), "it may be about to begin, for all that is known"
    assert cli.main([*ending]) == 0
    wait_until(lambda: not any(map(alive, pids)), "all are gone")
    state.expect_nothing_left()


@pytest.mark.parametrize("lost", ["group.json", ".", "..", "../.."])
def test_a_detached_group_ends_when_somebody_removes_what_leads_to_it(
    fresh_state: State, supervisor: str, lost: str
) -> None:
    group = ProcessGroup.launch(FAMILY, supervisor=supervisor, detach=True)
    group.close()
    doomed = os.path.normpath(group.directory / lost)
    # It may stumble over a file that a role makes meanwhile.
    subprocess.run(["rm", "-rf", doomed], stderr=subprocess.DEVNULL, check=False)
    fresh_state.expect_no_process()
    assert not group.directory.exists()
    fresh_state.expect_nothing_left()


def test_an_owner_that_is_no_keeper_of_the_group_is_never_ended(state: State) -> None:
    """Though its group has no group.json: it may be a launcher, or a keeper of another group."""
    group = ProcessGroup.launch(FAMILY, detach=True)
    keeper = json.loads(group.file.read_text())["keeper"]
    registry = Registry(state.directory)
    own = Owner.of(os.getpid())
    ours, _ = registry.register("ours", "x", own, [])
    (state.directory / "groups" / ours).mkdir()
    others, _ = registry.register("others", "x", Owner.of(keeper["pid"]), [])
    recycled, _ = registry.register("recycled", "x", own._replace(pid=keeper["pid"]), [])
    with contextlib.chdir(state.directory / "groups" / ours):
        removed = sweep(registry, kept=True)
    assert [row.id for row in removed] == [recycled]
    assert group["parent"].state == "ready"
    (state.directory / "groups" / ours).rmdir()
    registry.release(ours, others)
    registry.close()
    group.stop()


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


@portable
@pytest.mark.parametrize("launcher_is_portable", [False, True])
def test_groups_of_the_portable_path_and_of_linux_leave_each_other_alone(
    launcher: StartLauncher,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
    launcher_is_portable: bool,
) -> None:
    """What the one records of boot and start means nothing to the other."""
    monkeypatch.setenv("PROCGROUP_PORTABLE", str(int(launcher_is_portable)))
    one = launcher(PAIR)
    monkeypatch.setenv("PROCGROUP_PORTABLE", str(int(not launcher_is_portable)))
    for command in (["ps"], ["gc"], ["gc", "--all"]):
        subprocess.run(
            [sys.executable, "-m", "procgroup", *command],
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            check=True,
            timeout=PATIENCE,
        )
    registry = Registry(state.directory)
    assert [row.id for row in registry.groups()] == [one.facts["id"]]
    registry.close()
    assert Path(one.facts["directory"], "group.json").exists()
    one.kill()
    state.expect_nothing_left()


def test_a_group_of_another_container_goes_on_demand_when_nobody_serves_it(state: State) -> None:
    registry = Registry(state.directory)
    elsewhere = Owner.of(os.getpid())._replace(namespace="pid:[1]")
    rows = {}
    for name in ("served", "deserted", "begun"):
        group, _ = registry.register(name, "none.yaml", elsewhere, [])
        rows[name] = state.directory / "groups" / group
        rows[name].mkdir(parents=True)
    with contextlib.chdir(rows["deserted"]), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("control")
        listener.listen()
    with contextlib.chdir(rows["served"]), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("control")
        listener.listen()
        assert sweep(registry) == []
        assert [row.name for row in sweep(registry, kept=True)] == ["deserted"]
    assert not rows["deserted"].exists()
    assert [row.name for row in sweep(registry, kept=True)] == ["served"]
    registry.release(rows["begun"].name)
    rows["begun"].rmdir()
    registry.close()


def test_two_launchers_sweep_at_once(launcher: StartLauncher, state: State) -> None:
    one = launcher(PAIR)
    kill_all_that_watch(one)
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
    assert [sweeper.wait(PATIENCE) for sweeper in sweepers] == [0, 0, 0, 0]
    state.expect_nothing_left()


def descriptors_of(pid: int) -> list[str]:
    """The kinds of descriptors that a process has open; files by name."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            # SQLite closes a file late when another connection of the process has it open, too.
            if "registry.sqlite3" not in target:
                found.append(target.partition(":[")[0])
    return sorted(found)


def registry_files(state: State) -> list[str]:
    """What this process has open of the registry."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = Path(os.readlink(f"/proc/self/fd/{name}"))
            if target.parent == state.directory and target.name.startswith("registry.sqlite3"):
                found.append(target.name)
    return sorted(found)


def count_everything(state: State) -> dict[str, Any]:
    """All that launches may leave, in this process, in its wardens and on the machine."""
    serving = {
        pid: command
        for pid, command in processes_of(state.directory).items()
        if "warden" in command
    }
    return {
        "own": descriptors_of(os.getpid()),
        "wardens": {pid: descriptors_of(pid) for pid in serving},
        "threads": threading.active_count(),
        "files": sorted(path.name for path in state.directory.iterdir()),
        "left": state.leftovers(),
    }


def only_wardens() -> bool:
    """Whether all keepers have ended: one that has said goodbye has yet to, and to be collected.

    So it is with a warden that has retired.
    """
    if any(warden.alive() for warden in wardens._retired):
        return False
    parents = processes.parents()
    return {parents.get(pid) for pid in processes.descendants(os.getpid())} <= {os.getpid()}


def launch_in_a_row(launch: Launch, state: State, times: int) -> None:
    for _ in range(2 + wardens.SPARE):  # of which a warm one has the plain one end
        launch(PAIR).stop()
    wait_until(only_wardens, "no keepers")
    before = count_everything(state)
    held = len(registry_files(state))
    children = set(processes.descendants(os.getpid()))
    ports = set()
    for _ in range(times):
        group = launch(PAIR)
        ports.add(group["queue"].port)
        group.stop()
    state.expect_nothing_left()
    wait_until(only_wardens, "no keepers")
    assert children.issuperset(processes.descendants(os.getpid()))
    assert count_everything(state) == before
    # SQLite closes the file late that another connection, such as that of `leftovers`, has had beside
    # this process's own, and takes it again for the next: one more is no leak, one a launch is.
    assert len(registry_files(state)) <= held + 1
    expect_free(*ports)
    assert len(ports) == times, "a port that was just freed rests the longest"


def test_launches_in_a_row_leave_nothing(launch: Launch, state: State) -> None:
    launch_in_a_row(launch, state, 20)


@pytest.mark.stress
def test_a_thousand_launches_in_a_row_leave_nothing(launch: Launch, state: State) -> None:
    launch_in_a_row(launch, state, 1000)


def test_what_a_process_holds_does_not_grow_with_the_state_directories_it_uses(
    tmp_path: Path, launch: Launch, state: State, way: str
) -> None:
    """Nor with what its roles preload: wardens and connections that serve nothing more, end."""
    first = launch(PAIR, state_dir=tmp_path / "first")
    places = [tmp_path / f"state{number}" for number in range(2 * wardens.MOST)]
    for place in places:
        if way == "forked":
            warmed(PAIR, state_dir=place)
        launch(PAIR, state_dir=place).stop()

    def wardens_alive() -> int:
        found = [pid for place in places for pid in processes_of(place)]
        return len(found)

    kinds = 2 if way == "forked" else 1
    wait_until(lambda: wardens_alive() <= kinds * wardens.MOST, "the others have ended")
    open_files = [
        os.readlink(f"/proc/self/fd/{name}")
        for name in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{name}")
    ]
    registries = {name for name in open_files if name.endswith("registry.sqlite3")}
    assert len([name for name in registries if name.startswith(str(tmp_path))]) <= wardens.MOST
    assert first["worker"].state == "ready", "its warden has retired, not gone"
    first.stop()
    assert not first.directory.exists()
    wardens.close_all(PATIENCE)
    assert not any(processes_of(place) for place in (*places, tmp_path / "first"))


def test_kill_9_of_a_launcher_whose_warden_has_retired(fresh_state: State, way: str) -> None:
    """Another state directory's launches have had it make room; it clears the registry all the same."""
    supervisor = "builtin" if way == "forked" else way
    code = (
        "import os, signal, sys; from procgroup import ProcessGroup, wardens\n"
        f"group = ProcessGroup.launch({str(PAIR)!r}, supervisor={supervisor!r})\n"
        "for n in range(wardens.MOST):\n"
        "    wardens.prepare(group.state_dir.with_name(f'other{n}'))\n"
        "assert group.state_dir not in wardens._plain\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    fresh_state.expect_no_process()
    fresh_state.expect_nothing_left()


def killed_at_any_moment(state: State, way: str, moments: Iterable[float]) -> None:
    """Launchers killed with -9 that many seconds after they began to launch."""
    code = (
        "import sys, itertools; from procgroup import ProcessGroup; print(flush=True)\n"
        "for _ in itertools.count():\n"
        f"    ProcessGroup.launch({str(PAIR)!r}, supervisor=sys.argv[1]).stop()\n"
    )
    supervisor = "builtin" if way == "forked" else way
    for moment in moments:
        process = subprocess.Popen(
            [sys.executable, "-c", code, supervisor],
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.read(1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        assert process.poll() is None
        process.kill()
        process.wait()
        process.stdout.close()
        state.expect_no_process()
        sweep_now(state)
        state.expect_nothing_left()


def test_kill_9_at_any_moment_of_a_launch(state: State, way: str) -> None:
    killed_at_any_moment(state, way, (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5))


@pytest.mark.stress
def test_kill_9_at_every_moment_of_a_launch(state: State, way: str) -> None:
    killed_at_any_moment(state, way, (0.005 * step for step in range(200)))


def detached_killed_at_any_moment(
    state: State, way: str, write: Write, moments: Iterable[float]
) -> None:
    """`up -d` ended that many seconds after its start: its group is gone, or up and its own owner's."""
    path = write(SLOW)
    command = [sys.executable, "-m", "procgroup", "up", "-d", str(path), "--supervisor"]
    command.append("builtin" if way == "forked" else way)
    deadly = itertools.cycle((signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
    registry = Registry(state.directory)

    def settled() -> bool:
        documents = [group_document(row.directory) for row in registry.groups()]
        return all(keeper_alive(each) and ready(each) for each in documents)

    def ready(document: dict[str, Any]) -> bool:
        return bool(document["roles"]["a"].get("state") == "ready")

    def ended() -> bool:
        for row in registry.groups():
            # Ready a moment ago, it may be on its way down: its launcher was killed just then.
            with contextlib.suppress(GroupLost, UnknownGroup):
                ProcessGroup.attach(row.id).stop()
        return not registry.groups()

    for moment, number in zip(moments, deadly, strict=False):
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.send_signal(number)
        process.wait(PATIENCE)
        wait_until(settled, f"{number!r} after {moment} s: it is gone, or up")
        wait_until(ended, f"{number!r} after {moment} s: it can be ended")
        state.expect_nothing_left()
    registry.close()


def test_a_detached_launch_is_killed_at_any_moment(state: State, way: str, write: Write) -> None:
    moments = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    detached_killed_at_any_moment(state, way, write, moments)


@pytest.mark.stress
def test_a_detached_launch_is_killed_at_every_moment(state: State, way: str, write: Write) -> None:
    moments = (0.005 * step for step in range(200))
    detached_killed_at_any_moment(state, way, write, moments)


def killed_with_many_groups(state: State, way: str, times: int) -> None:
    """Launchers killed with -9 while a dozen groups run, whose keepers end all at once."""
    code = (
        "import sys, time; from procgroup import ProcessGroup\n"
        f"launch = lambda: ProcessGroup.launch({str(FAMILY)!r}, supervisor=sys.argv[1])\n"
        "groups = [launch() for _ in range(12)]\n"
        "print(flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", code, "builtin" if way == "forked" else way],
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline(), "the launcher died"
        process.kill()
        process.wait()
        process.stdout.close()
        state.expect_no_process()
        state.expect_nothing_left()


def test_kill_9_of_a_launcher_with_many_groups(state: State, way: str) -> None:
    killed_with_many_groups(state, way, 2)


@pytest.mark.stress
def test_kill_9_of_launchers_with_many_groups(state: State, way: str) -> None:
    killed_with_many_groups(state, way, 100)


def test_kill_9_of_a_worker_with_environments_of_its_own(launch: Launch, state: State) -> None:
    """A poller that forks execution environments into sessions of their own."""
    group = launch(FAMILY)
    before = descendants_in(str(group.directory))
    group["parent"].kill()
    wait_until(lambda: not any(map(alive, before)), "the environments are gone")
    group["parent"].wait_ready()
    after = descendants_in(str(group.directory))
    assert all(map(alive, after))
    assert not set(before) & set(after)


def test_ctrl_c_twice(fresh_state: State, way: str) -> None:
    """The first asks a role to stop that ignores it; the second must not wait for its patience."""
    supervisor = "builtin" if way == "forked" else way
    code = (
        "from procgroup import ProcessGroup\nimport time\n"
        f"group = ProcessGroup.launch({str(FAMILY)!r}, dict(mood='stubborn', stop_timeout=1000),"
        f" supervisor={supervisor!r})\n"
        # In slices: a signal just before `signal.pause()` would not end that.
        "try:\n    print(flush=True)\n    while True: time.sleep(0.05)\n"
        "finally:\n    group.stop(graceful=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    with ProcessGroup.attach("family") as group:
        process.send_signal(signal.SIGINT)
        wait_until(lambda: group["parent"].state == "stopping", "it was asked")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    fresh_state.expect_no_process()
    sweep_now(fresh_state)
    fresh_state.expect_nothing_left()


def test_no_wait_for_a_keeper_is_longer_than_a_signal_may_be_late(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes between Python's last look and the wait is not heard before the wait ends; seen
    once, as a second ctrl-C that went unheard while a role was given a thousand seconds to stop."""
    waits: list[float | None] = []
    settimeout = socket.socket.settimeout

    def noted(self: socket.socket, seconds: float | None) -> None:
        waits.append(seconds)
        settimeout(self, seconds)

    group = launch(FAMILY, variables={"mood": "stubborn", "stop_timeout": 1})
    monkeypatch.setattr(socket.socket, "settimeout", noted)
    group.stop(graceful=True)
    assert len(waits) > 4  # a second, in slices
    assert all(seconds is not None and seconds <= 0.2 for seconds in waits[1:])


def test_a_full_disk_while_rendering(
    fresh_state: State, tmp_path: Path, write: Write, supervisor: str
) -> None:
    """A real one, as far as a process can have it: no file may grow beyond a megabyte."""
    blueprint = write(
        "name: full\nroles:\n  a:\n    binary: sleep\n    args: [1000]\n"
        "    configs: {small: small.j2, large: large.j2}\n",
        small__j2="small",
        large__j2="x" * 2_000_000,
    )
    code = (
        "import resource, sys\nfrom procgroup import ProcessGroup\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        f"try:\n    ProcessGroup.launch({str(blueprint)!r}, supervisor={supervisor!r})\n"
        "except OSError as error:\n    print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout
    assert re.search(r"File too large: '.*/a\.0/large'$", said)
    fresh_state.expect_nothing_left()


def test_a_disk_that_is_full_takes_no_running_group_down(launch: Launch, state: State) -> None:
    """group.json cannot be written: the keeper says so and goes on."""
    group = launch(PAIR)
    (group.directory / "group.json.new").mkdir()  # nobody can write a file of that name now
    group["worker"].kill()
    group["worker"].wait_ready()
    assert group["worker"].running
    group.stop()
    log = state.directory / "warden.log"
    assert "cannot write" in log.read_text()
    os.truncate(log, 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_that_has_the_log_too_takes_no_running_group_down(
    launch: Launch, fresh_state: State
) -> None:
    """Nor can the keeper say so; group.json is written once there is room again."""
    fresh_state.directory.mkdir()
    log = fresh_state.directory / "warden.log"
    log.symlink_to("/dev/full")
    group = launch(PAIR)
    log.unlink()  # the warden and its keepers have it open
    obstacle = group.directory / "group.json.new"
    obstacle.mkdir()
    group["worker"].kill()
    group["worker"].wait_ready()
    pid = group["worker"].pid
    obstacle.rmdir()
    wait_until(
        lambda: json.loads(group.file.read_text())["roles"]["worker"]["pid"] == pid,
        "group.json says what is so",
    )
    group.stop()


def test_launchers_race_to_sweep_while_others_launch(
    launcher: StartLauncher, state: State, way: str
) -> None:
    """A sweep of what is dead, from all sides, touches nothing that lives."""
    living = launcher(PAIR)
    dead = [launcher(PAIR) for _ in range(2)]
    kill_all_that_watch(*dead)
    racing = [launcher(PAIR) for _ in range(2)]
    assert all(map(alive, living.facts["pids"].values()))
    for one in racing:
        assert all(map(alive, one.facts["pids"].values()))
    for one in dead:
        assert not Path(one.facts["directory"]).exists()
        assert not any(map(alive, one.facts["pids"].values()))
    for one in (living, *racing):
        one.kill()
    state.expect_no_process()
    state.expect_nothing_left()


def as_anybody() -> None:
    """In a forked child: from its next exec on, root has no rights to others' files."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(not processes.LINUX, reason="capabilities are Linux's")
@pytest.mark.parametrize("end", ["group.stop()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_read_only_directories_of_a_role_are_removed(
    fresh_state: State, write: Write, supervisor: str, end: str
) -> None:
    """As a Go module cache has them."""
    path = write(
        "name: x\nroles:\n  a:\n    binary: sh\n    ready: {log: up}\n"
        "    args: [-c, 'mkdir -p m/n; touch m/n/f; chmod 555 m; chmod 0 m/n; echo up; sleep 999']\n"
    )
    code = (
        "import os, signal; from procgroup import ProcessGroup\n"
        f"group = ProcessGroup.launch({str(path)!r}, supervisor={supervisor!r})\n"
        "try:\n    (group['a'].directory / 'm' / 'new').touch()\n"
        f"except PermissionError:\n    {end}\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        preexec_fn=as_anybody,
        timeout=PATIENCE,
        check=False,
    )
    fresh_state.expect_nothing_left()


def stale_group(state: State, document: str = "{}") -> GroupRow:
    """The registered group of an owner that has ended, with a directory."""
    registry = Registry(state.directory)
    own = Owner.of(os.getpid())
    group, _ = registry.register("stale", "none.yaml", own._replace(pid=2**22 - 1), [])
    (row,) = (each for each in registry.groups() if each.id == group)
    registry.close()
    Path(row.directory).mkdir(parents=True)
    Path(row.directory, "group.json").write_text(document)
    return row


def test_a_group_that_cannot_be_removed_is_in_no_others_way(
    launch: Launch,
    fresh_state: State,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bad, good = stale_group(fresh_state), stale_group(fresh_state)
    remove = processes.remove_tree

    def remove_tree(path: str) -> None:
        if path == bad.directory:
            raise PermissionError(13, "Permission denied", path)
        remove(path)

    with monkeypatch.context() as patched:
        patched.setattr(processes, "remove_tree", remove_tree)
        launch(PAIR).stop()
        assert not Path(good.directory).exists()
        assert f"{bad.directory} cannot be removed: [Errno 13]" in capfd.readouterr().err
        launch(PAIR).stop()
        assert capfd.readouterr().err == "", "it is left alone for a time"
    registry = Registry(fresh_state.directory)
    assert [row.id for row in registry.groups()] == [bad.id]
    sweep(registry, kept=True)
    registry.close()


def test_a_dead_group_of_another_format_is_swept(launch: Launch, fresh_state: State) -> None:
    for document in ('{"format": 2, "keeper": {"id": 1}, "roles": []}', "[]", '{"fo'):
        stale_group(fresh_state, document)
    launch(PAIR).stop()
    fresh_state.expect_nothing_left()


CLEANED = """name: cleaned
roles:
  a:
    binary: sh
    args: [-c, "echo up; exec sleep 1000"]
    ready: {log: up}
"""


@pytest.fixture
def cleaned(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[str]]:
    """A blueprint whose role has a `cleanup`, as containers have; how often it has run."""
    from procgroup import launching

    build = launching.Builder._replica
    marks = tmp_path / "marks"

    def with_cleanup(self: Any, role: Any, replica: int) -> dict[str, Any]:
        plan = build(self, role, replica)
        plan["cleanup"] = plan["public"]["cleanup"] = ["/bin/sh", "-c", f"echo x >>{marks}"]
        return plan

    monkeypatch.setattr(launching.Builder, "_replica", with_cleanup)
    write(CLEANED)
    return lambda: marks.read_text().split() if marks.exists() else []


def test_cleanup_runs_after_each_end(
    launch: Launch, tmp_path: Path, cleaned: Callable[[], list[str]]
) -> None:
    group = launch(tmp_path / "group.yaml")
    assert cleaned() == []
    group["a"].kill()
    group["a"].wait_ready()
    assert len(cleaned()) == 1
    group["a"].stop()
    assert len(cleaned()) == 2
    group["a"].start()
    group.stop()
    assert len(cleaned()) == 3


def test_cleanup_runs_for_a_group_whose_keeper_and_warden_were_killed(
    launch: Launch, tmp_path: Path, cleaned: Callable[[], list[str]]
) -> None:
    group = launch(tmp_path / "group.yaml")
    keeper = json.loads(group.file.read_text())["keeper"]["pid"]
    warden = processes.parents()[keeper]
    kill_at_once(keeper, warden)
    group.stop()
    assert len(cleaned()) == 1


def test_a_cleanup_that_fails_is_said_and_tried_again(
    launch: Launch,
    fresh_state: State,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The group stays known until what it has outside of its processes is gone."""
    works = tmp_path / "works"
    command = ["/bin/sh", "-c", f"test -e {works} || ! echo broken >&2"]
    roles = {"a": {"replicas": [{"replica": 0, "cleanup": command}]}}
    row = stale_group(fresh_state, json.dumps({"format": 1, "roles": roles}))
    launch(PAIR).stop()
    assert ": broken; `procgroup gc --all` tries again" in capfd.readouterr().err
    registry = Registry(fresh_state.directory)
    assert [each.id for each in registry.groups()] == [row.id]
    works.touch()
    assert [each.id for each in sweep(registry, kept=True)] == [row.id]
    registry.close()


def test_exit_without_stop_leaves_nothing(state: State, supervisor: str) -> None:
    code = (
        f"from procgroup import ProcessGroup; ProcessGroup.launch({str(PAIR)!r}, "
        f"supervisor={supervisor!r})"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        check=True,
        timeout=PATIENCE,
    )
    state.expect_nothing_left()


def test_ctrl_c_at_exit_is_quiet_and_skips_nothing(fresh_state: State) -> None:
    code = (
        "from procgroup import ProcessGroup, wardens\n"
        f"ProcessGroup.launch({str(PAIR)!r})\nclose_all = wardens.close_all\n"
        "def interrupted(timeout):\n    wardens.close_all = close_all\n    raise KeyboardInterrupt\n"
        "wardens.close_all = interrupted\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stderr == ""
    left = processes_of(fresh_state.directory)
    assert left == {}, "it waited for its warden"


@portable
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
        timeout=PATIENCE,
    )
    state.expect_nothing_left()


@portable
def test_portable_kill_9_of_the_launcher(
    launcher: StartLauncher, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCGROUP_PORTABLE", "1")
    one = launcher(PAIR)
    one.kill()
    state.expect_no_process()
    state.expect_nothing_left()


BUSY = """\
name: busy
roles:
  forking:
    binary: sh
    args: [-c, "echo up; for i in $(seq 300); do setsid sleep 1000 & sleep 0.002; done; wait"]
    ready: {log: up}
"""


@portable
@pytest.mark.parametrize("killed", ["nobody", "the launcher", "the keeper", "all that watch"])
def test_portable_path_leaves_nothing_of_who_forks_while_he_is_killed(
    launcher: StartLauncher,
    state: State,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    killed: str,
) -> None:
    """And what he has forked leads sessions of its own."""
    monkeypatch.setenv("PROCGROUP_PORTABLE", "1")
    one = launcher(write(BUSY))
    if killed == "all that watch":
        kill_all_that_watch(one)
    else:
        if killed == "the keeper":
            os.kill(one.facts["keeper"], signal.SIGKILL)
        one.kill(signal.SIGKILL if killed == "the launcher" else signal.SIGINT)
    if killed in ("the keeper", "all that watch"):
        subprocess.run(
            [sys.executable, "-m", "procgroup", "gc"],
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            check=True,
        )
    state.expect_no_process()
    state.expect_nothing_left()


def test_a_damaged_registry_is_set_aside(
    launch: Launch, fresh_state: State, capfd: pytest.CaptureFixture[str]
) -> None:
    fresh_state.directory.mkdir()
    (fresh_state.directory / "registry.sqlite3").write_bytes(b"not a database" * 100)
    launch(PAIR).stop()
    assert "is damaged" in capfd.readouterr().err
    assert list(fresh_state.directory.glob("registry.sqlite3.damaged-*"))


def test_living_groups_are_registered_anew_when_the_registry_was_damaged(
    launcher: StartLauncher, fresh_state: State, capfd: pytest.CaptureFixture[str]
) -> None:
    one = launcher(PAIR)
    stale_group(fresh_state)  # an old one stays lost
    path = fresh_state.directory / "registry.sqlite3"
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    path.write_bytes(b"not a database" * 100)
    registry = Registry(fresh_state.directory)
    assert "is damaged" in capfd.readouterr().err
    (row,) = registry.groups()
    assert (row.id, row.name, row.directory) == (one.facts["id"], "pair", one.facts["directory"])
    assert row.blueprint == str(PAIR)
    assert row.owner.pid == one.facts["keeper"]
    ((port, request),) = registry.ports(row.id)
    assert (port, *request) == (*one.facts["ports"], "queue", 0, "redis")
    assert sweep(registry) == []
    with ProcessGroup.attach(row.id) as group:
        assert group["worker"].running
    one.kill()
    fresh_state.expect_no_process()
    wait_until(lambda: registry.groups() == [], "it is deregistered as ever")
    registry.close()
    shutil.rmtree(fresh_state.directory / "groups")


def test_registry_of_a_newer_version_is_refused(fresh_state: State) -> None:
    Registry(fresh_state.directory).close()
    with sqlite3.connect(fresh_state.directory / "registry.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(Exception, match="schema version 99"):
        ProcessGroup.launch(PAIR)
    (fresh_state.directory / "registry.sqlite3").unlink()


def test_a_keeper_that_ends_while_another_ones_descendants_are_killed_is_missed_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be waited for in vain, and what it leaves behind would stay."""
    spared: list[set[int]] = []

    def kill(spare: set[int]) -> set[int]:
        spared.append(set(spare))
        return {2} if len(spared) == 1 else set()

    monkeypatch.setattr(processes, "LINUX", True)
    monkeypatch.setattr(processes, "reap_exited", lambda: [(1, 9), (7, 0)])
    monkeypatch.setattr(processes, "kill_descendants", kill)
    warden = Warden.__new__(Warden)
    warden._keepers = {1, 2, 3}
    warden._reap()
    assert warden._keepers == {3}
    assert spared == [{2, 3}, {3}]
