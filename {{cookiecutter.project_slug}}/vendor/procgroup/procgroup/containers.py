"""Container engines: the commands that run, freeze and remove the container of an `image:` role.

The engine's client runs in the foreground, so that a keeper supervises it as it does any binary:
its output is the container's, it passes signals on, it ends when the container ends. But a killed
client leaves the container behind, below another process or a daemon. So every container has a
name and labels of its own, and is removed by them whenever its client has ended.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess

from procgroup.errors import ProcgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from procgroup.registry import Registry

GROUP_LABEL = "procgroup.group"
ROLE_LABEL = "procgroup.role"
STATE_LABEL = "procgroup.state"
_ASK = 20.0  # seconds that an engine may take to answer a question

_found: dict[str | None, list[str]] = {}


def find_engine(wanted: Sequence[str] = ()) -> list[str]:
    """The command of a container engine, its own options included.

    $PROCGROUP_CONTAINER_ENGINE (words, quoted as in a shell) describes this machine and comes
    first, then what the blueprint wants, then docker or podman from PATH; where both are installed,
    podman if no Docker daemon answers. Raises ProcgroupError when there is none.
    """
    command = _words("PROCGROUP_CONTAINER_ENGINE") or list(wanted)
    if command:
        program = shutil.which(os.path.expanduser(command[0]))
        if program is None:
            raise ProcgroupError(f"there is no container engine {command[0]!r}")
        return [os.path.abspath(program), *command[1:]]
    path = os.environ.get("PATH")
    if path not in _found:
        docker, podman = shutil.which("docker"), shutil.which("podman")
        chosen = podman if docker is None or (podman and not _answers(docker)) else docker
        if chosen is None:
            raise ProcgroupError(
                "no container engine: install docker or podman, "
                "or name one in PROCGROUP_CONTAINER_ENGINE"
            )
        _found[path] = [os.path.abspath(chosen)]
    return _found[path]


def _answers(docker: str) -> bool:
    try:
        return _ask([docker, "version"]).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _ask(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_ASK, errors="replace"
    )


def extra_options() -> list[str]:
    """Options for each `run` on this machine: $PROCGROUP_CONTAINER_OPTIONS, words as in a shell."""
    return _words("PROCGROUP_CONTAINER_OPTIONS")


def _words(variable: str) -> list[str]:
    text = os.environ.get(variable, "")
    try:
        return shlex.split(text)
    except ValueError as error:
        problem = f"{variable}={text!r}: expected words, quoted as in a shell: {error}"
        raise ProcgroupError(problem) from None


def container_name(group: str, role: str, replica: int) -> str:
    """Unique on the node, since a group's id is."""
    return f"procgroup-{group}-{role}-{replica}"


def run_command(
    engine: list[str],
    *,
    name: str,
    labels: Mapping[str, str],
    network: str,
    ports: Iterable[tuple[str, int, int]],
    volumes: Iterable[tuple[str, str, bool]],
    environment: Mapping[str, str],
    options: Sequence[str],
    image: str,
    args: Sequence[str],
) -> list[str]:
    """A foreground run. `ports`: host address, its port, the container's port; `volumes`: path
    here, path in the container, whether it may write there."""
    command = [*engine, "run", "--rm", "--name", name]
    for label, value in labels.items():
        command += ["--label", f"{label}={value}"]
    if network == "host":
        command += ["--network", "host"]
    for host, outside, inside in ports:
        command += ["--publish", f"{host}:{outside}:{inside}"]
    for here, there, writable in volumes:
        mount = ["type=bind", f"source={here}", f"destination={there}"]
        command += ["--mount", ",".join(map(_csv, mount if writable else [*mount, "readonly"]))]
    for variable, value in environment.items():
        command += ["--env", f"{variable}={value}"]
    return [*command, *extra_options(), *options, image, *args]


def _csv(field: str) -> str:
    """As engines read a `--mount`: a line of CSV. In a `--volume` no path may have a colon."""
    return '"' + field.replace('"', '""') + '"' if re.search('[,"\\s]', field) else field


def remove_command(engine: list[str], *names: str) -> list[str]:
    """Kill and remove containers; those that are gone already are no matter."""
    command = [*engine, "rm", "--force", "--volumes"]
    if os.path.basename(engine[0]).startswith("podman"):
        command += ["--ignore", "--time", "0"]  # docker kills at once by itself
    return [*command, *names]


def freeze_command(engine: list[str], name: str) -> list[str]:
    """SIGSTOP to the client would not reach the container."""
    return [*engine, "pause", name]


def thaw_command(engine: list[str], name: str) -> list[str]:
    """The end of `freeze_command`."""
    return [*engine, "unpause", name]


def remove_strays(registry: Registry) -> list[str]:
    """Remove containers of groups that the registry does not know and no keeper keeps; their names.

    For what even the sweep cannot know, such as groups of a registry that was damaged. Raises
    ProcgroupError when the engine does not remove them, or is named by what is no command.
    """
    from procgroup.sweep import group_document, keeper_alive

    _words("PROCGROUP_CONTAINER_ENGINE")  # to have none is no error, to name none is one
    try:
        engine = find_engine()
        listed = _ask(
            [*engine, "ps", "--all", "--filter", f"label={STATE_LABEL}={registry.state_dir}",
             "--format", "{" + "{.Names}}"]
        )  # fmt: skip
    except (ProcgroupError, OSError, subprocess.TimeoutExpired):
        return []
    # Read after the engine was asked: a group is registered before it has a container.
    known = {row.id for row in registry.groups()}
    names = []
    for name in listed.stdout.split() if listed.returncode == 0 else ():
        group = name.removeprefix("procgroup-").partition("-")[0]
        directory = str(registry.state_dir / "groups" / group)
        if group not in known and not keeper_alive(group_document(directory)):
            names.append(name)
    if names:
        command = remove_command(engine, *names)
        try:
            removed = _ask(command)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProcgroupError(f"{shlex.join(command)}: {error}") from error
        if removed.returncode:
            raise ProcgroupError(f"{shlex.join(command)}: {removed.stderr.strip()}")
    return names
