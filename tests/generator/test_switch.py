"""`make switch`: another deployment tool, and nobody's edits lost without a word."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .. import quick_copier
from ..baking import SCRIPTS, BakedProject, Template, commit_all
from .test_update import JOBS, born, edit, recorded, tracked

REMARK = "\n# The team's own remark.\n"
TABLE = '\n[tool.ours]\nkey = "value"\n'


def switch(template: Template, project: BakedProject, target: str, **variables: str) -> str:
    """What `make switch TARGET=…` runs, and prints; with this environment's copier."""
    process = project.run(
        *(sys.executable, "-m", "tools.switch", target),
        **{"COPIER": str(SCRIPTS / "copier"), **variables},
        COPIER_SETTINGS_PATH=str(template.settings / "copier.yml"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    return f"{process.stdout}\nexit status {process.returncode}"


def quick_switch(template: Template, project: BakedProject, target: str, **variables: str) -> str:
    """The same, with a copier that takes half as long."""
    place = Path(quick_copier.__file__)
    variables |= {"COPIER": f"{sys.executable} {place}"}
    return switch(template, project, target, **variables)


def add(project: BakedProject, name: str, text: str) -> None:
    path = project.path / name
    path.write_text(path.read_text("utf-8") + text, "utf-8")


def test_a_switch_leaves_a_fresh_tree_and_the_edits_elsewhere(
    own_template: Template, tmp_path: Path
) -> None:
    project = born("cookiecutter", own_template.here, tmp_path / "output", deploy_target="sam")
    edit(project)
    edited = project.read(JOBS)

    said = switch(own_template, project, "cdk")

    assert said.endswith("exit status 0"), said
    assert "Goes away: deploy/samconfig.toml, deploy/template.yaml" in said
    assert "WITH YOUR EDITS" not in said
    fresh = born("copier", own_template.here, tmp_path / "fresh", deploy_target="cdk")
    assert tracked(project) == tracked(fresh)
    for name in tracked(fresh) - {JOBS}:
        assert project.read(name) == fresh.read(name), name
    assert project.read(JOBS) == edited
    assert recorded(project)["deploy_target"] == "cdk"


def test_edits_that_would_go_are_named_first_and_the_switch_waits(
    own_template: Template, tmp_path: Path
) -> None:
    """What is added to the end of pyproject.toml stands in no switch's way."""
    answers, target = {"example": "statements", "deploy_target": "cdk"}, "serverless"
    project = born("copier", own_template.here, tmp_path / "output", **answers)
    add(project, "deploy/app.py", REMARK)
    add(project, "pyproject.toml", TABLE)
    commit_all(project.path, "A remark, and a tool of our own")
    before = project.files()

    said = quick_switch(own_template, project, target)
    assert said.endswith("exit status 1"), said
    assert "WITH YOUR EDITS, which only git will remember:\n  deploy/app.py\n" in said
    assert "Changes, and you changed it too (look at it): pyproject.toml\n" in said
    assert project.files() == before

    said = quick_switch(own_template, project, target, CONFIRM=target)
    assert said.endswith("exit status 0"), said
    assert not project.has_file("deploy/app.py")
    assert project.has_file("deploy/serverless.yml")
    answers["deploy_target"] = target
    fresh = born("copier", own_template.here, tmp_path / "fresh", **answers)
    assert project.read("pyproject.toml") == fresh.read("pyproject.toml") + TABLE


def test_conflicts_are_named_and_the_switch_has_failed(
    own_template: Template, tmp_path: Path
) -> None:
    """A file of the team's own where a new one goes is named first."""
    project = born("copier", own_template.here, tmp_path / "output", deploy_target="sam")
    (project.path / "cdk.json").write_text("{}\n", "utf-8")
    pyproject = project.path / "pyproject.toml"
    text = pyproject.read_text("utf-8")
    pyproject.write_text(text.replace('"samtranslator.*",', '"samtranslator", # ours'), "utf-8")
    commit_all(project.path, "Changes of our own")
    said = quick_switch(own_template, project, "cdk")
    assert "New, and you have your own (a conflict to settle): cdk.json\n" in said
    assert "cdk.json" not in said.partition("New: ")[2].partition("\n")[0]
    assert "<<<<<<<" in project.read("pyproject.toml")
    conflicts = "Conflicts to settle, marked in the files: cdk.json, pyproject.toml\n"
    assert said.endswith(f"{conflicts}\nexit status 1"), said


@pytest.mark.parametrize("example", ["minimal", "statements"])
def test_the_end_of_pyproject_is_the_same_for_all_targets(
    example: str, bake: Callable[..., BakedProject]
) -> None:
    """So that what is added there is in no switch's way."""
    ends = {
        tuple(bake(deploy_target=target, example=example).read("pyproject.toml").splitlines()[-4:])
        for target in ("sam", "cdk", "serverless")
    }
    assert len(ends) == 1


def test_what_is_not_committed_is_not_risked(own_template: Template, tmp_path: Path) -> None:
    project = born("copier", own_template.here, tmp_path / "output", deploy_target="sam")
    add(project, "Makefile", REMARK)
    said = switch(own_template, project, "cdk")
    assert "Commit your changes first:\n M Makefile\n" in said
    assert said.endswith("exit status 1")


def test_an_address_that_leads_nowhere_is_named(own_template: Template, tmp_path: Path) -> None:
    project = born("copier", own_template.here, tmp_path / "output", deploy_target="sam")
    answers = project.path / ".copier-answers.yml"
    text = answers.read_text("utf-8")
    answers.write_text(re.sub("(?m)^_src_path: .*", "_src_path: ../gone", text), "utf-8")
    commit_all(project.path, "Moved")
    said = switch(own_template, project, "cdk")
    assert "No template to be had from '../gone': the template's git address belongs into" in said
    assert said.endswith("exit status 1")
    assert project.has_file("deploy/template.yaml")


def test_where_there_is_nothing_to_switch_to_the_others_are_named(
    own_template: Template, tmp_path: Path
) -> None:
    project = born("copier", own_template.here, tmp_path / "output", deploy_target="cdk")
    for target in ("cdk", "terraform"):
        said = switch(own_template, project, target)
        assert "deploys with cdk. To change that: make switch TARGET=sam or" in said
        assert said.endswith("exit status 2"), said
