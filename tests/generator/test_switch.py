"""`make switch`: another deployment tool, and nobody's edits lost without a word."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..baking import SCRIPTS, BakedProject, Template, commit_all
from .test_update import JOBS, born, edit, recorded, tracked

TEMPLATE_EDIT = "\n# The team's own remark.\n"


def switch(template: Template, project: BakedProject, target: str, **variables: str) -> str:
    """What `make switch TARGET=…` runs, and prints; with this environment's copier."""
    process = project.run(
        *(sys.executable, "-m", "tools.switch", target),
        COPIER=str(SCRIPTS / "copier"),
        COPIER_SETTINGS_PATH=str(template.settings / "copier.yml"),
        PYTHONDONTWRITEBYTECODE="1",
        **variables,
    )
    return f"{process.stdout}\nexit status {process.returncode}"


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
    project = born("copier", own_template.here, tmp_path / "output", deploy_target="sam")
    template = project.path / "deploy" / "template.yaml"
    template.write_text(template.read_text("utf-8") + TEMPLATE_EDIT, "utf-8")
    commit_all(project.path, "A remark")
    before = project.files()

    said = switch(own_template, project, "serverless")
    assert said.endswith("exit status 1"), said
    assert "WITH YOUR EDITS, which only git will remember:\n  deploy/template.yaml\n" in said
    assert project.files() == before

    said = switch(own_template, project, "serverless", CONFIRM="serverless")
    assert said.endswith("exit status 0"), said
    assert not project.has_file("deploy/template.yaml")
    assert project.has_file("deploy/serverless.yml")


def test_a_file_of_the_teams_own_where_a_new_one_goes_is_named_first(
    own_template: Template, tmp_path: Path
) -> None:
    project = born("copier", own_template.here, tmp_path / "output", deploy_target="sam")
    (project.path / "cdk.json").write_text("{}\n", "utf-8")
    commit_all(project.path, "Our own")
    said = switch(own_template, project, "cdk")
    assert "New, and you have your own (a conflict to settle): cdk.json\n" in said
    assert "cdk.json" not in said.partition("New: ")[2].partition("\n")[0]
    assert said.endswith("Conflicts to settle, marked in the files: cdk.json\n\nexit status 1"), (
        said
    )


TABLE = '\n[tool.ours]\nkey = "value"\n'


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


def test_what_is_added_to_the_end_of_pyproject_stands_in_no_switchs_way(
    own_template: Template, tmp_path: Path
) -> None:
    answers, target = {"example": "statements", "deploy_target": "cdk"}, "serverless"
    project = born("copier", own_template.here, tmp_path / "output", **answers)
    pyproject = project.path / "pyproject.toml"
    pyproject.write_text(pyproject.read_text("utf-8") + TABLE, "utf-8")
    commit_all(project.path, "A tool of our own")
    said = switch(own_template, project, target)
    assert said.endswith("exit status 0"), said
    assert "Changes, and you changed it too (look at it): pyproject.toml\n" in said
    answers["deploy_target"] = target
    fresh = born("copier", own_template.here, tmp_path / "fresh", **answers)
    assert project.read("pyproject.toml") == fresh.read("pyproject.toml") + TABLE


def test_conflicts_are_named_and_the_switch_has_failed(
    own_template: Template, tmp_path: Path
) -> None:
    project = born("copier", own_template.here, tmp_path / "output", deploy_target="sam")
    pyproject = project.path / "pyproject.toml"
    text = pyproject.read_text("utf-8")
    pyproject.write_text(text.replace('"samtranslator.*",', '"samtranslator", # ours'), "utf-8")
    commit_all(project.path, "A change of our own")
    said = switch(own_template, project, "cdk")
    assert "<<<<<<<" in project.read("pyproject.toml")
    assert "Conflicts to settle, marked in the files: pyproject.toml\n" in said
    assert said.endswith("exit status 1"), said


def test_what_is_not_committed_is_not_risked(own_template: Template, tmp_path: Path) -> None:
    project = born("copier", own_template.here, tmp_path / "output", deploy_target="sam")
    makefile = project.path / "Makefile"
    makefile.write_text(makefile.read_text("utf-8") + TEMPLATE_EDIT, "utf-8")
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
