"""The command line, run as a person runs it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from procgroup import ProcessGroup, cli

from .conftest import BLUEPRINTS, PACKAGE, PATIENCE, State, Write, alive, wait_until

PAIR = BLUEPRINTS / "pair.yaml"


def procgroup(*arguments: object, status: int = 0, timeout: float = 180) -> str:
    """Run the command to its end; what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", "procgroup", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(PACKAGE), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout if status == 0 else result.stderr


@pytest.fixture
def detached(state: State) -> Iterator[ProcessGroup]:
    """A group started by `up --detach`."""
    procgroup("up", PAIR, "--detach")
    group = ProcessGroup.attach("pair")
    yield group
    group.stop()


def test_up_in_the_foreground_until_ctrl_c(state: State, supervisor: str, write: Write) -> None:
    text = PAIR.read_text().replace("redis.conf.j2", str(BLUEPRINTS / "redis.conf.j2"))
    text = text.replace("{{ blueprint.directory }}", str(BLUEPRINTS))
    path = write(text + 'hint: "redis-cli -p {{ roles.queue.port }} RPUSH x y"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "procgroup", "up", str(path), "--supervisor", supervisor],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or "ctrl-C" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "it ended early"
    output = "".join(lines)
    group = ProcessGroup.attach("pair")
    port = group["queue"].port
    assert f"queue.0   redis 127.0.0.1:{port}  {group['queue'].log_path}" in output
    assert f"redis-cli -p {port} RPUSH x y" in output
    group["worker"].kill()
    assert process.stdout.readline() == "worker.0: killed by SIGKILL; restarted 1 times\n"
    group.close()
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "stopping\n"
    assert process.wait(PATIENCE) == 0
    process.stdout.close()
    state.expect_nothing_left()


def up(*words: object, program: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`up` in the foreground, once all is ready."""
    process = subprocess.Popen(
        [*program, sys.executable, "-m", "procgroup", "up", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "ctrl-C" not in process.stdout.readline():
        pass
    return process


def test_ctrl_c_twice(state: State) -> None:
    """The first asks a stubborn role politely, the second does not."""
    stubborn = ("--set", "mood=stubborn", "--set", "stop_timeout=1000")
    process = up(BLUEPRINTS / "family.yaml", *stubborn)
    assert process.stdout is not None
    with ProcessGroup.attach("family") as group:
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping\n"
        wait_until(lambda: group["parent"].state == "stopping", "it was asked")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE)
    process.stdout.close()
    state.expect_nothing_left()


def test_terminated_up_leaves_nothing(state: State) -> None:
    process = up(PAIR)
    assert process.stdout is not None
    process.terminate()
    process.wait(PATIENCE)
    process.stdout.close()
    state.expect_nothing_left()


def test_hang_up_ends_no_up_under_nohup(state: State) -> None:
    process = up(PAIR, program=("nohup",))
    assert process.stdout is not None
    process.send_signal(signal.SIGHUP)
    with ProcessGroup.attach("pair") as group:
        group["worker"].kill()
        assert process.stdout.readline() == "worker.0: killed by SIGKILL; restarted 1 times\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "stopping\n"
    assert process.wait(PATIENCE) == 0
    process.stdout.close()
    state.expect_nothing_left()


def test_hang_up_ends_no_run_under_nohup(state: State, tmp_path: Path) -> None:
    command = ["sh", "-c", "echo $$ > pid.new; mv pid.new pid; read line; echo got $line"]
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "procgroup", "run", str(PAIR), "--", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until((tmp_path / "pid").exists, "its command runs")
    process.send_signal(signal.SIGHUP)
    assert process.communicate("it\n", PATIENCE)[0] == "got it\n"
    assert process.returncode == 0
    state.expect_nothing_left()


def test_run_gives_the_commands_status(state: State) -> None:
    find = "import procgroup; print(procgroup.discover().roles['queue'].address)"
    output = procgroup("run", PAIR, "--", sys.executable, "-c", find)
    assert output.startswith("127.0.0.1:")
    state.expect_nothing_left()
    down = f"{sys.executable} -m procgroup down; exit 3"
    assert procgroup("run", PAIR, "--", "sh", "-c", down, status=3).endswith("sh ended with 3\n")
    state.expect_nothing_left()
    errors = procgroup("up", PAIR, "--", "sh", "-c", "exit 7", status=7)
    (kept,) = (state.directory / "groups").iterdir()
    assert f"sh ended with 7; logs are kept in {kept}" in errors
    assert f"{kept.name} (pair): removed" in procgroup("gc", "--all")
    state.expect_nothing_left()


def test_run_refuses_what_makes_no_sense(state: State) -> None:
    assert "expected a command after --" in procgroup("run", PAIR, status=1)
    assert "exclude each other" in procgroup("up", PAIR, "-d", "--", "true", status=1)
    assert "takes no command" in procgroup("ps", "--", "true", status=2)
    assert "cannot run /nowhere" in procgroup("run", PAIR, "--", "/nowhere", status=1)


def test_set_scale_and_no_start(state: State) -> None:
    code = (
        "import procgroup; found = procgroup.discover(); print(found.variables['greeting'], "
        "len(found.replicas['queue']), found.document['roles']['worker']['state'])"
    )
    output = procgroup(
        "run", PAIR, "--set", "greeting=true", "--scale", "queue=2", "--no-start", "worker",
        "--", sys.executable, "-c", code,
    )  # fmt: skip
    assert output == "True 2 stopped\n"
    for number in ("x", "²"):
        errors = procgroup("run", PAIR, "--scale", f"queue={number}", "--", "true", status=1)
        assert "expected ROLE=N" in errors


def test_ps(detached: ProcessGroup) -> None:
    head, row = procgroup("ps").splitlines()
    assert head.split() == ["GROUP", "NAME", "OWNER", "AGE", "ROLES", "PORTS", "STATE", "DIRECTORY"]
    keeper = json.loads(detached.file.read_text())["keeper"]["pid"]
    assert row.split()[:4] == [detached.id, "pair", str(keeper), "detached"]
    assert f" queue worker  {detached['queue'].port}  2 ready  {detached.directory}" in row
    detached["worker"].stop()
    (found,) = json.loads(procgroup("ps", "--format", "json"))
    assert found["state"] == "1 ready, 1 stopped"
    assert found["roles"] == {"queue": 1, "worker": 1}
    assert found["ports"] == {"queue.0.redis": detached["queue"].port}
    assert procgroup("ps", "-q") == f"{detached.id}\n"


def test_ps_of_one_group(detached: ProcessGroup) -> None:
    worker = detached["worker"]
    worker.kill()
    worker.wait_ready()
    head, _, row = procgroup("ps", "-g", "pair").splitlines()
    assert head.split() == ["ROLE", "PID", "STATE", "RESTARTS", "LAST", "END", "PORTS", "LOG"]
    assert row.split() == [
        "worker.0", str(worker.pid), "ready", "1", "killed", "by", "SIGKILL", "-",
        str(worker.log_path),
    ]  # fmt: skip
    queue, _ = json.loads(procgroup("ps", "-g", detached.id, "--format", "json"))
    assert queue["ports"] == detached["queue"].ports
    assert procgroup("ps", "-q", "-g", "pair") == f"{queue['pid']}\n{worker.pid}\n"


def test_ps_names_the_owner(state: State) -> None:
    with ProcessGroup.launch(PAIR, overrides={"roles": {"queue": {"replicas": 2}}}):
        _, row = procgroup("ps").splitlines()
        command = Path("/proc/self/comm").read_text().strip()
        assert f" {os.getpid()} {command} " in row
        assert " queue*2 worker " in row


def test_ps_of_dead_and_kept_groups(state: State) -> None:
    assert procgroup("run", PAIR, "--", "false", status=1)
    _, row = procgroup("ps").splitlines()
    assert " kept " in row
    group = row.split()[0]
    assert "worker.0 | greeted" in procgroup("logs", "-g", group), "its logs can still be read"
    for named in (group, group[:5], "pair"):
        for verb in ("down", "restart", "ps"):
            errors = procgroup(verb, "-g", named, status=1)
            assert f"the group {group} (pair) no longer runs" in errors
            assert "`procgroup gc --all` removes it" in errors
    assert procgroup("gc", "--all") == f"{group} (pair): removed\n"


def test_stop_start_restart_of_roles(detached: ProcessGroup) -> None:
    before = detached["queue"].pid
    assert procgroup("stop", "worker") == "worker.0: stopped\n"
    assert detached["worker"].state == "stopped"
    assert procgroup("start", "worker.0", "-g", detached.id[:5]) == "worker.0: ready\n"
    assert procgroup("restart") == "queue.0: ready\nworker.0: ready\n"
    assert detached["queue"].pid != before
    assert "no role 'nope'; the group has queue, worker" in procgroup("stop", "nope", status=1)


def test_how_long_a_role_may_take_to_stop_can_be_said(state: State, write: Write) -> None:
    path = write(
        "name: stubborn\n"
        "roles:\n"
        "  deaf: {binary: sh, args: ['-c', \"trap '' TERM; echo up; while :; do sleep 1; done\"],"
        " ready: {log: up}, stop_timeout: 3600}\n"
    )
    procgroup("up", str(path), "--detach")
    group = ProcessGroup.attach("stubborn")
    assert procgroup("stop", "-t", "0.1", "deaf") == "deaf.0: stopped\n"
    assert group["deaf"].status()["exit"] == "killed by SIGKILL"
    procgroup("start")
    assert procgroup("restart", "--timeout", "0") == "deaf.0: ready\n"
    assert "expected seconds" in procgroup("stop", "-t", "-1", status=2)
    assert procgroup("down", "-t", "0") == f"{group.id} (stubborn): stopped\n"
    group.close()
    state.expect_nothing_left()


def test_roles_start_after_those_they_need(state: State, write: Write) -> None:
    """Whatever the order in the file: a dependent that starts first would end, and be given up."""
    path = write(
        "name: upside-down\n"
        "roles:\n"
        "  web: {binary: sh, args: ['-c', 'test -e ../db.0/up && exec sleep 999'], needs: [db]}\n"
        "  db: {binary: sh, args: [db.sh], working_directory: ., ready: {notify: true}}\n"
    )
    write(
        'cd "${PROCGROUP_NOTIFY%/*}"\ntrap "rm up; exit" TERM\ntouch up\n'
        'echo > "$PROCGROUP_NOTIFY"\nwhile :; do sleep 0.05; done\n',
        "db.sh",
    )
    procgroup("up", path, "--detach")
    assert procgroup("stop") == "web.0: stopped\ndb.0: stopped\n"
    assert procgroup("start") == "db.0: ready\nweb.0: ready\n"
    assert procgroup("restart") == "db.0: ready\nweb.0: ready\n"
    (web, _) = json.loads(procgroup("ps", "-g", "upside-down", "--format", "json"))
    assert (web["role"], web["restarts"]) == ("web", 0)
    procgroup("down")


def test_a_directory_that_has_a_groups_name_is_not_taken_for_it(
    detached: ProcessGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pair").mkdir()
    monkeypatch.chdir(tmp_path)
    assert procgroup("stop", "-g", "pair", "worker") == "worker.0: stopped\n"
    with ProcessGroup.attach("pair") as group:
        assert group.id == detached.id
    assert procgroup("ps", "-q", "-g", detached.directory) == f"{detached['queue'].pid}\n"
    assert "there is no group '.'" in procgroup("ps", "-g", ".", status=1)


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in which `procgroup` is the command."""
    script = f'procgroup() {{ {sys.executable} -m procgroup "$@"; }}\n{command}'
    return subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_up_with_closed_output(state: State, closed: str) -> None:
    """As a daemon may have it: the numbers are free, and must not become those of sockets."""
    assert shell(f"procgroup up {PAIR} --detach {closed}").returncode == 0
    assert procgroup("down").endswith(" (pair): stopped\n")


def test_detached_up_that_cannot_say_so_leaves_nothing(state: State) -> None:
    result = shell(f"procgroup up {PAIR} --detach >/dev/full")
    assert (result.returncode, result.stderr) == (
        1, "procgroup: [Errno 28] No space left on device\n",
    )  # fmt: skip
    state.expect_nothing_left()
    for words in ("ps", "--version", "config --schema"):
        full = shell(f"procgroup {words} >/dev/full")
        assert (full.returncode, full.stderr) == (1, result.stderr)


@pytest.mark.parametrize("words", ["ps", "--version", "--help", "config --schema"])
def test_output_that_nobody_reads_is_no_error(detached: ProcessGroup, words: str) -> None:
    result = shell(f"procgroup {words} | true; echo ${{PIPESTATUS[0]}}")
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_a_broken_pipe_that_is_not_the_outputs_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise BrokenPipeError(errno.EPIPE, "the warden is gone")

    monkeypatch.setattr(cli, "_ps", broken)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # which main() replaces
    assert cli.main(["ps"]) == 1
    assert capfd.readouterr().err == "procgroup: [Errno 32] the warden is gone\n"


def test_logs_of_a_group_without_processes(state: State, write: Write) -> None:
    path = write("name: none\nroles:\n  a: {binary: sh, replicas: 0}\n")
    procgroup("up", path, "--detach")
    assert procgroup("logs") == ""
    procgroup("down")


def test_a_full_disk_is_named(fresh_state: State) -> None:
    result = shell("ulimit -f 0; procgroup ps 2>&1 | cat")
    assert result.stdout.startswith(
        f"procgroup: the disk that holds {fresh_state.directory} is full or broken: "
    ), result.stdout


def test_too_few_descriptors_are_named(fresh_state: State) -> None:
    """With some numbers of them the keeper is begun, and cannot start a role."""
    said = [
        shell(f"ulimit -n {number}; procgroup up '{PAIR}' --detach 2>&1 | cat").stdout
        for number in range(11, 17)
    ]
    assert any("keeper is gone ([Errno 24] Too many open files)" in each for each in said), said
    procgroup("down", "--all")
    procgroup("gc", "--all")
    (fresh_state.directory / "warden.log").write_text("")  # which has the tracebacks


def test_down(detached: ProcessGroup, state: State) -> None:
    pids = [role.pid or 0 for role in detached.all_roles()]
    assert procgroup("down") == f"{detached.id} (pair): stopped\n"
    assert not any(map(alive, pids))
    state.expect_nothing_left()
    assert "no group is running" in procgroup("down", status=1)
    assert procgroup("down", "--all") == ""


def test_down_takes_the_group_of_that_name_whatever_ids_begin_so(
    detached: ProcessGroup, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    from procgroup.registry import Owner, Registry

    registry = Registry(state.directory)
    monkeypatch.setattr("procgroup.registry._new_id", lambda: "pairabcd")
    foreign, _ = registry.register("foreign", "x", Owner.of(os.getpid()), [])
    assert procgroup("down", "-g", "pair") == f"{detached.id} (pair): stopped\n"
    registry.release(foreign)
    registry.close()


def test_a_group_that_another_takes_down_meanwhile_stops_no_down_and_no_gc(
    detached: ProcessGroup, state: State
) -> None:
    """It is known, but its directory, or all in it, is gone."""
    from procgroup.registry import Owner, Registry

    registry = Registry(state.directory)
    own = Owner.of(os.getpid())
    gone = [registry.register("gone", "x", own, [])[0] for _ in range(20)]
    assert procgroup("down", "--all") == f"{detached.id} (pair): stopped\n"
    directory = state.directory / "groups" / gone[0]
    directory.mkdir()
    (directory / "kept_by_pytest.json").write_text("{}")
    assert procgroup("gc", "--all") == ""
    (directory / "kept_by_pytest.json").unlink()
    directory.rmdir()
    for each in gone:
        registry.release(each)
    registry.close()


def test_two_at_once_take_all_down(state: State) -> None:
    for _ in range(4):
        procgroup("up", BLUEPRINTS / "family.yaml", "--detach")
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "procgroup", "down", "--all"],
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [each.wait(PATIENCE) for each in both] == [0, 0]
    state.expect_nothing_left()


def test_several_groups_must_be_told_apart(detached: ProcessGroup, state: State) -> None:
    with ProcessGroup.launch(PAIR) as other:
        errors = procgroup("down", status=1)
        assert detached.id in errors
        assert other.id in errors


def test_pause_unpause_and_kill(detached: ProcessGroup) -> None:
    worker = detached["worker"]
    assert procgroup("pause", "worker") == "worker.0: paused\n"
    assert worker.state == "paused"
    assert procgroup("unpause", "worker") == "worker.0: ready\n"
    before = worker.pid
    assert procgroup("kill", "worker") == "worker.0: SIGKILL\n"
    worker.wait_ready()
    assert worker.pid != before
    assert procgroup("kill", "-s", "term", "worker") == "worker.0: SIGTERM\n"
    wait_until(lambda: "SIGTERM" in str(worker.status()["exit"]), "the signal arrived")
    worker.wait_ready()
    assert procgroup("kill", "-s", "9", "worker") == "worker.0: SIGKILL\n"
    for name, shown in (("40", "RTMIN+6"), ("rtmin+6", "RTMIN+6"), ("SIGRTMAX-24", "RTMAX-24")):
        assert procgroup("kill", "-s", name, "worker") == f"worker.0: SIG{shown}\n"
        wait_until(lambda: "signal 40" in str(worker.status()["exit"]), "the signal arrived")
        worker.wait_ready()
        procgroup("kill", "worker")
        worker.wait_ready()
    for name in ("NOPE", "99", "²", "RTMIN+31", "RTMAX+1"):
        assert "there is no such signal" in procgroup("kill", "-s", name, status=1)
    worker.stop()
    for name in ("HUP", "KILL"):
        assert "worker.0 does not run" in procgroup("kill", "-s", name, "worker", status=1)
    assert procgroup("kill", "-s", "CONT") == "queue.0: SIGCONT\n", "all that run are meant"
    pid = detached["queue"].pid
    assert "worker.0 does not run" in procgroup("kill", "worker", "queue", status=1)
    detached["queue"].wait_ready()
    assert detached["queue"].pid != pid
    detached["queue"].stop()
    assert "queue.0, worker.0 do not run" in procgroup("kill", status=1)


def test_logs(detached: ProcessGroup) -> None:
    whole = procgroup("logs")
    assert "worker.0 | greeted" in whole
    assert "queue.0  | " in whole
    detached["worker"].restart()
    assert procgroup("logs", "worker").count("worker.0 | greeted") == 2
    for option in ("-n", "--tail"):
        assert re.fullmatch(
            r"worker.0 \| greeted [\d.]+\n", procgroup("logs", "worker", option, "1")
        )
    assert procgroup("logs", "worker", "--tail", "0") == ""
    assert procgroup("logs", "worker", "--tail", "all").count("greeted") == 2
    assert procgroup("logs", "worker", "--no-log-prefix", "-n", "1").startswith("greeted ")
    for number in ("x", "²"):
        assert "expected a number of lines, or `all`" in procgroup("logs", "-n", number, status=2)
    with detached["worker"].log_path.open("ab") as log:
        log.write(b"\x1b[31mred\x00\xff without end")
    assert procgroup("logs", "worker", "-n", "1") == "worker.0 | red\\x00\ufffd without end\n"


def test_a_broken_group_json_is_named(detached: ProcessGroup) -> None:
    good = detached.file.read_text()
    detached.file.write_text("garbage")
    for verb in ("logs", "restart", "down"):
        errors = procgroup(verb, "-g", detached.directory, status=1)
        assert errors.startswith(
            f"procgroup: {detached.directory}: there is no readable group.json"
        )
    detached.file.write_text(good)


def test_logs_in_an_encoding_that_lacks_their_characters(
    detached: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    with detached["worker"].log_path.open("a", encoding="utf-8") as log:
        log.write("→ é\n")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert procgroup("logs", "worker", "-n", "1") == "worker.0 | \\u2192 \\xe9\n"


def follow(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "procgroup", "logs", "-f", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_logs_follow(detached: ProcessGroup) -> None:
    process = follow("worker")
    assert process.stdout is not None
    assert process.stdout.readline().startswith(" " * 9 + "worker.0 | greeted"), "when, is unknown"
    detached["worker"].restart()
    assert re.match(r"\d\d:\d\d:\d\d worker.0 \| greeted", process.stdout.readline())
    detached["worker"].log_path.write_bytes(b"")
    detached["worker"].kill()
    assert re.match(r"\d\d:\d\d:\d\d worker.0 \| greeted", process.stdout.readline())
    detached.stop()
    assert process.stdout.read() == ""
    assert process.wait(PATIENCE) == 0, "it ends with its group"
    process.stdout.close()


def test_logs_follow_ends_with_a_group_whose_directory_is_kept(detached: ProcessGroup) -> None:
    process = follow("worker", "-n", "1")
    assert process.stdout is not None
    assert "greeted" in process.stdout.readline()
    with detached["worker"].log_path.open("ab") as log:
        log.write(b"last words")
    detached.failed = True
    detached.stop()
    assert "worker.0 | last words\n" in process.stdout.read()
    assert process.wait(PATIENCE) == 0
    process.stdout.close()
    procgroup("gc", "--all")


def test_logs_in_colour_on_a_terminal(detached: ProcessGroup) -> None:
    def on_a_terminal(*arguments: str, **environment: str) -> bytes:
        master, terminal = os.openpty()
        with os.fdopen(master, "rb", buffering=0) as output:
            subprocess.run(
                [sys.executable, "-m", "procgroup", "logs", *arguments],
                env=os.environ | {"PYTHONPATH": str(PACKAGE)} | environment,
                stdout=terminal,
                check=True,
                timeout=180,
            )
            os.close(terminal)
            return output.read(65536)

    assert b"\x1b[36mworker.0 |\x1b[0m greeted" in on_a_terminal("worker")
    assert b"\x1b" not in on_a_terminal("worker", "--no-color")
    assert b"\x1b" not in on_a_terminal("worker", NO_COLOR="1")


def test_config_prints_the_resolved_blueprint(fresh_state: State) -> None:
    found = yaml.safe_load(procgroup("config", PAIR, "--set", "greeting=moin"))
    assert found["variables"]["greeting"] == "moin"
    no_date = yaml.safe_load(procgroup("config", PAIR, "--set", "greeting=2024-13-45"))
    assert no_date["variables"]["greeting"] == "2024-13-45"
    assert found["roles"]["worker.0"]["command"][-1] == "moin"
    assert "port 20000" in found["roles"]["queue.0"]["configs"]["redis.conf"]
    assert not (fresh_state.directory / "groups").exists()
    assert "<state dir>/groups/example" in found["roles"]["queue.0"]["command"][1]
    assert procgroup("config", PAIR, "--services") == "queue\nworker\n"
    assert procgroup("config", PAIR, "--quiet") == ""
    assert "no variable 'x'" in procgroup("config", PAIR, "-q", "--set", "x=y", status=1)


def test_it_says_its_version_and_where_the_schema_lies() -> None:
    assert re.fullmatch(r"procgroup (\d+\.\d+\.\d+|in .*)\n", procgroup("--version"))
    schema = Path(procgroup("config", "--schema").removesuffix("\n"))
    assert json.loads(schema.read_text())["type"] == "object"


def test_errors_are_sentences(state: State, write: Write) -> None:
    errors = procgroup("up", write("name: x\nrols: {}\n"), status=1)
    assert errors.endswith("group.yaml:2: rols: unknown key; did you mean 'roles'?\n")
    assert "Traceback" not in errors
    assert "expected NAME=VALUE" in procgroup("up", PAIR, "--set", "x", status=1)
    for seconds in ("0", "-1", "nan", "x"):
        errors = procgroup("up", PAIR, "--timeout", seconds, status=2)
        assert f"{seconds!r}: expected seconds, more than 0" in errors
    for option in (("--scale", "nope=2"), ("--no-start", "nope")):
        errors = procgroup("up", PAIR, *option, status=1)
        assert "roles.nope: there is no such role; the blueprint has queue, worker\n" in errors


def test_a_container_engine_that_is_no_command_is_explained(
    state: State, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("name: x\nroles: {a: {image: y}}\n")
    problem = "PROCGROUP_CONTAINER_{}='a \"b': expected words, quoted as in a shell: No closing"
    monkeypatch.setenv("PROCGROUP_CONTAINER_ENGINE", 'a "b')
    for verb in (("gc",), ("up", path)):
        assert problem.format("ENGINE") in procgroup(*verb, status=1)
    monkeypatch.setenv("PROCGROUP_CONTAINER_ENGINE", "sh")
    monkeypatch.setenv("PROCGROUP_CONTAINER_OPTIONS", 'a "b')
    errors = procgroup("up", path, status=1)
    assert problem.format("OPTIONS") in errors
    assert "Traceback" not in errors


def test_a_state_directory_that_cannot_be_is_explained(state: State, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for verb in (("ps",), ("up", PAIR)):
        errors = procgroup("--state-dir", tmp_path / "file", *verb, status=1)
        assert errors.startswith(f"procgroup: {tmp_path}/file: cannot create the state directory")


def test_paths_that_are_no_utf_8_are_explained(fresh_state: State, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"lat\xfc")
    odd.mkdir()
    blueprint = odd / "group.yaml"
    blueprint.write_text("name: x\nroles: {a: {binary: sh}}\n")
    for verb in (("up", "-d"), ("config",)):
        errors = procgroup(*verb, blueprint, status=1)
        assert errors == f"procgroup: {str(blueprint)!r}: the blueprint's path must be UTF-8\n"
    for rest in (("ps",), ("up", "-d", PAIR)):
        errors = procgroup("--state-dir", odd, *rest, status=1)
        assert errors == f"procgroup: {str(odd)!r}: the state directory's path must be UTF-8\n"


def test_gc_removes_directories_that_no_registry_knows(state: State) -> None:
    stray = state.directory / "groups" / "stray"
    stray.mkdir(parents=True)
    assert procgroup("gc") == "", "a new one may be a launch under way"
    old = time.time() - 3600
    os.utime(stray, (old, old))
    assert procgroup("gc") == f"{stray}: removed (not in the registry)\n"


def test_gc_after_a_reboot(state: State) -> None:
    from procgroup.registry import Owner, Registry

    registry = Registry(state.directory)
    own = Owner.of(os.getpid())
    group, _ = registry.register("old", "x", Owner(own.pid, own.started, "b", own.namespace), [])
    assert procgroup("gc") == f"{group} (old): removed\n"
    registry.close()


def test_state_dir_option(tmp_path: Path, state: State) -> None:
    assert procgroup("--state-dir", tmp_path / "elsewhere", "ps").startswith("GROUP")
    assert (tmp_path / "elsewhere" / "registry.sqlite3").exists()
