"""`make image` builds the overflow's image, and a scenario runs with it in the runner's place.

No registry is needed: the base image is made of an interpreter that is here.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..baking import BakedProject, described

# What compiled packages need of glibc, whether the interpreter does or not.
LIBRARIES = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libm.so.6")
LEFT_OUT = re.compile(r"/(test|site-packages|dist-packages|__pycache__|idlelib|config-[^/]*)(/|$)")
BASE = "localhost/base"


def add_python(archive: tarfile.TarFile, python: Path) -> str:
    """Put an interpreter, its library and what they are linked with into an image; its version."""
    code = "import os, sys; print(sys.base_prefix, '%d.%d' % sys.version_info[:2], os.__file__)"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    prefix, version, module = told.stdout.split()
    program, library = Path(prefix, "bin", f"python{version}").resolve(), Path(module).parent
    archive.add(program, f"usr/local/bin/python{version}")
    for name in ("python3", "python"):
        link = tarfile.TarInfo(f"usr/local/bin/{name}")
        link.type, link.linkname = tarfile.SYMTYPE, f"python{version}"
        archive.addfile(link)
    archive.add(
        library,
        f"usr/local/lib/python{version}",
        filter=lambda entry: None if LEFT_OUT.search(f"/{entry.name}") else entry,
    )
    tmp = tarfile.TarInfo("tmp")
    tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
    archive.addfile(tmp)
    linked = subprocess.run(
        ["ldd", program, *library.glob("lib-dynload/*.so")], capture_output=True, text=True
    ).stdout
    found = set(re.findall(r"(/\S+\.so\S*) \(0x", linked))
    folders = {Path(path).parent for path in found if Path(path).name.startswith("libc.so")}
    found |= {str(folder / name) for folder in folders for name in LIBRARIES}
    for path in sorted(found):
        if Path(path).exists():
            archive.add(Path(path).resolve(), path.removeprefix("/"))
    return version


@pytest.fixture
def engine(fullest: BakedProject) -> Iterator[tuple[str, str]]:
    """The command of a container engine that works here, and the version of its base image's Python."""
    python = fullest.path / ".venv" / "bin" / "python"
    # Not in pytest's own directory: its path is too long for an engine's sockets.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as scratch_name:
        scratch = Path(scratch_name)
        with tarfile.open(scratch / "base.tar", "w") as archive:
            version = add_python(archive, python)
        limits = scratch / "containers.conf"
        limits.write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        )
        # As a restricted sandbox needs it; as a person has it.
        sandboxed = (
            f"env CONTAINERS_CONF={limits} BUILDAH_ISOLATION=chroot BUILDAH_LAYERS=false podman --root {scratch}/1/root "
            f"--runroot {scratch}/1/run --runtime runc --storage-driver vfs --cgroup-manager cgroupfs"
        )
        plain = f"podman --root {scratch}/2/root --runroot {scratch}/2/run"
        reasons = []
        for command in (sandboxed, plain, "docker"):
            if shutil.which(command.split()[0] if command == "docker" else "podman") is None:
                reasons.append(f"{command.split()[0]} is not installed")
            elif not (reason := trouble(command, scratch / "base.tar")):
                yield command, version
                return
            else:
                reasons.append(reason)
        pytest.skip("no container engine runs here: " + "; ".join(reasons))


def trouble(command: str, base: Path) -> str:
    """Why the engine does not run containers; empty when it does."""
    for arguments in (["import", str(base), BASE], ["run", "--rm", BASE, "python3", "--version"]):
        try:
            done = subprocess.run(
                [*shlex.split(command), *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            return (done.stderr.strip().splitlines() or [f"{arguments[0]} failed"])[-1]
    return ""


@pytest.mark.slow
def test_a_job_that_outlasts_its_function_is_finished_by_the_container(
    fullest: BakedProject, engine: tuple[str, str]
) -> None:
    command, version = engine
    archive = "build/image.tar"
    process = fullest.run("make", "image", ENGINE=command, BASE=BASE, PYTHON=version, IMAGE=archive)
    assert process.returncode == 0, described(process)
    image = process.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r"statement-service-runner:[0-9a-f]{16}", image)
    # As it comes to another machine.
    subprocess.run([*shlex.split(command), "rmi", image], check=True, stdout=subprocess.DEVNULL)
    code = f"from tools.image import Path, load; print(load(Path({archive!r})))"
    process = fullest.run(".venv/bin/python", "-c", code, ENGINE=command)
    assert process.returncode == 0, described(process)
    loaded = process.stdout.strip().splitlines()[-1]
    assert loaded.removeprefix("localhost/") == image
    # Its user may write where layers are unpacked, and nowhere else but in /tmp.
    code = "import os; print([os.access(path, os.W_OK) for path in ('/opt', '/tmp', '/app', '/')])"
    inside = [*shlex.split(command), "run", "--rm", "--read-only", loaded, "python3", "-c", code]
    said = subprocess.run(inside, check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[True, True, False, False]"
    tests = ("pytest", "-n0", "-rs", "tests/scenarios/test_container.py")
    process = fullest.run(".venv/bin/python", "-m", *tests, ENGINE=command, RUNNER_IMAGE=loaded)
    assert process.returncode == 0, described(process)
    assert "1 passed" in process.stdout
