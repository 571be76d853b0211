"""`image:` roles, run for real by whatever container engine works here; skipped where none does.

The image is made on the spot from a static busybox, so no registry is asked. Every test counts the
containers that are left at its end, without help of the code under test.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from procgroup import (
    BlueprintError,
    LaunchError,
    ProcessGroup,
    ProcgroupError,
    containers,
    processes,
    wardens,
)
from procgroup.registry import Owner, Registry

from .conftest import (
    PACKAGE,
    PATIENCE,
    RUNIT_MISSING,
    Launch,
    Launcher,
    State,
    Write,
    expect_free,
    kill_all_that_watch,
    sweep_now,
    wait_until,
)

pytestmark = pytest.mark.together

IMAGE = "localhost/procgroup-test:latest"

BOX = f"""\
name: box
variables: {{greeting: hello}}
roles:
  web:
    image: {IMAGE}
    args: [/bin/busybox, sh, /serve.sh]
    ports: {{http: 8080}}
    configs: {{index.html: index.html.j2, serve.sh: serve.sh.j2}}
    container:
      mounts: {{index.html: /www/index.html, serve.sh: /serve.sh}}
      options: [--hostname, "{{{{ role.name }}}}-host"]
    environment: {{COLOUR: "{{{{ variables.greeting }}}} blue"}}
    ready: {{http: {{port: http, path: /index.html}}}}
    stop_timeout: 5
"""
PAGE = "{{ variables.greeting }} from {{ role.name }}.{{ replica }} at {{ role.address }}\n"
SERVE = """\
bb=/bin/busybox
trap 'echo told to stop; exit 7' TERM
echo "env $PROCGROUP_ROLE.$PROCGROUP_REPLICA $COLOUR on $($bb hostname)"
echo "group file: $($bb grep -c '"id"' "$PROCGROUP_GROUP_FILE")"
$bb httpd -f -p 8080 -h /www &
wait
"""


class Engine:
    """A container engine that runs containers here, with a store of the tests' own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.command = command
        self.environment = environment

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def works(self, image: Path) -> str:
        """The reason why it does not; empty when it does."""
        for arguments in (("import", str(image), IMAGE), ("run", "--rm", IMAGE, "/bin/busybox")):
            try:
                result = self(*arguments)
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
            if result.returncode:
                lines = (result.stderr or result.stdout).strip().splitlines()
                return lines[-1] if lines else f"{arguments[0]} failed"
        return ""

    def left(self) -> list[str]:
        return self("ps", "--all", "--format", "{{.Names}}").stdout.split()


@pytest.fixture(scope="session")
def found_engine() -> Iterator[Engine]:
    """The first engine that works: as a restricted sandbox needs it, or as a person has it."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no container can run: busybox-static is not installed")
    # Not in pytest's own directory: its path is too long for an engine's sockets.
    # An engine may leave a mount in its store, which then cannot be removed.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as scratch_name:
        scratch = Path(scratch_name)
        image = scratch / "image.tar"
        with tarfile.open(image, "w") as archive:
            archive.add(busybox, "bin/busybox")
        limits = scratch / "containers.conf"
        limits.write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        )

        def store(name: str) -> list[str]:
            root, run = str(scratch / name / "root"), str(scratch / name / "run")
            return ["--root", root, "--runroot", run]

        sandboxed = ["--runtime", "runc", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]
        reasons = []
        for command, environment in (
            (["podman", *store("1"), *sandboxed], {"CONTAINERS_CONF": str(limits)}),
            (["podman", *store("2")], {}),
            (["docker"], {}),
        ):
            if shutil.which(command[0]) is None:
                reasons.append(f"{command[0]} is not installed")
                continue
            engine = Engine(command, environment)
            reason = engine.works(image)
            if not reason:
                yield engine
                engine("rmi", "--force", IMAGE)
                return
            reasons.append(f"{command[0]}: {reason[:120]}")
        pytest.skip(f"no container engine runs here ({'; '.join(dict.fromkeys(reasons))})")


@pytest.fixture(
    params=[
        pytest.param(
            "runit", marks=pytest.mark.skipif(RUNIT_MISSING, reason="runit is not installed")
        ),
        "builtin",
    ]
)
def way(request: pytest.FixtureRequest) -> str:
    """An engine's client is never forked from Python: there are only these two."""
    return str(request.param)


@pytest.fixture
def engine(found_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The engine, chosen as a person chooses it for a machine; no container of ours may be left."""
    monkeypatch.setenv("PROCGROUP_CONTAINER_ENGINE", shlex.join(found_engine.command))
    for name, value in found_engine.environment.items():
        monkeypatch.setenv(name, value)
    yield found_engine
    left = [name for name in found_engine.left() if name.startswith("procgroup-")]
    assert left == []


@pytest.fixture
def box(engine: Engine, state: State, write: Write) -> Path:
    return write(BOX, index__html__j2=PAGE, serve__sh__j2=SERVE)


def get(port: int, timeout: float = 5) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=timeout) as answer:
        return str(answer.read().decode())


def test_image_role(engine: Engine, box: Path, launch: Launch, state: State) -> None:
    group = launch(box, variables={"greeting": "salut"})
    web = group["web"]
    assert web.state == "ready"
    assert get(web.port) == f"salut from web.0 at {web.address}\n"
    # An engine passes on what a container prints in its own time.
    wait_until(lambda: "group file: 1\n" in web.log(), "group.json is there, under its own path")
    assert "env web.0 salut blue on web-host\n" in web.log()
    assert web.container == f"procgroup-{group.id}-web-0"
    assert engine.left() == [web.container]
    labels = json.loads(engine("inspect", web.container).stdout)[0]["Config"]["Labels"]
    assert labels["procgroup.group"] == group.id
    assert labels["procgroup.role"] == "web.0"
    group.stop()
    assert engine.left() == []
    expect_free(web.port)
    state.expect_nothing_left()


def test_state_directory_with_any_characters(
    engine: Engine, box: Path, state: State, way: str, tmp_path: Path
) -> None:
    odd = tmp_path / "st'ä:te, \"dir"
    with ProcessGroup.launch(box, state_dir=odd, supervisor=way, timeout=60) as group:
        web = group["web"]
        assert get(web.port) == f"hello from web.0 at {web.address}\n"
        wait_until(lambda: "group file: 1\n" in web.log(), "group.json is there, too")


def test_kill_restarts_on_the_same_port(engine: Engine, box: Path, launch: Launch) -> None:
    group = launch(box)
    web = group["web"]
    before = engine("inspect", "--format", "{{.Id}}", web.container or "").stdout
    web.kill()
    web.wait_ready()
    assert "hello" in get(web.port)
    after = engine("inspect", "--format", "{{.Id}}", web.container or "").stdout
    assert before != after
    assert engine.left() == [web.container]


# A container that is killed ends with 137. podman 4 now and then says 0 of one that `--rm` removes
# just as it has ended.
OBEYED = ("exited with status 7", "exited with status 0")


def test_stop_is_passed_on_and_start_begins_anew(engine: Engine, box: Path, launch: Launch) -> None:
    group = launch(box)
    web = group["web"]
    web.stop()
    assert web.state == "stopped"
    assert web.status()["exit"] in OBEYED, "the container got its stop signal"
    assert "told to stop\n" in web.log()
    assert engine.left() == []
    web.start()
    assert "hello" in get(web.port)


def test_container_that_ignores_its_signal_is_killed(
    engine: Engine, box: Path, launch: Launch
) -> None:
    stubborn = SERVE.replace("trap 'echo told to stop; exit 7' TERM", "trap '' TERM")
    (box.parent / "serve.sh.j2").write_text(stubborn)
    group = launch(box, overrides={"roles": {"web": {"stop_timeout": 0.2}}})
    group["web"].stop()
    assert group["web"].state == "stopped"
    assert engine.left() == []


def test_pause_and_resume(engine: Engine, box: Path, launch: Launch, state: State) -> None:
    group = launch(box)
    web = group["web"]
    for _ in range(2):  # as of any role, also what has no effect
        web.pause()
        assert web.state == "paused"
    with pytest.raises(OSError, match="timed out"):
        get(web.port, timeout=0.2)
    for _ in range(2):
        web.resume()
        assert "hello" in get(web.port)
    web.pause()
    web.stop()
    assert web.status()["exit"] in OBEYED, "a frozen container must wake to obey"
    assert "told to stop\n" in web.log()
    web.pause()
    web.resume()
    assert web.state == "stopped"
    web.start()
    web.pause()
    group.stop()
    state.expect_nothing_left()


def test_replicas_and_a_shared_host_network(
    engine: Engine, box: Path, launch: Launch, write: Write
) -> None:
    """On the host's network a container listens on its leased port itself, as a binary does."""
    group = launch(
        box,
        overrides={
            "roles": {
                "web": {
                    "replicas": 2,
                    "ports": ["http"],
                    "container": {"network": "host", "options": None},
                    "args": [
                        "/bin/busybox", "httpd", "-f", "-h", "/www",
                        "-p", "{{ role.address }}",
                    ],
                }
            }
        },
    )  # fmt: skip
    one, two = group["web"], group["web", 1]
    assert "from web.0" in get(one.port)
    assert "from web.1" in get(two.port)


def test_files_of_the_group_for_any_user_inside(
    engine: Engine, state: State, launch: Launch, write: Write
) -> None:
    script = (
        "cd /bin; ./busybox cat $PROCGROUP_GROUP_FILE {{ configs.note }} > /dev/null"
        " && echo > $PROCGROUP_NOTIFY; exec ./busybox sleep 999"
    )
    path = write(
        f"name: x\nroles:\n  a:\n    image: {IMAGE}\n"
        f"    args: [/bin/busybox, sh, -c, '{script}']\n"
        "    configs: {note: note}\n"
        '    container: {options: [--user, "1000"]}\n'
        "    ready: {notify: true}\n",
        note="",
    )
    wardens.close_all(PATIENCE)  # the next has this umask
    before = os.umask(0o077)
    try:
        group = launch(path)
    finally:
        os.umask(before)
    group["a"].restart()  # with the group.json that its keeper has written meanwhile
    assert group["a"].state == "ready"
    group.stop()
    wardens.close_all(PATIENCE)


def test_launch_failure_shows_what_the_engine_said(
    engine: Engine, box: Path, launch: Launch, state: State
) -> None:
    with pytest.raises(LaunchError) as caught:
        launch(box, overrides={"roles": {"web": {"args": ["/bin/no-such-program"]}}}, timeout=1)
    assert " run --rm --name procgroup-" in str(caught.value)
    assert "no-such-program" in str(caught.value)
    clear(state)


def clear(state: State) -> None:
    from procgroup.registry import Registry
    from procgroup.sweep import sweep

    registry = Registry(state.directory)
    sweep(registry, kept=True)
    registry.close()


StartLauncher = Callable[..., Launcher]


@pytest.mark.parametrize("victim", ["launcher", "warden", "keeper"])
def test_kill_9(
    victim: str, engine: Engine, box: Path, launcher: StartLauncher, state: State
) -> None:
    one = launcher(box)
    assert len(engine.left()) == 1
    pids = {"launcher": one.process.pid, "warden": one.facts["warden"],
            "keeper": one.facts["keeper"]}  # fmt: skip
    os.kill(pids[victim], signal.SIGKILL)
    if victim != "keeper":
        wait_until(lambda: engine.left() == [], "no container is left")
    one.kill()
    wait_until(lambda: engine.left() == [], "no container is left")
    sweep_now(state)
    state.expect_nothing_left()


def test_kill_9_of_all_is_swept_by_the_next_launch(
    engine: Engine, box: Path, launcher: StartLauncher, launch: Launch, state: State
) -> None:
    one = launcher(box)
    kill_all_that_watch(one)
    assert len(engine.left()) == 1
    group = launch(box)
    assert engine.left() == [group["web"].container]
    group.stop()
    state.expect_nothing_left()


def test_gc_removes_containers_that_no_registry_knows(
    engine: Engine, box: Path, launch: Launch, state: State
) -> None:
    group = launch(box)
    labels = [f"{containers.STATE_LABEL}={state.directory}", f"{containers.GROUP_LABEL}=lost"]
    result = engine(
        "run", "--detach", "--name", "procgroup-lost-web-0", "--label", labels[0],
        "--label", labels[1], IMAGE, "/bin/busybox", "sleep", "999",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    output = subprocess.run(
        [sys.executable, "-m", "procgroup", "gc"],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True, text=True, check=True, timeout=180,
    ).stdout  # fmt: skip
    assert output == "procgroup-lost-web-0: removed (a container that is not in the registry)\n"
    assert engine.left() == [group["web"].container]


# -- without an engine ----------------------------------------------------------------------------


def program(directory: Path, name: str, script: str = "exit 0") -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def path_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "path"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("PROCGROUP_CONTAINER_ENGINE", raising=False)
    monkeypatch.delenv("PROCGROUP_CONTAINER_OPTIONS", raising=False)
    return directory


def test_engine_found_on_path(
    path_directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="no container engine: install docker or podman"):
        containers.find_engine()
    podman = program(path_directory, "podman")
    assert containers.find_engine() == [str(podman)]
    monkeypatch.setattr(containers, "_found", {})
    docker = program(path_directory, "docker")
    assert containers.find_engine() == [str(docker)], "its daemon answers"
    monkeypatch.setattr(containers, "_found", {})
    program(path_directory, "docker", "exit 1")
    assert containers.find_engine() == [str(podman)], "no daemon behind it"
    monkeypatch.setattr(containers, "_found", {})
    docker.write_text("")
    assert containers.find_engine() == [str(podman)], "no program at all"
    program(path_directory, "docker")
    assert containers.find_engine(["docker", "--debug"]) == [str(docker), "--debug"]
    monkeypatch.setenv("PROCGROUP_CONTAINER_ENGINE", f"{podman} --runtime 'a b'")
    assert containers.find_engine(["docker"]) == [str(podman), "--runtime", "a b"]
    monkeypatch.setenv("PROCGROUP_CONTAINER_ENGINE", "nope")
    with pytest.raises(Exception, match="there is no container engine 'nope'"):
        containers.find_engine()


def test_only_a_container_lets_other_users_in(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask, and whatever the mode of a state directory that was there before."""
    monkeypatch.setenv("PROCGROUP_CONTAINER_ENGINE", "true")
    tmp_path.joinpath("state", "groups").mkdir(mode=0o755, parents=True)

    def modes(program: str) -> dict[str, str]:
        text = f"name: x\nroles: {{a: {{{program}, configs: {{c: c}}, ready: {{notify: true}}}}}}\n"
        build(write(text, f"{program[:5]}.yaml", c=""), tmp_path, program[:5])
        group = tmp_path / "state" / "groups" / program[:5]
        paths = (group.parent, group, group / "group.json",
                 *(group / "a.0" / each for each in ("", "c", "notify", "run")))  # fmt: skip
        return {path.name: f"{path.stat().st_mode & 0o777:o}" for path in paths}

    before = os.umask(0o077)
    try:
        inside, outside = modes("image: i"), modes("binary: sh")
    finally:
        os.umask(before)
    assert inside == {
        "groups": "700", "image": "755", "group.json": "644",
        "a.0": "755", "c": "644", "notify": "622", "run": "700",
    }  # fmt: skip
    assert outside == {
        "groups": "700", "binar": "700", "group.json": "600",
        "a.0": "700", "c": "600", "notify": "600", "run": "700",
    }  # fmt: skip


def build(path: Path, tmp_path: Path, group: str) -> None:
    """A group's directory, written as a launch would."""
    from procgroup.blueprint import load
    from procgroup.launching import Builder

    Builder(load(path), group, tmp_path / "state", [], "builtin", {}).build(detach=False, timeout=1)


def test_missing_engine_is_the_blueprints_error(
    path_directory: Path, fresh_state: State, write: Write
) -> None:
    path = write(BOX, index__html__j2=PAGE, serve__sh__j2=SERVE)
    with pytest.raises(BlueprintError, match=r"group.yaml:5: roles.web.image: no container engine"):
        ProcessGroup.launch(path, supervisor="builtin")


def test_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCGROUP_CONTAINER_OPTIONS", "--memory '1 g'")
    run = functools.partial(
        containers.run_command,
        ["/bin/docker", "-D"], name="n", labels={"l": "v"}, ports=[("127.0.0.1", 20000, 80)],
        volumes=[("/a", "/b", False), ('/c,"d: ä', "/c", True)], environment={"E": "x y"},
        options=["--init"], image="i", args=["a", "b"],
    )  # fmt: skip
    assert run(network="published") == [
        "/bin/docker", "-D", "run", "--rm", "--name", "n", "--label", "l=v",
        "--publish", "127.0.0.1:20000:80",
        "--mount", "type=bind,source=/a,destination=/b,readonly",
        "--mount", 'type=bind,"source=/c,""d: ä",destination=/c',
        "--env", "E=x y", "--memory", "1 g", "--init", "i", "a", "b",
    ]  # fmt: skip
    assert "--network" in run(network="host")
    assert containers.remove_command(["/bin/docker"], "n") == [
        "/bin/docker", "rm", "--force", "--volumes", "n",
    ]  # fmt: skip
    assert "--ignore" in containers.remove_command(["/bin/podman"], "n")


@pytest.fixture
def strays(
    path_directory: Path, fresh_state: State, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Registry, Callable[..., None]]]:
    """A registry, and the engine to be: which groups have containers, what removing does."""
    registry = Registry(fresh_state.directory)

    def engine(*groups: str, meanwhile: Callable[[], object] = bool, removing: str = ":") -> None:
        names = " ".join(f"procgroup-{group}-web-0" for group in groups)
        path = program(
            path_directory, "docker", f'case $1 in ps) echo "{names}";; rm) {removing};; esac'
        )
        monkeypatch.setattr(containers, "_found", {os.environ["PATH"]: [str(path)]})
        ask = containers._ask

        def asked(command: list[str]) -> subprocess.CompletedProcess[str]:
            meanwhile()
            return ask(command)

        monkeypatch.setattr(containers, "_ask", asked)

    yield registry, engine
    registry.close()


Strays = tuple[Registry, Callable[..., None]]


def test_containers_of_a_group_that_is_launched_meanwhile_are_spared(
    strays: Strays, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, engine = strays
    monkeypatch.setattr("procgroup.registry._new_id", lambda: "fresh")

    def launched() -> None:
        if not registry.groups():
            registry.register("x", "x.yaml", Owner.of(os.getpid()), [])

    engine("fresh", "lost", meanwhile=launched)
    assert containers.remove_strays(registry) == ["procgroup-lost-web-0"]
    registry.release("fresh")


def test_containers_of_a_live_group_that_the_registry_has_lost_are_spared(
    strays: Strays,
) -> None:
    registry, engine = strays
    directory = registry.state_dir / "groups" / "alive"
    directory.mkdir(parents=True)
    keeper = {"pid": os.getpid(), "started": processes.started(os.getpid())}
    (directory / "group.json").write_text(json.dumps({"format": 1, "keeper": keeper}))
    engine("alive", "lost")
    assert containers.remove_strays(registry) == ["procgroup-lost-web-0"]
    shutil.rmtree(directory)


def test_an_engine_that_does_not_remove_is_reported(strays: Strays) -> None:
    registry, engine = strays
    engine("lost", removing="echo no >&2; exit 1")
    with pytest.raises(ProcgroupError, match=r"docker rm .* procgroup-lost-web-0: no"):
        containers.remove_strays(registry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image: a\n    ports: [http]",
            r"roles.a.ports: expected a mapping of port names to ports",
        ),
        ("image: a\n    ports: {http: 0}", r"group.yaml:5: roles.a.ports.http: expected a port in"),
        ("image: a\n    container: {network: host}\n    ports: {x: 1}", "expected a list of port"),
        ("binary: a\n    ports: {x: 1}", "roles.a.ports: expected a list of port names"),
        ("binary: a\n    container: {}", "roles.a.container: expected only in a role with `image`"),
        ("image: a\n    working_directory: /", "roles.a.working_directory: expected none for an"),
        ("image: a\n    container: {mounts: {x: /x}}", "mounts.x: expected the name of one of"),
        (
            "image: a\n    configs: {x: }\n    container: {mounts: {x: /x}}",
            "group.yaml:6: roles.a.container.mounts.x: expected the name of one of",
        ),
        ('image: a\n    container: {engine: "\'"}', "container.engine: expected a command"),
        ("image: a\n    container: {network: x}", "expected published or host, not 'x'"),
        ("image: a\n    binary: b", r"not binary and image \(.*group.yaml:5, .*group.yaml:4\)"),
        (
            "image: a\n    configs: {x: t}\n    container: {mounts: {x: y}}",
            "mounts.x: expected an absolute path in the container",
        ),
    ],
)
def test_mistakes(write: Write, text: str, message: str) -> None:
    from procgroup.blueprint import load

    with pytest.raises(BlueprintError, match=message):
        load(write(f"name: x\nroles:\n  a:\n    {text}\n"))
