"""Build the Lambda package: one zip, the same bytes at every build from the same sources.

Wheels are taken for Lambda's platform, not this machine's, so nothing is compiled and no container
is needed. What ships is the service, lambda_shim and what pyproject.toml's dependencies list, be it
a directory of the workspace; the local shim and the rest of vendor/ do not.
"""

import functools
import os
import py_compile
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parent.parent
BUILD = PROJECT / "build"
# `uv run` tells where uv is; it need not be on PATH.
UV = os.environ.get("UV", "uv")

# As in deploy/; tests/unit/test_facts.py holds them together.
PYTHON = "3.13"
ARCHITECTURE = "x86_64"

PLATFORMS = {"x86_64": "x86_64-manylinux2014", "arm64": "aarch64-manylinux2014"}
# The earliest moment a zip entry can bear.
EPOCH = (1980, 1, 1, 0, 0, 0)
# What stays here, by the directory it lies in: below the service's package, or lambda_shim itself.
LOCAL_ONLY = {
    "adapters": {"redis_queue.py"},
    "shims": {"cli.py", "dead_letters_cli.py", "local_redis.py"},
    "lambda_shim": {"dead_letters.py", "dead_letters_cli.py"},
}


def run(*command: str) -> None:
    """Raises SystemExit where the command fails, which has said why."""
    if status := subprocess.run(command, cwd=PROJECT).returncode:
        sys.exit(status)


def collect(target: Path, *groups: str, python: str = PYTHON) -> None:
    """Put everything that ships below this directory, and what these dependency groups list."""
    requirements = BUILD / "requirements.txt"
    run(
        *(UV, "export", "--quiet", "--no-dev", "--no-editable"),
        *("--no-emit-project", "--no-emit-package", "lambda-shim"),  # copied below
        *(f"--group={group}" for group in groups),
        *("--format", "requirements-txt", "--output-file", str(requirements)),
    )
    install = (
        *(UV, "pip", "install", "--quiet", "--target", str(target), "--python-version", python),
        *("--python-platform", PLATFORMS[ARCHITECTURE]),
    )
    entries = requirements.read_text("utf-8").replace("\\\n", "").splitlines()
    directories = [
        entry
        for entry in entries
        if entry.startswith((".", "/")) and (PROJECT / entry.split()[0]).is_dir()
    ]
    requirements.write_text("".join(f"{entry}\n" for entry in entries if entry not in directories))
    run(*install, "--only-binary", ":all:", "--requirement", str(requirements))
    if directories:
        local = BUILD / "local.txt"
        local.write_text("".join(f"{entry}\n" for entry in directories))
        # Made anew: uv keeps what it once built for as long as pyproject.toml is the same.
        run(*install, "--no-deps", "--reinstall", "--requirement", str(local))
    package = next(path.parent for path in (PROJECT / "src").glob("*/shims"))
    for directory in (package, PROJECT / "vendor" / "lambda_shim" / "lambda_shim"):
        leave_out = functools.partial(stays, directory)
        shutil.copytree(directory, target / directory.name, ignore=leave_out)


def stays(top: Path, directory: str, names: list[str]) -> set[str]:
    """Which of the names in a directory below `top` do not ship."""
    place = Path(directory)
    at_hand = LOCAL_ONLY.get(place.name, set()) if top in (place, place.parent) else set()
    return {
        name
        for name in names
        if name in at_hand or name in ("__pycache__", "py.typed") or name.startswith(".")
    }


def prune(target: Path) -> None:
    """Drop what differs between builds or is never read at run time."""
    unread = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_*.json")
    # Not every package's *.pyi: with lazy_loader some are read at run time.
    for pattern in ("bin", "msgspec/*.pyi", *(f"**/{name}" for name in unread)):
        for path in sorted(target.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (target / ".lock").unlink(missing_ok=True)


def compile_bytecode(target: Path) -> bool:
    """Ship .pyc files where this interpreter writes those of Lambda's runtime.

    Without them each cold start compiles every module again, which about doubles its time. Returns
    whether they ship. Raises SystemExit naming a file that does not compile.
    """
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        return False
    sys.pycache_prefix = None  # or they would be written elsewhere
    for source in sorted(target.rglob("*.py")):
        name = source.relative_to(target).as_posix()
        try:
            # Unchecked: they belong to exactly these sources, and zips do not keep times to the second.
            py_compile.compile(
                str(source),
                dfile=name,
                doraise=True,
                optimize=0,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except py_compile.PyCompileError as error:
            sys.exit(f"{name} does not compile: {error.exc_value}")
    return True


def pack(source: Path, archive: Path) -> None:
    """Zip with sorted names, one date and one mode."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(source).as_posix(), EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                file.writestr(entry, path.read_bytes())


def main() -> None:
    target, archive = BUILD / "lambda", BUILD / "lambda.zip"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    collect(target)
    prune(target)
    compiled = compile_bytecode(target)
    pack(target, archive)
    print(f"{archive.relative_to(PROJECT)}: {archive.stat().st_size / 1e6:.2f} MB")
    if not compiled:
        have = f"{sys.version_info.major}.{sys.version_info.minor}"
        print(
            f"Built with Python {have}, so without the .pyc files of Python {PYTHON}: "
            "cold starts take about twice as long."
        )


if __name__ == "__main__":
    main()
