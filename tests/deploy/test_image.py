"""A saved image gets to a stage's repository in time, whenever that comes to be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..baking import BakedProject, described
from .stage import client
from .test_deployment import ENGINE
from .tools import run

pytestmark = pytest.mark.slow

# What a deployment does, as far as images go: the stack's repository is there afterwards.
TOOL = """
import json, sys, boto3
ecr = boto3.client("ecr")
tags = [json.loads(word.partition("=")[2]) for word in sys.argv if word.startswith("ImageTag=")]
stage = sys.argv[sys.argv.index("--config-env") + 1]
name = f"statement-service-{stage}-runner"
found = name in [each["repositoryName"] for each in ecr.describe_repositories()["repositories"]]
images = ecr.describe_images(repositoryName=name)["imageDetails"] if found else []
known = [tag for image in images for tag in image["imageTags"]]
print(json.dumps({"tags": tags, "pushed": known}))
if not found:
    ecr.create_repository(repositoryName=name)
"""


def test_a_saved_image_is_pushed_before_the_deployment_or_after_the_very_first(
    project_for: Callable[..., BakedProject], account: str, tmp_path: Path
) -> None:
    """Stage production has subnets from the start, stage dev has none."""
    project = project_for(deploy_target="sam", example="minimal", overflow="fargate", ci="none")
    tool = tmp_path / "tool.py"
    tool.write_text(TOOL, encoding="utf-8")
    ecr = client(account, "ecr")

    def make(verb: str, *words: str) -> str:
        process = run(
            *("make", verb, *words, "IMAGE=build/image.tar"),
            directory=project.path,
            AWS_ENDPOINT_URL=account,
            DEPLOY_TOOL=f"{sys.executable} {tool}",
            ENGINE=f"{sys.executable} {ENGINE}",
        )
        assert process.returncode == 0, described(process)
        return process.stdout

    def deploy(stage: str) -> tuple[dict[str, list[str]], str]:
        """What the tool saw, and all that was said."""
        said = make("deploy", f"STAGE={stage}", "ZIP=build/lambda.zip")
        (seen,) = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        return seen, said

    def image() -> str:
        return make("image").splitlines()[-1].rpartition(":")[2]

    def pushed() -> set[str]:
        images = ecr.describe_images(repositoryName="statement-service-production-runner")
        return {tag for each in images["imageDetails"] for tag in each["imageTags"]}

    first = image()
    seen, said = deploy("dev")
    assert seen == {"tags": ["none"], "pushed": []}
    assert "Pushes" not in said

    seen, said = deploy("production")
    assert seen == {"tags": [first], "pushed": []}
    assert "After this first deployment: the image is pushed." in said
    assert pushed() == {first}

    # Other sources; the tasks' image is there when they are told of it.
    jobs = project.path / "src" / "statement_service" / "core" / "jobs.py"
    jobs.write_text(jobs.read_text("utf-8").replace("Hello, ", "Good day, "), "utf-8")
    second = image()
    assert second != first
    for _ in range(2):  # the second time there is nothing to push
        seen, said = deploy("production")
        assert seen["tags"] == [second]
        assert set(seen["pushed"]) == pushed() == {first, second}
    assert "It is there already: nothing to do." in said
