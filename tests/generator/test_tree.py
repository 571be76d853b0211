"""What must hold for the files of the template tree as they lie there."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ..baking import ROOT, TREE, git

FILES = [
    Path(name)
    for name in git(
        ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", TREE
    ).split("\0")
    if name and (ROOT / name).exists()
]


def test_vendor_holds_no_jinja() -> None:
    """Both engines render it, and it must come out as it lies here."""
    vendored = [path for path in FILES if path.parts[1] == "vendor"]
    assert vendored
    assert not [
        path
        for path in vendored
        if re.search(r"\{[{%#]", (ROOT / path).read_text(encoding="utf-8") + path.name)
    ]


def test_no_caches_lie_in_the_tree() -> None:
    """cookiecutter renders what lies there, whether git ignores it or not."""
    litter = re.compile(
        r"__pycache__|\..*_cache|.*\.py[co]|\.venv|\.uv|uv\.lock|\.DS_Store|.*\.egg-info"
    )
    assert not [path for path in (ROOT / TREE).rglob("*") if litter.fullmatch(path.name)]


def test_names_can_be_checked_out_anywhere() -> None:
    """No character that Windows refuses, and no link."""
    assert not [path for path in FILES if re.search(r'[<>:"|?*\\]', "/".join(path.parts))]
    assert not [path for path in FILES if (ROOT / path).is_symlink()]


def test_only_files_have_conditional_names() -> None:
    """cookiecutter cannot leave out a directory by its name."""
    placeholders = {TREE, "{{cookiecutter.__package_name}}"}
    names = {part for path in FILES for part in path.parts[:-1]}
    assert {name for name in names if "{" in name} == placeholders


def test_each_variant_of_a_file_belongs_to_its_answers() -> None:
    """The name of a file says which answers it belongs to; nothing else decides."""
    answer = r"cookiecutter\.\w+ == '\w+'"
    shape = re.compile(rf"\{{\{{'[\w.-]+' if {answer}( and {answer})*\}}\}}")
    answers = "{{_copier_conf.answers_file if _copier_conf is defined}}"
    conditional = [path.name for path in FILES if "{" in path.name and path.name != answers]
    assert not [name for name in conditional if not shape.fullmatch(name)]


def test_no_index_and_no_path_of_a_machine_in_the_lock() -> None:
    lock = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    assert "--hash=sha256:" in lock
    assert not re.search(
        r"^\s*(--(extra-)?index|--find-links|-f |-i )|://|file:", lock, re.MULTILINE
    )
    assert not re.search(r"(^|\s)/\w", lock)


def test_the_servers_packages_bring_no_plugin_of_pytests() -> None:
    """Each costs every pytest process a third of a second. They are switched off by their own names."""
    plugins = {
        point.name
        for point in entry_points(group="pytest11")
        if point.dist is not None and "valkey" in point.dist.name
    }
    assert plugins
    for project in (ROOT / "pyproject.toml", ROOT / TREE / "pyproject.toml"):
        blocked = re.findall(r"-p no:(\w+)", project.read_text(encoding="utf-8"))
        assert plugins <= set(blocked), project


def test_names_of_any_length_leave_python_formatted(tmp_path: Path) -> None:
    """Where an answer stands in a Python string, the formatter must not care how long it is."""
    sources = [path for path in (ROOT / TREE).rglob("*.py*") if holds_answers(path)]
    assert sources
    environment = Environment(keep_trailing_newline=True, undefined=StrictUndefined)
    for number, source in enumerate(sources):
        template = environment.from_string(source.read_text("utf-8"))
        for length in range(1, 201):
            answers = {
                "project_name": "n" * min(length, 60),
                "project_slug": "s" * min(length, 40),
                "__package_name": "s" * min(length, 40),
                "description": "d" * length,
                "owner": "o" * min(length, 100),
            }
            text = template.render(cookiecutter=answers)
            (tmp_path / f"{number}_{length}.py").write_text(text, "utf-8")
    style = ("--no-cache", "--config", str(ROOT / TREE / "ruff.toml"))
    process = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", *style, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout


def holds_answers(path: Path) -> bool:
    """Whether free text of an answer stands in the file, and nothing else of Jinja."""
    markers = set(re.findall(r"\{[{%].*?[}%]\}", path.read_text("utf-8")))
    free = {f"{{{{ cookiecutter.{name} }}}}" for name in ("project_name", "description", "owner")}
    names = free | {"{{ cookiecutter.project_slug }}", "{{ cookiecutter.__package_name }}"}
    return bool(markers & free) and markers <= names
