"""Directories as they lie on Lambda: what a package's zip unpacks to, and the runtime beside it.

Everything is copied from the interpreter at hand, with its requirements, and compiled, so that
nothing is fetched and no variant is slower for want of .pyc files.
"""

from __future__ import annotations

import compileall
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from py_compile import PycInvalidationMode

from packaging.requirements import Requirement

from benchmarks.lab import Unavailable


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


def service(project: Path, target: Path) -> None:
    """What a baked service ships, as its tools/build.py packs it: the service, lambda_shim, msgspec."""
    source = next(path.parent for path in (project / "src").glob("*/shims"))
    local_only = local_only_files(project / "tools" / "build.py")
    ignore = shutil.ignore_patterns("__pycache__", "py.typed", *local_only)
    shutil.copytree(source, target / source.name, ignore=ignore)
    shim = project / "vendor" / "lambda_shim" / "lambda_shim"
    shutil.copytree(shim, target / shim.name, ignore=ignore)
    install(target, "msgspec")
    compile_all(target)


def local_only_files(build: Path) -> set[str]:
    """Which of the service's files its build leaves out."""
    namespace: dict[str, object] = {"__name__": "build", "__file__": str(build)}
    exec(compile(build.read_text(), build, "exec"), namespace)
    names = namespace["LOCAL_ONLY"]
    assert isinstance(names, set)
    return names


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
