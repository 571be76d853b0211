"""What `make build` and `make validate` of a service do, run as its team would run them."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from ..baking import BakedProject, Template, described
from .conftest import made

LARGEST = 500_000  # bytes, of the minimal example's zip
# Modules that must never reach Lambda, by a part of their name.
NEVER_SHIPS = ("procgroup", "local_sqs", "local_redis", "blueprints", "tests/", "tools/", "boto")


def built(service: BakedProject) -> Path:
    """The package; what is said of its bytecode is true of whichever interpreter builds it."""
    process = service.run("make", "build")
    assert process.returncode == 0, described(process)
    assert re.search(r"build/lambda\.zip: \d+\.\d\d MB", process.stdout)
    archive = service.path / "build" / "lambda.zip"
    runtime, have = runtime_of(service), interpreter_of(service)
    cost = (
        f"Built with Python {have}, so without the .pyc files of Python {runtime}: "
        "cold starts take about twice as long."
    )
    sources: set[str] = set()
    compiled: set[str] = set()
    for name in map(PurePosixPath, zipfile.ZipFile(archive).namelist()):
        if name.suffix == ".py":
            sources.add(f"{name.parent}/{name.stem}")
        elif name.suffix == ".pyc":
            assert name.stem.endswith(f".cpython-{runtime.replace('.', '')}"), name
            compiled.add(f"{name.parent.parent}/{name.stem.partition('.')[0]}")
    assert compiled == (sources if have == runtime else set())
    said = [line for line in process.stdout.splitlines() if "cold start" in line]
    assert said == ([] if have == runtime else [cost])
    return archive


def runtime_of(service: BakedProject) -> str:
    """The Python that the package is for."""
    (found,) = re.findall(r'(?m)^PYTHON = "(.*)"', service.read("tools/build.py"))
    return str(found)


def interpreter_of(service: BakedProject) -> str:
    """The Python of the service's environment, which `make setup` has made."""
    code = "import sys; print(*sys.version_info[:2], sep='.')"
    return service.run(".venv/bin/python", "-c", code).stdout.strip()


def test_only_what_ships_is_in_the_package(service: BakedProject) -> None:
    names = zipfile.ZipFile(built(service)).namelist()
    for name in names:
        assert not any(part in name for part in NEVER_SHIPS), name
    assert "statement_service/shims/aws_lambda.py" in names
    assert "lambda_shim/batch.py" in names
    assert any(name.startswith("msgspec/_core.cpython-313-x86_64") for name in names)


def test_the_package_is_the_same_at_every_build(service: BakedProject) -> None:
    first = built(service).read_bytes()
    assert built(service).read_bytes() == first


MEMBER = """
[project]
name = "ours"
version = "0.1.0"
requires-python = ">=3.11"

[build-system]
requires = ["uv_build>=0.9,<1"]
build-backend = "uv_build"
"""
# In setup.py: a package with modules that were compiled for this machine.
COMPILED = """
from setuptools import Distribution, setup

setup(distclass=type("Compiled", (Distribution,), {"has_ext_modules": lambda self: True}))
"""


@pytest.fixture
def with_member(template: Template, tmp_path: Path) -> BakedProject:
    """A service that depends on a package which lies in its own repository."""
    project = made(template, tmp_path, "minimal")
    source = project.path / "libs" / "ours" / "src" / "ours"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("WORD = 'one'\n", "utf-8")
    (source.parents[1] / "pyproject.toml").write_text(MEMBER, "utf-8")
    process = project.run("sh", "tools/uv.sh", "add", "--quiet", "./libs/ours")
    assert process.returncode == 0, described(process)
    return project


def test_a_package_of_the_services_own_ships(with_member: BakedProject) -> None:
    first = built(with_member).read_bytes()
    archive = built(with_member)
    assert archive.read_bytes() == first
    assert zipfile.ZipFile(archive).read("ours/__init__.py") == b"WORD = 'one'\n"
    image = "from tools.image import fill; fill('3.13')"
    process = with_member.run("sh", "tools/uv.sh", "run", "python", "-c", image)
    assert process.returncode == 0, described(process)
    assert with_member.has_file("build/image/ours/__init__.py")

    # As it is now, not as it was when it was built first.
    source = with_member.path / "libs" / "ours" / "src" / "ours" / "__init__.py"
    source.write_text("WORD = 'two'\n", "utf-8")
    assert zipfile.ZipFile(built(with_member)).read("ours/__init__.py") == b"WORD = 'two'\n"


def test_a_package_of_the_services_own_for_this_machine_alone_is_refused(
    with_member: BakedProject,
) -> None:
    """Lambda could not import it."""
    build = with_member.path / "tools" / "build.py"
    build.write_text(re.sub(r'ARCHITECTURE = ".*"', 'ARCHITECTURE = "arm64"', build.read_text()))
    member = with_member.path / "libs" / "ours"
    backend = 'requires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    text = MEMBER.partition("requires = [")[0] + backend
    (member / "pyproject.toml").write_text(text, "utf-8")
    (member / "setup.py").write_text(COMPILED, "utf-8")
    process = with_member.run("make", "build")
    assert process.returncode != 0
    said = " ".join(process.stdout.split())
    assert "Failed to build `ours @ " in said
    assert "is not compatible with the target Python 3.13 on Linux aarch64" in said


def test_the_package_of_the_minimal_example_is_small(service: BakedProject) -> None:
    """With bytecode too, a third of it and more: it is built for the interpreter at hand as well."""
    if service.has_file("src/statement_service/adapters/pdf.py"):
        pytest.skip("the statements example carries a PDF library")
    service.run("make", "setup")
    for python in (runtime_of(service), interpreter_of(service)):
        with built_for(service, python) as archive:
            size = archive.stat().st_size
            assert size < LARGEST, f"{size:,} bytes for Python {python}: {weights(archive)}"


def weights(archive: Path) -> str:
    """What each package adds to the zip, in bytes."""
    found: Counter[str] = Counter()
    for entry in zipfile.ZipFile(archive).infolist():
        kind = "bytecode" if entry.filename.endswith(".pyc") else "files"
        found[f"{entry.filename.partition('/')[0]} ({kind})"] += entry.compress_size
    return ", ".join(f"{name} {size:,}" for name, size in found.most_common())


@contextmanager
def built_for(service: BakedProject, python: str) -> Iterator[Path]:
    """The package for this version of Python, whichever the service names."""
    build = service.path / "tools" / "build.py"
    sound = build.read_text(encoding="utf-8")
    build.write_text(re.sub(r'(?m)^PYTHON = ".*"', f'PYTHON = "{python}"', sound), "utf-8")
    try:
        yield built(service)
    finally:
        build.write_text(sound, encoding="utf-8")


@pytest.mark.xdist_group("fullest")
def test_the_scenarios_run_out_of_the_package(fullest: BakedProject) -> None:
    """On the runtime client, with the package built for the interpreter at hand: with bytecode."""
    with built_for(fullest, interpreter_of(fullest)):
        process = fullest.run("make", "test-runtime", "ZIP=build/lambda.zip", PYTEST_ADDOPTS="-v")
    assert process.returncode == 0, described(process)
    assert "test_core_shim_and_lambda_shim_come_out_of_the_zip" in process.stdout


@pytest.mark.xdist_group("fullest")
def test_a_package_for_another_interpreter_is_refused(fullest: BakedProject) -> None:
    archive = fullest.path / "build" / "other.zip"
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("msgspec/_core.cpython-39-darwin.so", b"")
    process = fullest.run("make", "test-runtime", f"ZIP={archive}")
    assert process.returncode != 0
    assert "is not for this Python" in process.stdout
    process = fullest.run("make", "test-runtime", "ZIP=build/no such.zip")
    assert process.returncode != 0
    assert "no build/no such.zip: make build" in process.stdout


@pytest.mark.xdist_group("fullest")
@pytest.mark.slow
def test_validate(fullest: BakedProject) -> None:
    process = fullest.run("make", "validate")
    assert process.returncode == 0, described(process)
    assert "is a valid SAM Template" in process.stdout


@pytest.mark.xdist_group("fullest")
@pytest.mark.slow
def test_validate_finds_what_sam_alone_overlooks(fullest: BakedProject) -> None:
    """A reference that nothing defines, inside a rollout: seen only after translation."""
    template = fullest.path / "deploy" / "template.yaml"
    sound = template.read_text(encoding="utf-8")
    broken = sound.replace("Alarms: [!Ref VersionFailed", "Alarms: [!Ref NoSuch")
    assert broken != sound
    template.write_text(broken, encoding="utf-8")
    try:
        process = fullest.run("make", "validate")
    finally:
        template.write_text(sound, encoding="utf-8")
    assert process.returncode != 0
    assert "NoSuch" in process.stdout
