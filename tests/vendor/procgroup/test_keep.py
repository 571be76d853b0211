"""`--procgroup-keep`: groups that stay up between test runs, taken up again while they fit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from procgroup import ProcessGroup
from procgroup.keeping import acquire
from procgroup.registry import Registry

from .conftest import BLUEPRINTS, GATED, PACKAGE, PYTEST, Gated, State, alive, wait_until

PAIR = BLUEPRINTS / "pair.yaml"
# What each test saw, as a line of JSON.
TEST = """\
import json, os, pathlib
def test_it(group):
    facts = {"id": group.id, "queue": group["queue"].pid, "worker": group["worker"].pid}
    with open(pathlib.Path(__file__).with_name("seen"), "a") as seen:
        print(json.dumps(facts), file=seen)
"""

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def kept_state(fresh_state: State) -> Iterator[State]:
    yield fresh_state
    procgroup("gc", "--all")


@pytest.fixture
def blueprint(tmp_path: Path) -> Path:
    """A copy of the pair, to be changed."""
    path = tmp_path / "pair.yaml"
    text = PAIR.read_text().replace("{{ blueprint.directory }}", str(BLUEPRINTS))
    path.write_text(text)
    (tmp_path / "redis.conf.j2").write_text((BLUEPRINTS / "redis.conf.j2").read_text())
    return path


def procgroup(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "procgroup", *arguments],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True, text=True, check=True, timeout=180,
    ).stdout  # fmt: skip


class Runs:
    """pytest runs over TEST in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = ""
        (directory / "test_it.py").write_text(TEST)
        (directory / "pytest.ini").write_text("[pytest]\nprocgroup_blueprint = pair.yaml\n")

    def __call__(self, *arguments: str) -> list[dict[str, Any]]:
        """Run once, with the option unless arguments say otherwise; what the tests saw."""
        seen = self.directory / "seen"
        seen.unlink(missing_ok=True)
        result = subprocess.run(
            [*PYTEST, "-p", "procgroup.pytest_plugin", *(arguments or ("--procgroup-keep",))],
            cwd=self.directory,
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        self.output = result.stdout
        return [json.loads(line) for line in seen.read_text().splitlines()] if seen.exists() else []


@pytest.fixture
def run(tmp_path: Path, kept_state: State, blueprint: Path) -> Runs:
    return Runs(tmp_path)


def test_the_next_run_takes_the_group_up_again(run: Runs, kept_state: State) -> None:
    (first,) = run()
    assert "1 passed" in run.output
    assert f"pair {first['id']}: procgroup down -g {first['id']}\n" in run.output
    assert "all of them: procgroup gc --all\n" in run.output
    assert alive(first["queue"])
    assert re.search(rf"{first['id']} .* pytest --procgroup-keep .* 2 ready", procgroup("ps"))
    (second,) = run()
    assert (second["id"], second["queue"]) == (first["id"], first["queue"])
    assert second["worker"] != first["worker"], "its code may have changed"
    (without,) = run("-q")
    assert without["id"] != first["id"]
    assert alive(first["queue"]), "a run without the option leaves it alone"
    assert procgroup("down", "-g", first["id"]) == f"{first['id']} (pair): stopped\n"
    kept_state.expect_nothing_left()
    (third,) = run()
    assert third["id"] != first["id"]


@pytest.mark.parametrize("change", ["blueprint", "template", "variable", "environment"])
def test_what_has_changed_is_replaced(
    kept_state: State, blueprint: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with blueprint.open("a") as file:
        file.write("    graceful: false\n")
    template = blueprint.with_name("redis.conf.j2")
    template.write_text(template.read_text() + "\n# {{ environment.get('KEEP_TEST') }}\n")
    first = acquire(blueprint)
    first.release()
    if change == "blueprint":
        blueprint.write_text(blueprint.read_text().replace("graceful: false", "graceful: true"))
    elif change == "template":
        template.write_text(template.read_text() + "maxclients 50\n")
    elif change == "variable":
        blueprint.write_text(blueprint.read_text().replace("greeting: hello", "greeting: moin"))
    else:
        monkeypatch.setenv("KEEP_TEST", "changed")
    second = acquire(blueprint)
    assert not second.reused
    assert second.replaced == [first.group.id]
    assert procgroup("ps", "-q") == f"{second.group.id}\n", "the outdated one is gone"
    second.release()


def test_other_variables_of_a_test_leave_the_former_group_up(
    kept_state: State, blueprint: Path
) -> None:
    """Who wants the former ones again, as another test may, finds it."""
    former = acquire(blueprint, variables={"greeting": "moin"})
    former.release()
    changed = acquire(blueprint, variables={"greeting": "servus"})
    assert changed.replaced == []
    again = acquire(blueprint, variables={"greeting": "moin"})
    assert again.reused
    assert again.group.id == former.group.id != changed.group.id
    again.release()
    changed.release()


def test_each_purpose_and_each_worker_has_its_own(run: Runs, kept_state: State) -> None:
    (run.directory / "test_it.py").write_text(
        TEST + "import pytest\n"
        "@pytest.mark.procgroup(variables={'greeting': 'x'})\n"
        "def test_marked(group): test_it(group)\n"
        "def test_again(group): test_it(group)\n"
    )
    first = run()
    ids = [facts["id"] for facts in first]
    assert len(ids) == 3
    assert len(set(ids)) == 2, "tests of one worker that want the same share it"
    both = run("--procgroup-keep", "-n", "2", "--dist", "each")
    assert len(both) == 6
    assert len({facts["id"] for facts in both} - set(ids)) == 4


@pytest.mark.parametrize("xdist", [(), ("-n", "1")])
def test_one_in_a_state_directory_of_its_own_is_named(
    run: Runs, kept_state: State, tmp_path: Path, xdist: tuple[str, ...]
) -> None:
    other = tmp_path / "other state"
    mark = f"import pytest\n@pytest.mark.procgroup(state_dir={str(other)!r})\ndef"
    (run.directory / "test_it.py").write_text(TEST.replace("def", mark))
    try:
        ((first,), (second,)) = run("--procgroup-keep", *xdist), run("--procgroup-keep", *xdist)
        assert second["id"] == first["id"]
        command = f"procgroup --state-dir '{other}'"
        assert f"pair {first['id']}: {command} down -g {first['id']}\n" in run.output
        assert f"all of them: {command} gc --all\n" in run.output
        assert "all of them: procgroup gc --all\n" not in run.output
    finally:
        ended = procgroup("--state-dir", str(other), "gc", "--all")
    assert ended == f"{first['id']} (pair): stopped\n"
    assert not kept_state.directory.exists(), "nothing was looked for, or made, elsewhere"


@pytest.mark.parametrize("keep", [(), ("--procgroup-keep",)])
def test_a_launch_takes_the_same_with_the_option_and_without(
    run: Runs, keep: tuple[str, ...]
) -> None:
    (run.directory / "test_it.py").write_text(
        "import pytest\n"
        "def test_it(launch_group):\n"
        "    launch_group(detach=False)\n"
        "    launch_group(again=False, supervisor='builtin', timeout=60.0)\n"
        "    group = launch_group('pair.yaml', {'greeting': 'x'}, {'roles': {'worker': {'replicas': 2}}})\n"
        "    assert (group.variables['greeting'], len(group['worker'].replicas)) == ('x', 2)\n"
        "    with pytest.raises(TypeError, match=\"unexpected keyword argument 'nope'\"):\n"
        "        launch_group(nope=1)\n"
    )
    run(*(keep or ("-q",)))
    assert "1 passed" in run.output, run.output


def test_a_failing_test_leaves_it_up_and_says_how_to_look(run: Runs) -> None:
    (run.directory / "test_it.py").write_text(TEST + "    assert 0\n")
    (first,) = run()
    assert "worker.0: ready\n    greeted" in run.output
    assert f"`procgroup logs -g {first['id']}`" in run.output
    assert "kept: " not in run.output
    (second,) = run()
    assert second["id"] == first["id"]


def test_gc_all_ends_it_and_gc_alone_does_not(run: Runs, kept_state: State) -> None:
    (first,) = run()
    assert procgroup("gc") == ""
    assert procgroup("gc", "--all") == f"{first['id']} (pair): stopped\n"
    kept_state.expect_nothing_left()


def test_one_in_use_is_never_shared(kept_state: State, blueprint: Path) -> None:
    one = acquire(blueprint)
    two = acquire(blueprint)
    assert one.group.id != two.group.id
    one.release()
    again = acquire(blueprint)
    assert again.reused
    assert again.group.id == one.group.id
    again.release()
    two.release()


def test_what_a_test_broke_is_mended(kept_state: State, blueprint: Path) -> None:
    extra = {"roles": {"spare": {"binary": "sleep", "args": ["999"], "autostart": False}}}
    one = acquire(blueprint, overrides=extra)
    one.group["queue"].stop()
    one.group["worker"].pause()
    one.group["spare"].start()
    one.release()
    two = acquire(blueprint, overrides=extra)
    assert two.reused
    states = {role.label: role.state for role in two.group.all_roles()}
    assert states == {"queue.0": "ready", "worker.0": "ready", "spare.0": "stopped"}
    assert two.group["worker"].log().count("greeted") == 1, "its log has begun anew"
    two.release()


def test_one_that_died_meanwhile_is_launched_anew(kept_state: State, blueprint: Path) -> None:
    one = acquire(blueprint)
    keeper = json.loads(one.group.file.read_text())["keeper"]["pid"]
    one.release()
    os.kill(keeper, 9)
    wait_until(lambda: not alive(keeper), "it is dead")
    two = acquire(blueprint)
    assert not two.reused
    two.release()
    registry = Registry(kept_state.directory)
    assert [row.id for row in registry.groups()] == [two.group.id]
    registry.close()


@pytest.mark.parametrize("mark", ["garbage", "[]", "\x00"])
def test_one_whose_mark_is_damaged_is_left_alone(
    kept_state: State, blueprint: Path, mark: str
) -> None:
    one = acquire(blueprint)
    one.release()
    (one.group.directory / "kept_by_pytest.json").write_text(mark)
    two = acquire(blueprint)
    assert (two.reused, two.replaced) == (False, [])
    two.release()
    assert {*procgroup("ps", "-q").split()} == {one.group.id, two.group.id}


def test_one_that_another_takes_down_meanwhile_is_launched_anew(
    kept_state: State, blueprint: Path
) -> None:
    one = acquire(blueprint)
    one.release()
    one.group.file.rename(one.group.file.with_suffix(".away"))
    two = acquire(blueprint)
    assert not two.reused
    one.group.file.with_suffix(".away").rename(one.group.file)
    two.release()


def test_attaching_elsewhere_is_possible(kept_state: State, blueprint: Path) -> None:
    one = acquire(blueprint)
    with ProcessGroup.attach(one.group.id) as other:
        assert other["worker"].running
    one.release()


KEPT_RUN = [*PYTEST, "-p", "procgroup.pytest_plugin", "--procgroup-keep"]


@pytest.fixture
def gated(tmp_path: Path, kept_state: State) -> Gated:
    """A kept group that a run of pytest has launched, and that is not ready."""
    (tmp_path / "gated.yaml").write_text(GATED)
    (tmp_path / "pytest.ini").write_text("[pytest]\nprocgroup_blueprint = gated.yaml\n")
    (tmp_path / "test_it.py").write_text("def test_it(group): pass\n")
    return Gated(kept_state.directory, KEPT_RUN, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_one_whose_run_is_killed_before_it_is_ready_is_gone(
    gated: Gated, kept_state: State, number: signal.Signals
) -> None:
    assert procgroup("gc", "--all") == "", "it is not there to be taken away from its run"
    gated.end(number)
    kept_state.expect_nothing_left()


def test_one_whose_run_is_killed_when_it_is_ready_is_known(gated: Gated, kept_state: State) -> None:
    gated.get_ready_unheard_and_die()
    again = acquire(gated.directory.parents[2] / "gated.yaml")
    assert (again.group.id, again.reused) == (gated.directory.name, True)
    again.release()
    assert procgroup("gc", "--all") == f"{gated.directory.name} (gated): stopped\n"
    kept_state.expect_nothing_left()
