"""What a service's commands fetch is the same today and in a year."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ..baking import ROOT, BakedProject, offered

# A program fetched for one run: its name, and whatever stands for its version.
FETCHED = re.compile(r"""(?:npx (?:--yes )?|uvx |"--from", ")([a-z][\w-]*)([@<>=~!][^\s`",]*)?""")
EXACT = re.compile(r"(@|==)\d+\.\d+\.\d+")
# copier goes with the template's newest release, which says what it needs; the Serverless Framework
# is a team's own choice (DEPLOY_TOOL), and none of its versions was tried.
FREE = {"copier", "cookiecutter", "serverless"}


@pytest.mark.parametrize("target", offered()["deploy_target"])
def test_what_is_fetched_has_an_exact_version(
    target: str, bake: Callable[..., BakedProject]
) -> None:
    project = bake(deploy_target=target, ci="github")
    (pinned,) = re.findall(r'(?m)^PINNED = "(.*)"$', project.read("tools/target.py"))
    (checkov,) = re.findall(r'(?m)^CHECKOV = "(.*)"$', project.read("tools/validate.py"))
    assert EXACT.search(pinned)
    assert EXACT.search(checkov)
    loose = [
        f"{name}: {found[0]}"
        for name, (content, _) in project.files().items()
        for found in FETCHED.finditer(content.decode("utf-8"))
        if found[1] not in FREE and not EXACT.fullmatch(found[2] or "")
    ]
    assert loose == []

    # uv itself, in each job of the workflow.
    workflow = project.read(".github/workflows/service.yml")
    versions = re.findall(r'/setup-uv@.*\n +with: \{ version: "(\d+\.\d+\.\d+)" \}', workflow)
    assert len(versions) == workflow.count("/setup-uv@") == 3
    assert len(set(versions)) == 1

    # What people are told to make an account ready with is what make takes.
    if target == "cdk":
        docs = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
        for text in (project.read("README.md"), docs):
            assert re.findall(r"npx (\S+) bootstrap", text) == [pinned]
