"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from procgroup import ProcessGroup

from .conftest import BLUEPRINTS, FULL_PYTEST, PACKAGE, PYTEST, State, Write

PAIR = BLUEPRINTS / "pair.yaml"
RunPytest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_pytest(tmp_path: Path, fresh_state: State, write: Write) -> RunPytest:
    """Run pytest over one test file; the finished process."""

    def run(
        text: str, *arguments: str, program: list[str] = PYTEST
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "pytest.ini").write_text(f"[pytest]\nprocgroup_blueprint = {PAIR}\n")
        write(text, "test_it.py")
        return subprocess.run(
            [*program, "-p", "procgroup.pytest_plugin", "--strict-markers", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

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


def test_failure_shows_the_logs_of_a_detached_group(
    run_pytest: RunPytest, fresh_state: State
) -> None:
    result = run_pytest(
        "def test_stopped(launch_group): launch_group(detach=True).stop()\n"
        "def test_bad(launch_group): assert launch_group(detach=True) is None\n"
        "def test_next(): assert 0\n"
    )
    assert "2 failed, 1 passed" in result.stdout
    assert result.stdout.count("- process group pair ") == 1
    with ProcessGroup.attach("pair") as group:
        assert f"still up: {group.directory}, `procgroup logs -g {group.id}`" in result.stdout
        assert re.search(
            r"queue\.0: ready\n(    .*\n)+worker\.0: ready\n    greeted", result.stdout
        )
        group.stop()
    fresh_state.expect_nothing_left()


@pytest.mark.parametrize(
    ("option", "last"),
    [((), "stopped in good order, so it is not kept"), (("--procgroup-keep",), "still up: ")],
)
def test_failure_at_another_fixtures_end_shows_logs(
    run_pytest: RunPytest, fresh_state: State, option: tuple[str, ...], last: str
) -> None:
    result = run_pytest(
        "import pytest\n"
        "@pytest.fixture\n"
        "def after(group):\n"
        "    yield\n"
        "    assert group is None\n"
        "def test_good(group): pass\n"
        "def test_bad(after): pass\n",
        *option,
    )
    if option:
        ProcessGroup.attach("pair").stop()
    assert "2 passed, 1 error" in result.stdout, result.stdout
    assert result.stdout.count("- process group pair ") == 1
    assert re.search(rf"queue\.0:\n(    .*\n)+worker\.0:\n    greeted .*\n{last}", result.stdout)
    fresh_state.expect_nothing_left()


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@pytest.mark.procgroup('x')\ndef test(group): pass", "not positional arguments"),
        (
            "@pytest.mark.parametrize('group', [3], indirect=True)\ndef test(group): pass",
            "a parameter of `group` takes the keywords blueprint, .*; not 3",
        ),
        (
            "@pytest.mark.parametrize('group', [{'blue': 1}], indirect=True)\n"
            "def test(group): pass",
            "a parameter of `group` takes the keywords blueprint, .*; not blue",
        ),
    ],
)
def test_bad_arguments(run_pytest: RunPytest, text: str, message: str) -> None:
    assert re.search(message, run_pytest(f"import pytest\n{text}\n").stdout)


def test_parametrised_blueprints(run_pytest: RunPytest, fresh_state: State) -> None:
    result = run_pytest(
        "import pytest\n"
        f"OTHER = {str(BLUEPRINTS / 'family.yaml')!r}\n"
        "@pytest.mark.parametrize('group', [OTHER, {'blueprint': OTHER}], indirect=True)\n"
        "def test_blueprint(group):\n"
        "    assert group.name == 'family'\n"
        "@pytest.mark.procgroup(variables={'greeting': 'marked'})\n"
        "@pytest.mark.parametrize('group', [{'overrides': {'name': 'other'}}, "
        "{'variables': {'greeting': 'last'}}], ids=['name', 'variable'], indirect=True)\n"
        "def test_added_to_markers(group, request):\n"
        "    name = 'name' in request.node.name\n"
        "    assert group.name == ('other' if name else 'pair')\n"
        "    assert group.variables['greeting'] == ('marked' if name else 'last')\n",
    )
    assert "4 passed" in result.stdout, result.stdout
    fresh_state.expect_nothing_left()


SCOPES = """\
import pytest
pytestmark = pytest.mark.procgroup(variables={'greeting': 'module'})
seen = []
class TestOne:
    def test_a(self, group): seen.append(group.id); assert group.variables['greeting'] == 'module'
    def test_b(self, group): seen.append(group.id)
class TestTwo:
    def test_c(self, group): seen.append(group.id)
def test_number_of_groups(request):
    scope = request.config.getoption('procgroup_scope') or 'function'
    assert len(set(seen)) == {'function': 3, 'class': 2, 'module': 1}[scope]
"""


@pytest.mark.parametrize("scope", ["function", "class", "module"])
def test_scope_by_choice(run_pytest: RunPytest, fresh_state: State, scope: str) -> None:
    result = run_pytest(SCOPES, "--procgroup-scope", scope)
    assert "4 passed" in result.stdout, result.stdout
    fresh_state.expect_nothing_left()


def test_scope_from_the_configuration(run_pytest: RunPytest, fresh_state: State) -> None:
    text = "seen = set()\n" + "".join(
        f"def test_{name}(group): seen.add(group.id); assert len(seen) == 1\n" for name in "abc"
    )
    result = run_pytest(text, "-o", "procgroup_scope=session")
    assert "3 passed" in result.stdout, result.stdout
    assert "expected one of function" in run_pytest(text, "-o", "procgroup_scope=x").stdout
    fresh_state.expect_nothing_left()


def test_marker_that_comes_too_late_for_a_wider_scope(run_pytest: RunPytest) -> None:
    result = run_pytest(
        "import pytest\n"
        "@pytest.mark.procgroup(variables={'greeting': 'x'})\n"
        "def test_marked(group): pass\n",
        "--procgroup-scope",
        "module",
    )
    assert "must stand on the module, not on test_marked" in result.stdout


def test_failure_in_a_shared_group_keeps_its_directory(
    run_pytest: RunPytest, fresh_state: State
) -> None:
    result = run_pytest(
        "def test_bad(group): assert 0\ndef test_good(group): assert group['worker'].running\n",
        "--procgroup-scope",
        "module",
    )
    assert "1 failed, 1 passed" in result.stdout
    assert "kept: " in result.stdout
    assert len(list((fresh_state.directory / "groups").iterdir())) == 1
    clear(fresh_state)


def test_exception_in_a_fixture_leaves_nothing(run_pytest: RunPytest, fresh_state: State) -> None:
    result = run_pytest(
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken(group):\n    raise RuntimeError\n"
        "@pytest.fixture\n"
        "def broken_end(group):\n    yield\n    raise RuntimeError\n"
        "def test_one(broken): pass\n"
        "def test_two(broken_end): pass\n"
        "def test_three(launch_group):\n    launch_group().close()\n    launch_group()\n"
    )
    assert "2 passed, 2 errors" in result.stdout, result.stdout
    fresh_state.expect_no_process()
    clear(fresh_state)
    fresh_state.expect_nothing_left()


@pytest.mark.parametrize(
    "without", ["terminal", "xdist", "capture", "junitxml", "logging", "skipping", "setuponly"]
)
def test_without_a_plugin_of_pytests(
    run_pytest: RunPytest, fresh_state: State, without: str
) -> None:
    result = run_pytest(
        "def test_x(group): assert group['worker'].running\n",
        *("-p", f"no:{without}"),
        program=FULL_PYTEST,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    fresh_state.expect_nothing_left()


def test_switched_off(tmp_path: Path, fresh_state: State) -> None:
    """As installed, by its entry point, and then as `-p no:procgroup` leaves it."""
    home = tmp_path / "site" / "procgroup-0.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text("Metadata-Version: 2.1\nName: procgroup\nVersion: 0\n")
    (home / "entry_points.txt").write_text("[pytest11]\nprocgroup = procgroup.pytest_plugin\n")
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_plain(): pass\n"
        "def test_group(request):\n"
        "    assert request.config.pluginmanager.has_plugin('procgroup')\n"
    )

    def run(*arguments: str) -> str:
        return subprocess.run(
            [*FULL_PYTEST, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{PACKAGE}{os.pathsep}{home.parent}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        ).stdout  # fmt: skip

    assert "2 passed" in run()
    assert "1 failed, 1 passed" in run("-p", "no:procgroup")


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
