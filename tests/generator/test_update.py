"""A service follows its template: born at one tag, edited, brought to the next by `copier update`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ..baking import TREE, BakedProject, Template, commit_all, described, git

JOBS = "src/statement_service/core/jobs.py"
EDIT = '\n\ndef added_by_the_team() -> str:\n    return "the team\'s own"\n'
CHANGE = "\n# Changed in the template.\n"


def born(engine: str, template: Template, directory: Path, **answers: str) -> BakedProject:
    """A service made at the template's newest commit, committed by its team.

    `template.here` makes the same in half of the time.
    """
    source = str(template.path)
    project = BakedProject(directory / "statement-service")
    if engine == "cookiecutter":
        process = template.cookiecutter(directory, source=source, **answers)
    else:
        process = template.copier(project.path, source=source, **answers)
    assert process.returncode == 0, described(process)
    commit_all(project.path, "Start from the template")
    return project


def edit(project: BakedProject) -> None:
    jobs = project.path / JOBS
    jobs.write_text(jobs.read_text(encoding="utf-8") + EDIT, encoding="utf-8")
    commit_all(project.path, "A change of our own")


def release(template: Template, tag: str) -> None:
    """A new version of the template: one file changed, one added, one gone."""
    tree = template.path / TREE
    for name in ("Makefile", "vendor/lambda_shim/pyproject.toml"):
        path = tree / name
        path.write_text(path.read_text(encoding="utf-8") + CHANGE, encoding="utf-8")
    (tree / "src" / "{{cookiecutter.__package_name}}" / "core" / "added.py").write_text(
        '"""Added to {{ cookiecutter.project_name }}."""\n', encoding="utf-8"
    )
    (tree / "vendor" / "lambda_shim" / "README.md").unlink()
    commit_all(template.path, f"Release {tag}", tag=tag)


def recorded(project: BakedProject) -> dict[str, str]:
    answers: dict[str, str] = yaml.safe_load(project.read(".copier-answers.yml"))
    return answers


@pytest.mark.parametrize("engine", ["cookiecutter", "copier"])
def test_update_keeps_edits_and_brings_changes(
    engine: str, own_template: Template, tmp_path: Path
) -> None:
    project = born(engine, own_template, tmp_path / "output")
    assert recorded(project)["_commit"] == "v0.1.0"
    edit(project)
    edited = project.read(JOBS)
    release(own_template, "v0.2.0")

    # A new process for one of them; what is recorded is the same.
    program = own_template if engine == "copier" else own_template.here
    process = program.copier_update(project.path)

    assert process.returncode == 0, described(process)
    assert "trust" not in (process.stdout + process.stderr).lower()
    assert recorded(project)["_commit"] == "v0.2.0"
    assert recorded(project)["_src_path"] == str(own_template.path)
    assert project.read(JOBS) == edited
    assert project.read("Makefile").endswith(CHANGE)
    assert project.read("vendor/lambda_shim/pyproject.toml").endswith(CHANGE)
    assert "Added to Statement Service." in project.read("src/statement_service/core/added.py")
    assert not project.has_file("vendor/lambda_shim/README.md")
    # Nothing else: apart from the edit it is what the new version makes from scratch.
    fresh = born(engine, own_template.here, tmp_path / "fresh")
    assert tracked(project) - {JOBS} == tracked(fresh) - {JOBS}
    for name in tracked(fresh) - {JOBS}:
        assert project.read(name) == fresh.read(name), name
    assert project.read(JOBS) == fresh.read(JOBS) + EDIT


def tracked(project: BakedProject) -> set[str]:
    """Every file that git knows or would add; conflict markers and rejects would be among them."""
    listed = git(project.path, "ls-files", "--cached", "--others", "--exclude-standard")
    return {name for name in listed.splitlines() if project.has_file(name)}


@pytest.mark.parametrize("engine", ["cookiecutter", "copier"])
def test_update_without_news_changes_nothing(
    engine: str, own_template: Template, tmp_path: Path
) -> None:
    """What cookiecutter wrote is what copier would have written, down to the quoting of answers."""
    answers = {
        "project_name": "yes",
        "description": "Größen: it's # a \N{GRINNING FACE} line; "
        + "long enough to be folded " * 3
        + "twice",
        "owner": "1e3",
    }
    project = born(
        engine, own_template.here, tmp_path / "output", project_slug="statement-service", **answers
    )
    process = own_template.here.copier_update(project.path)
    assert process.returncode == 0, described(process)
    assert git(project.path, "status", "--porcelain") == ""


@pytest.mark.parametrize("engine", ["cookiecutter", "copier"])
def test_an_answer_can_be_changed_later(
    engine: str, own_template: Template, tmp_path: Path
) -> None:
    project = born(engine, own_template.here, tmp_path / "output")
    answers = {"example": "minimal", "overflow": "none", "owner": "billing"}
    data = [f"--data={name}={value}" for name, value in answers.items()]
    process = own_template.here.copier_update(project.path, *data)
    assert process.returncode == 0, described(process)
    fresh = born(engine, own_template.here, tmp_path / "fresh", **answers)
    assert tracked(project) == tracked(fresh)
    for name in tracked(fresh):
        assert project.read(name) == fresh.read(name), name


def test_template_needs_no_trust(template: Template) -> None:
    """Nothing that makes copier ask for --trust, nor a hook that would hide the template's path."""
    questions = yaml.safe_load((template.path / "copier.yml").read_text(encoding="utf-8"))
    assert not {"_tasks", "_migrations", "_jinja_extensions"} & set(questions)
    assert {path.name for path in (template.path / "hooks").iterdir()} == {
        "pre_gen_project.py",
        "post_gen_project.py",
    }
