"""Roles forked from an interpreter that has their modules in memory: as `python -m`, only sooner."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from procgroup import ProcessGroup, processes, wardens

from .conftest import PACKAGE, PROGRAMS, State, Write, alive, wait_until, warmed

pytestmark = pytest.mark.skipif(not processes.LINUX, reason="Linux only")


def blueprint(module: str, *arguments: str, preload: str = "[json]", more: str = "") -> str:
    return (
        f"name: one\nroles:\n  a:\n    python: {module}\n    args: {json.dumps(arguments)}\n"
        f"    environment: {json.dumps({'COLOUR': 'blue'})}\n"
        f"    preload: {preload}\n{more}"
    )


@pytest.fixture
def modules(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the path of every role."""
    place = tmp_path / "modules"
    place.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (place, PROGRAMS, PACKAGE))))
    yield place
    wardens.close_all(10.0)  # of the environment and the modules of this test alone


def how(group: ProcessGroup) -> str:
    document = json.loads(group.file.read_text())
    return str(document["roles"]["a"]["supervisor"])


def launched_cold_and_warm(path: Path, **arguments: Any) -> Iterator[ProcessGroup]:
    """The same group started with a new interpreter, then forked."""
    with ProcessGroup.launch(path, supervisor="builtin", **arguments) as group:
        assert how(group) == "builtin"
        yield group
    warmed(path)
    with ProcessGroup.launch(path, supervisor="builtin", **arguments) as group:
        assert how(group) == "forked"
        yield group


def test_a_module_cannot_tell_the_difference(modules: Path, write: Write) -> None:
    path = write(blueprint("as_module", "x", "y z", more="    ready: {notify: true}\n"))
    facts = []
    for group in launched_cold_and_warm(path):
        role = group["a"]
        text = (role.directory / "facts.json").read_text().replace(group.id, "ID")
        facts.append(json.loads(text))
        role.signal(signal.SIGTERM)
        wait_until(lambda: group["a"].status()["restarts"] == 1, "restarted")  # noqa: B023
        assert role.status()["exit"] == "killed by SIGTERM"
        role.wait_ready()
    cold, warm = facts
    # All that a fork has below runpy: the command, the main function, the one that becomes a role.
    assert warm.pop("frames") == cold.pop("frames") + 3
    for fact in cold:
        assert warm[fact] == cold[fact], fact
    assert cold["main"]
    assert cold["argv"][1:] == ["x", "y z"]


def test_forks_are_seeded_apart(modules: Path, write: Write) -> None:
    path = write(
        blueprint(
            "as_module", preload="[random]", more="    replicas: 2\n    ready: {notify: true}\n"
        )
    )
    warmed(path)
    with ProcessGroup.launch(path, supervisor="builtin") as group:
        assert how(group) == "forked"
        drawn = {(role.directory / "random").read_text() for role in group["a"].replicas}
        assert len(drawn) == 2


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("return", "exited with status 0"),
        ("status", "exited with status 3"),
        ("text", "exited with status 1"),
        ("exception", "exited with status 1"),
        ("syntax", "exited with status 1"),
        ("interrupt", "killed by SIGINT"),
        ("terminate", "killed by SIGTERM"),
        ("thread", "exited with status 0"),
    ],
)
def test_ends_as_any_interpreter_does(
    modules: Path, write: Write, ending: str, status: str
) -> None:
    path = write(blueprint("ending", ending))
    logs = []
    for group in launched_cold_and_warm(path):
        incarnations = wait_until(lambda: group["a"].log().split("on its way\n")[1:][:-1], "again")  # noqa: B023
        logs.append(incarnations[0])
        assert group["a"].status()["exit"] == status
    cold, warm = logs
    assert warm == cold
    assert ("exit function" in cold) == (ending != "terminate")
    assert ("the thread was waited for" in cold) == (ending == "thread")


def test_a_module_that_is_not_there(modules: Path, write: Write) -> None:
    path = write(blueprint("no_such_module"))
    logs = []
    for group in launched_cold_and_warm(path):
        logs.append(wait_until(lambda: group["a"].log().splitlines()[:1], "it says so"))  # noqa: B023
    assert logs[0] == logs[1]
    assert "No module named no_such_module" in logs[0][0]


SAY = "import library, signal\nprint(f'says {library.VALUE}', flush=True)\nsignal.pause()\n"


def said(group: ProcessGroup) -> str:
    return group["a"].log().split()[1]


def test_a_changed_file_is_never_run_stale(modules: Path, write: Write) -> None:
    (modules / "library.py").write_text("VALUE = 1\n")
    (modules / "say.py").write_text(SAY)
    path = write(blueprint("say", preload="[library]", more="    ready: {log: says}\n"))
    for value in (1, 2):
        (modules / "library.py").write_text(f"VALUE = {value}\n# {'x' * value}\n")
        for group in launched_cold_and_warm(path):
            assert said(group) == str(value)


def test_the_second_launch_forks_the_first_does_not_wait(modules: Path, write: Write) -> None:
    slow = (
        "import pathlib, time\n"
        "while not pathlib.Path(__file__).with_name('go').exists(): time.sleep(0.01)\n"
    )
    (modules / "library.py").write_text(slow)
    (modules / "say.py").write_text("import signal\nprint('says 1', flush=True)\nsignal.pause()\n")
    path = write(blueprint("say", preload="[library]", more="    ready: {log: says}\n"))

    def way_now() -> str:
        with ProcessGroup.launch(path, supervisor="builtin") as group:
            return how(group)

    assert [way_now(), way_now()] == ["builtin", "builtin"]
    (modules / "go").touch()
    wait_until(lambda: way_now() == "forked", "a launch forks")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("raise OSError('not today')", "library: OSError: not today"),
        ("import sys; sys.exit(1)", "library: SystemExit: 1"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
            "library: it starts threads",
        ),
        ("import os\nFILE = os.open('/dev/zero', 0)", "library: it opens /dev/zero"),
    ],
)
def test_what_cannot_be_preloaded_is_named_and_does_no_harm(
    modules: Path,
    write: Write,
    capfd: pytest.CaptureFixture[str],
    source: str,
    complaint: str,
) -> None:
    (modules / "library.py").write_text(source)
    (modules / "say.py").write_text("import signal\nprint('says 1', flush=True)\nsignal.pause()\n")
    path = write(blueprint("say", preload="[library]", more="    ready: {log: says}\n"))
    warmed(path)
    for _ in range(3):
        with ProcessGroup.launch(path, supervisor="builtin") as group:
            assert how(group) == "builtin"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"procgroup: cannot preload: {complaint}")
    assert line.endswith("roles start without it")


def test_an_environment_that_only_a_new_interpreter_takes(modules: Path, write: Write) -> None:
    path = write(blueprint("as_module", more="    ready: {notify: true}\n"))
    warmed(path)
    change = {"roles": {"a": {"environment": {"PYTHONHASHSEED": "1"}}}}
    with ProcessGroup.launch(path, supervisor="builtin", overrides=change) as group:
        assert how(group) == "builtin"


def test_a_module_of_the_same_name_before_the_preloaded_one(modules: Path, write: Write) -> None:
    for place, value in ((modules, "far"), (modules / "near", "near")):
        place.mkdir(exist_ok=True)
        (place / "library.py").write_text(f"VALUE = {value!r}\n")
    (modules / "say.py").write_text(SAY)
    path = write(blueprint("say", preload="[library]", more="    ready: {log: says}\n"))
    warmed(path)
    near = {"PYTHONPATH": f"{modules / 'near'}:{modules}"}
    change = {"roles": {"a": {"environment": near}}}
    with ProcessGroup.launch(path, supervisor="builtin", overrides=change) as group:
        assert (how(group), said(group)) == ("builtin", "near")
    with ProcessGroup.launch(path, supervisor="builtin") as group:
        assert (how(group), said(group)) == ("forked", "far")


def test_a_path_of_the_roles_own(modules: Path, write: Write) -> None:
    (modules / "far").mkdir()
    (modules / "far" / "library.py").write_text("VALUE = 'own'\n")
    (modules / "say.py").write_text(SAY)
    path = write(blueprint("say", more="    ready: {log: says}\n"))
    own = {"PYTHONPATH": f"{modules / 'far'}:{modules}"}
    change = {"roles": {"a": {"environment": own}}}
    for group in launched_cold_and_warm(path, overrides=change):
        assert said(group) == "own"


def test_runit_by_name_runs_everything_under_runsv(
    modules: Path, write: Write, runit: None
) -> None:
    path = write(blueprint("as_module", more="    ready: {notify: true}\n"))
    warmed(path)
    with ProcessGroup.launch(path, supervisor="runit") as group:
        assert how(group) == "runit"
    with ProcessGroup.launch(path) as group:
        assert group.supervisor == "runit"
        assert how(group) == "forked"


def test_wardens_that_nobody_needs_any_more_end(modules: Path, write: Write, state: State) -> None:
    (modules / "library.py").write_text("VALUE = 0\n")
    (modules / "say.py").write_text(SAY)
    path = write(blueprint("say", preload="[library]", more="    ready: {log: says}\n"))
    first = warmed(path)
    with ProcessGroup.launch(path, supervisor="builtin") as group:
        (modules / "library.py").write_text("VALUE = 10\n")
        second = warmed(path)
        assert first is not second
        assert said(group) == "0"
        assert alive(first.process.pid), "the group that it has still lives"
    wait_until(lambda: not first.alive(), "the old one has ended")
    assert second.alive()


def test_a_plain_warden_ends_when_many_launches_have_done_without(
    modules: Path, write: Write, state: State
) -> None:
    path = write(blueprint("as_module"))
    other = write("name: other\nroles:\n  a: {binary: sleep, args: ['1000']}\n", "other.yaml")

    def launch_warm(times: int) -> None:
        for _ in range(times):
            with ProcessGroup.launch(path, supervisor="builtin") as group:
                assert how(group) == "forked"

    first = ProcessGroup.launch(path, supervisor="builtin")
    plain = wardens._plain[state.directory]
    warmed(path)
    launch_warm(wardens.SPARE)
    assert wardens._plain[state.directory] is plain, "it has a group"
    first.stop()
    ProcessGroup.launch(other, supervisor="builtin").stop()
    launch_warm(wardens.SPARE - 1)
    assert wardens._plain[state.directory] is plain, "it was of use meanwhile"
    launch_warm(1)
    assert state.directory not in wardens._plain
    wait_until(lambda: not plain.alive(), "the plain one has ended")
    launch_warm(1)
    assert state.directory not in wardens._plain
    with ProcessGroup.launch(other, supervisor="builtin"):
        assert wardens._plain[state.directory].alive()


def test_a_retired_warden_leaves_what_its_launcher_may_be_removing(
    modules: Path, write: Write, fresh_state: State
) -> None:
    path = write("name: other\nroles:\n  a: {binary: sleep, args: ['1000']}\n")
    with ProcessGroup.launch(path, supervisor="builtin") as group:
        plain = wardens._plain.pop(fresh_state.directory)
        wardens._retire(plain)
        os.kill(json.loads(group.file.read_text())["keeper"]["pid"], signal.SIGKILL)
        wait_until(lambda: not plain.alive(), "it had no other group")
        assert group.directory.exists(), "its launcher lives, whose registry and groups these are"
    assert not group.directory.exists()


def test_a_warden_brings_no_removed_state_directory_back(
    modules: Path, write: Write, fresh_state: State
) -> None:
    path = write("name: other\nroles:\n  a: {binary: sleep, args: ['1000']}\n")
    code = (
        "import os; from procgroup import ProcessGroup, wardens\n"
        f"group = ProcessGroup.launch({str(path)!r}, supervisor='builtin', detach=True)\n"
        "(plain,) = wardens._plain.values()\n"
        "print(group.id, plain.process.pid)\n"
        "wardens._retire(wardens._plain.pop(group.state_dir))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    identifier, warden = said.stdout.split()
    ProcessGroup.attach(identifier).stop()
    shutil.rmtree(fresh_state.directory)
    wait_until(lambda: not alive(int(warden)), "it had no other group")
    assert not fresh_state.directory.exists()


@pytest.mark.parametrize("kind", ["plain", "warm"])
def test_a_launch_after_kill_9_of_the_warden(
    modules: Path, write: Write, state: State, kind: str
) -> None:
    path = write(blueprint("as_module"))
    ProcessGroup.launch(path, supervisor="builtin").stop()
    for _ in range(5):
        if kind == "plain":
            wardens.close_all(10.0)
            warden = wardens.prepare(state.directory)
        else:
            warden = warmed(path)
        os.kill(warden.process.pid, signal.SIGKILL)
        ProcessGroup.launch(path, supervisor="builtin").stop()


def test_a_warden_that_gets_ready_while_it_is_asked_is_kept(
    modules: Path, write: Write, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProcessGroup.launch(write(blueprint("as_module")), supervisor="builtin"):
        ((key, warden),) = wardens._warm.items()
        wait_until(warden.ready, "it is ready")
        answers = iter([False, True])
        monkeypatch.setattr(warden, "ready", lambda: next(answers))
        assert wardens._usable(*key) is None
        assert wardens._usable(*key) is warden


def test_a_warden_that_is_still_importing_ends_with_its_launcher(
    modules: Path, write: Write, state: State
) -> None:
    (modules / "library.py").write_text("import time\ntime.sleep(1000)\n")
    path = write(blueprint("say", preload="[library]", more="    ready: {log: says}\n"))
    wardens.warm_up(state.directory, ("library",))
    (warden,) = wardens._warm.values()
    assert path.exists()
    wardens.close_all(10.0)
    assert not alive(warden.process.pid)
