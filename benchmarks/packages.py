"""Directories as they lie on Lambda: what a package's zip unpacks to, and the runtime beside it.

Everything is copied from the interpreter at hand, with its requirements, and compiled, so that
nothing is fetched and no variant is slower for want of .pyc files.
"""

from __future__ import annotations

import compileall
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from py_compile import PycInvalidationMode

from packaging.requirements import Requirement

from benchmarks.lab import ROOT, Unavailable


def closure(names: Iterable[str]) -> list[metadata.Distribution]:
    """These distributions and all that they require here. Raises Unavailable."""
    found: dict[str, metadata.Distribution] = {}
    wanted = list(names)
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise Unavailable(
                f"{name} is not installed (`make bench` installs the peers)"
            ) from None
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    return list(found.values())


def install(target: Path, *names: str) -> None:
    """Copy distributions and their requirements below a directory."""
    for distribution in closure(names):
        for file in distribution.files or []:
            if ".." in file.parts or "__pycache__" in file.parts:
                continue  # scripts, and bytecode of another place
            destination = target / file
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(distribution.locate_file(file)), destination)


def compile_all(target: Path) -> None:
    """Bytecode in the form that the service's own build ships: never checked against its source."""
    compileall.compile_dir(
        target, quiet=2, workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    )


def built(project: Path, target: Path) -> int:
    """Unpack the zip that a baked service's own build makes, for this interpreter and machine.

    Returns the zip's size in bytes. Raises Unavailable where the build cannot run, for want of uv or
    of the package index.
    """
    uv = shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
    build = project / "tools" / "build.py"
    text = build.read_text(encoding="utf-8")
    here = {
        "PYTHON": f"{sys.version_info.major}.{sys.version_info.minor}",
        "ARCHITECTURE": {"aarch64": "arm64"}.get(platform.machine(), platform.machine()),
    }
    for name, value in here.items():
        text = re.sub(rf'(?m)^{name} = ".*"', f'{name} = "{value}"', text)
    build.write_text(text, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, str(build)],
        env=os.environ | {"UV": uv},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if process.returncode:
        raise Unavailable(f"the service cannot be built here: {process.stdout[-300:]}")
    archive = project / "build" / "lambda.zip"
    zipfile.ZipFile(archive).extractall(target)
    return archive.stat().st_size


def local_sqs(project: Path, target: Path) -> None:
    """The Redis ledger, which never ships: beside a package, to run its real code locally."""
    ignore = shutil.ignore_patterns("__pycache__")
    package = project / "vendor" / "local_sqs" / "local_sqs"
    shutil.copytree(package, target / package.name, ignore=ignore)
    install(target, "hiredis")
    compile_all(target)


def lambda_python(directory: Path) -> Path:
    """An interpreter whose site-packages hold what Lambda's hold: the runtime client and boto3."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    python = directory / "bin" / "python"
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    install(Path(site), "awslambdaric", "boto3")
    compile_all(Path(site))
    return python
