"""The commands that the READMEs tell people to type exist, and the Makefiles list what they know."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator

from ..baking import ROOT, BakedProject, environment

BLOCK = re.compile(r"^```(?:sh|bash|console|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    ".venv/bin/procgroup",
    "aws",
    "cd",
    "curl",
    "git",
    "make",
    "npx",
    "pip",
    "procgroup",
    "redis-cli",
    "sam",
    "sh",  # of tools/uv.sh alone
    "uv",
    "uvx",
}


def commands(text: str) -> Iterator[str]:
    """Each command of the shell blocks in a Markdown text, without prompts and comments."""
    for block in BLOCK.findall(text):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            command = re.sub(r"\s+#.*", "", line.removeprefix("$ ")).strip()
            if command and not command.startswith("#"):
                yield from (part.strip() for part in command.split("&&"))


def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def wrong(text: str, known: set[str]) -> list[str]:
    """The commands that use an unknown program or make an unknown target."""
    return [
        command
        for command in commands(text)
        if (words := [word for word in command.split() if "=" not in word])
        and (
            words[0] not in PROGRAMS
            or (words[0] == "make" and not set(words[1:]) <= known)
            or (words[0] == "sh" and words[1:2] != ["tools/uv.sh"])
        )
    ]


def test_the_templates_readme_and_docs(bake: Callable[..., BakedProject]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = list(commands(text))
    # The two that everything starts with; .ci/run and tests/generated run them.
    assert "make demo" in listed
    assert "make test" in listed
    known = targets((ROOT / "Makefile").read_text(encoding="utf-8"))
    known |= targets(bake().read("Makefile"))
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert wrong(path.read_text(encoding="utf-8"), known) == [], path.name
    assert [command for command in listed if command.startswith("uvx cookiecutter")]


def test_a_services_readme(bake: Callable[..., BakedProject]) -> None:
    for example in ("statements", "minimal"):
        service = bake(example=example)
        assert "make test" in list(commands(service.read("README.md")))
        assert wrong(service.read("README.md"), targets(service.read("Makefile"))) == []


def test_make_alone_lists_the_targets() -> None:
    process = subprocess.run(
        ["make"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    listed = [line.split()[1] for line in process.stdout.splitlines()]
    known = "help setup demo test test-fast test-all stress lint format bench deploy-tools lock"
    assert listed == known.split()
    assert all(len(line.split()) > 3 for line in process.stdout.splitlines())
