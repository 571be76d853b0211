"""A service made by cookiecutter records its template just as copier would, or says why it cannot."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from .. import baking
from ..baking import TREE, BakedProject, Template, commit_all, described, git

NO_GIT = (
    "The template is not a git checkout, so `copier update` cannot bring its later versions here."
)
LINK = {"_commit", "_src_path"}


def make(
    template: Template, output: Path, source: str, *options: str
) -> tuple[dict[str, str], str]:
    """The answers recorded by cookiecutter, and what it printed."""
    process = template.cookiecutter(output, *options, source=source)
    assert process.returncode == 0, described(process)
    assert process.stderr == ""
    project = BakedProject(output / "statement-service")
    recorded: dict[str, str] = yaml.safe_load(project.read(".copier-answers.yml"))
    return recorded, process.stdout


@pytest.fixture
def remote(own_template: Template) -> Path:
    """A bare repository of the template, at `gh:team/template` and `own:team/template`."""
    place = own_template.settings / "remote" / "team" / "template.git"
    place.parent.mkdir(parents=True)
    git(own_template.path, "clone", "--bare", str(own_template.path), str(place))
    return place


def without_git(template: Template, directory: Path) -> Path:
    shutil.copytree(template.path, directory, ignore=shutil.ignore_patterns(".git"))
    return directory


def test_what_comes_next_is_said(template: Template, tmp_path: Path) -> None:
    _, said = make(template, tmp_path, str(template.path))
    assert said.splitlines() == [
        "Statement Service is ready. Next:",
        f"  cd {tmp_path / 'statement-service'}",
        "  git init && git add --all && git commit --message 'Start from the template'",
        "  make test",
        "  make run",
    ]


@pytest.mark.parametrize("name", ['it\'s "here" ü', "plain-1.0+x"])
def test_the_way_there_can_be_pasted(name: str, template: Template, tmp_path: Path) -> None:
    project = tmp_path / name / "statement-service"
    _, said = make(template, project.parent, str(template.path))
    assert f"  cd {shlex.quote(str(project))}" in said.splitlines()
    shutil.rmtree(project)
    copied = template.here.copier(project)
    assert copied.returncode == 0, copied.stderr
    assert f"  cd {shlex.quote(str(project))}" in copied.stderr.splitlines()


def test_checkout_by_absolute_path(template: Template, tmp_path: Path) -> None:
    recorded, said = make(template, tmp_path, str(template.path))
    assert {name: recorded[name] for name in LINK} == {
        "_commit": "v0.1.0",
        "_src_path": str(template.path),
    }
    assert "_src_path" not in said


@pytest.mark.parametrize("source", [".", "./", "../{name}"])
def test_checkout_by_relative_path(source: str, template: Template, tmp_path: Path) -> None:
    """Recorded as given, as copier does; such a path means nothing elsewhere, and that is said."""
    source = source.format(name=template.path.name)
    recorded, said = make(template, tmp_path / "first", source)
    assert recorded["_src_path"] == source
    assert f"_src_path is the relative path {source} there." in said
    copied = template.here.copier(tmp_path / "second", source=source)
    assert f"_src_path is the relative path {source} there." in copied.stderr
    assert BakedProject(tmp_path / "second").read(".copier-answers.yml") == BakedProject(
        tmp_path / "first" / "statement-service"
    ).read(".copier-answers.yml")


def test_checkout_past_its_tag(own_template: Template, tmp_path: Path) -> None:
    (own_template.path / "more.txt").write_text("more\n")
    commit_all(own_template.path, "More")
    recorded, _ = make(own_template, tmp_path / "output", str(own_template.path))
    assert recorded["_commit"] == git(own_template.path, "describe", "--tags", "--always")
    assert recorded["_commit"].startswith("v0.1.0-1-g")


def test_started_in_a_git_hook(
    template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git sets GIT_DIR for its hooks; it must not be taken for the template's."""
    git(tmp_path, "init")
    monkeypatch.setattr(baking, "FOREIGN", ())
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    recorded, _ = make(template, tmp_path / "output", str(template.path))
    assert recorded["_commit"] == "v0.1.0"


def test_abbreviation_that_copier_knows(
    own_template: Template, remote: Path, tmp_path: Path
) -> None:
    recorded, _ = make(own_template, tmp_path / "output", "gh:team/template")
    assert recorded["_src_path"] == "gh:team/template"
    assert recorded["_commit"] == "v0.1.0"


def test_abbreviation_of_ones_own(own_template: Template, remote: Path, tmp_path: Path) -> None:
    """Only cookiecutter knows it, so the address behind it is recorded."""
    recorded, _ = make(own_template, tmp_path / "output", "own:team/template")
    assert recorded["_src_path"] == f"file://{remote}"


def test_git_url_at_a_tag(own_template: Template, remote: Path, tmp_path: Path) -> None:
    (own_template.path / "more.txt").write_text("more\n")
    commit_all(own_template.path, "More", tag="v0.2.0")
    git(own_template.path, "push", "--tags", str(remote), "main")
    url = f"file://{remote}"
    recorded, _ = make(own_template, tmp_path / "first", url, "--checkout", "v0.1.0")
    assert (recorded["_commit"], recorded["_src_path"]) == ("v0.1.0", url)
    recorded, _ = make(own_template, tmp_path / "second", url)
    assert (recorded["_commit"], recorded["_src_path"]) == ("v0.2.0", url)


def test_zip(template: Template, tmp_path: Path) -> None:
    """It is unpacked into a directory that is gone afterwards: there is nothing to link to."""
    without_git(template, tmp_path / "archive" / "template")
    archive = shutil.make_archive(
        str(tmp_path / "template"), "zip", root_dir=tmp_path / "archive", base_dir="template"
    )
    recorded, said = make(template, tmp_path / "output", archive)
    assert not LINK & set(recorded)
    assert recorded["project_name"] == "Statement Service"
    assert said.splitlines()[-1] == NO_GIT


@pytest.mark.parametrize("enclosed", [False, True])
def test_directory_without_git(enclosed: bool, template: Template, tmp_path: Path) -> None:
    """Inside some other repository too: that one's version says nothing about the template."""
    source = without_git(template, tmp_path / "other" / "template")
    if enclosed:
        commit_all(tmp_path / "other", "Someone else's work", tag="v9.9.9")
    recorded, said = make(template, tmp_path / "first", str(source))
    assert recorded["_src_path"] == str(source)
    assert "_commit" not in recorded
    assert said.splitlines()[-1] == NO_GIT
    copied = template.here.copier(tmp_path / "second", source=str(source))
    assert NO_GIT in copied.stderr
    assert (
        BakedProject(tmp_path / "second").files()
        == BakedProject(tmp_path / "first" / "statement-service").files()
    )


def test_repository_without_a_commit(template: Template, tmp_path: Path) -> None:
    source = without_git(template, tmp_path / "template")
    git(source, "init")
    recorded, said = make(template, tmp_path / "output", str(source))
    assert "_commit" not in recorded
    assert said.splitlines()[-1] == (
        "The template has no commit yet, so `copier update` cannot work."
    )


def test_without_git_installed(
    template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    recorded, said = make(template, tmp_path / "output", str(template.path))
    assert "_commit" not in recorded
    assert said.splitlines()[-1] == NO_GIT


def test_caches_in_a_checkout_are_not_copied(own_template: Template, tmp_path: Path) -> None:
    """cookiecutter renders what lies in the tree, tracked or not."""
    before, _ = make(own_template, tmp_path / "first", str(own_template.path))
    tree = own_template.path / TREE
    for directory in (tree / "tests" / "__pycache__", tree / ".ruff_cache" / "0.1"):
        directory.mkdir(parents=True)
        (directory / "cached.pyc").write_bytes(b"\0\1\2")
    (tree / "tests" / "empty").mkdir()
    after, _ = make(own_template, tmp_path / "second", str(own_template.path))
    assert before == after
    first, second = (
        BakedProject(tmp_path / name / "statement-service") for name in ("first", "second")
    )
    assert first.files() == second.files()
    assert first.directories() == second.directories()


def test_directories_of_ones_own_are_kept(template: Template, tmp_path: Path) -> None:
    """Generating over a service removes no directory that the template does not have."""
    mine = tmp_path / "statement-service" / "notes"
    mine.mkdir(parents=True)
    process = template.cookiecutter(tmp_path, "--overwrite-if-exists", source=".")
    assert process.returncode == 0, described(process)
    assert mine.is_dir()
