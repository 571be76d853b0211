"""A stage that nobody configured is refused in words, before anything is called."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from ..baking import BakedProject, offered

FILES = {
    "sam": "deploy/samconfig.toml",
    "cdk": "deploy/stages.py",
    "serverless": "deploy/serverless.yml, under params",
}
# How a team adds a stage: what is written behind what, in the target's own file.
ADDED = {
    "sam": ("version = 0.1\n", "\n[prdo.deploy.parameters]\nparameter_overrides = []\n"),
    "cdk": ("    for stage in (\n", '        Stage("prdo"),\n'),
    "serverless": ("  production:\n", "    trafficShift: AllAtOnce\n  prdo:\n"),
}


def tool(project: BakedProject, *words: str) -> str:
    """What the service prints, with `echo` for its deployment tool."""
    archive = project.path / "build" / "lambda.zip"
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(b"")
    process = project.run(
        *(sys.executable, "-m", *words), DEPLOY_TOOL="echo", CONFIRM="prdo", STAGE="prdo"
    )
    return f"{process.stdout}exit status {process.returncode}"


@pytest.mark.parametrize("target", offered()["deploy_target"])
def test_a_mistyped_stage_is_refused_and_an_added_one_is_not(
    target: str, bake: Callable[..., BakedProject]
) -> None:
    project = bake(deploy_target=target, example="statements", overflow="fargate")
    refusal = (
        f"There is no stage prdo, only dev, staging, production. Add one in {FILES[target]}.\n"
        "exit status 1"
    )
    for verb in ("deploy", "destroy", "test"):
        assert tool(project, "tools.deploy", verb, "prdo") == refusal
    for module in ("tools.validate", "tools.push prdo", "tests.doubles.stack prdo"):
        assert tool(project, *module.split()) == refusal

    path = project.path / FILES[target].partition(",")[0]
    place, words = ADDED[target]
    path.write_text(path.read_text("utf-8").replace(place, place + words), "utf-8")
    for verb in ("deploy", "destroy"):
        said = tool(project, "tools.deploy", verb, "prdo")
        assert "\n+ echo " in said
        assert said.endswith("exit status 0")
