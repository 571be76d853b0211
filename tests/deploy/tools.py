"""The deployment tools, where `make deploy-tools` or the user's PATH has them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..baking import ROOT, BakedProject, described

CACHE = ROOT / ".cache"
PLACES = (
    CACHE / "npm" / "node_modules" / ".bin",
    CACHE / "sam" / "bin",
    CACHE / "node" / "bin",
    Path(sys.executable).parent,
)
# The values that each stage's files give the parameters.
STAGES = ("dev", "production")
# What a developer's machine may have set, and what no test may reach.
NOWHERE = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "SAM_CLI_TELEMETRY": "0",
    "SLS_TELEMETRY_DISABLED": "1",
    "SLS_NOTIFICATIONS_MODE": "off",
    "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1",
}


def program(name: str) -> str:
    """The path of a tool; the test is skipped, and says why, where it is not installed."""
    path = os.pathsep.join([*map(str, PLACES), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed (make deploy-tools)")
    return found


def need_cdk() -> None:
    """Skip the test where the CDK's library or node is missing."""
    program("node")
    if importlib.util.find_spec("aws_cdk") is None:
        pytest.skip("aws-cdk-lib is not installed (make deploy-tools)")


def template_of(project: BakedProject, target: str, stage: str) -> dict[str, Any]:
    """The CloudFormation that the target's own tool makes of the project for a stage."""
    return {"sam": translated, "cdk": synthesised, "serverless": packaged}[target](project, stage)


def samconfig_parameters(project: BakedProject, stage: str) -> dict[str, str]:
    """What samconfig.toml gives the template's parameters."""
    import tomllib

    config = tomllib.loads(project.read("deploy/samconfig.toml"))
    pairs = config[stage]["deploy"]["parameters"]["parameter_overrides"]
    return dict(pair.split("=", 1) for pair in pairs)


def translated(project: BakedProject, stage: str) -> dict[str, Any]:
    """SAM's transform, as it runs in CloudFormation."""
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator
    from samtranslator.yaml_helper import yaml_parse

    os.environ.setdefault("AWS_DEFAULT_REGION", "eu-central-1")
    source = yaml_parse(project.read("deploy/template.yaml"))
    source["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    translator = Translator(managed_policy_map={}, sam_parser=Parser())
    made: dict[str, Any] = translator.translate(source, samconfig_parameters(project, stage))
    return made


def synthesised(project: BakedProject, stage: str) -> dict[str, Any]:
    need_cdk()
    output = project.path / "build" / f"cdk-{stage}"
    context = json.loads(project.read("cdk.json"))["context"]
    process = project.run(
        *(sys.executable, "-m", "deploy.app"),
        CDK_OUTDIR=str(output),
        CDK_CONTEXT_JSON=json.dumps({**context, "stage": stage}),
        **NOWHERE,
    )
    assert process.returncode == 0, described(process)
    return read(next(output.glob("*.template.json")))


def packaged(project: BakedProject, stage: str) -> dict[str, Any]:
    output = project.path / "build" / f"serverless-{stage}"
    process = BakedProject(project.path / "deploy").run(
        *(program("osls"), "package", "--stage", stage, "--package", str(output)), **NOWHERE
    )
    assert process.returncode == 0, described(process)
    return read(output / "cloudformation-template-update-stack.json")


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def placeholder_zip(project: BakedProject) -> None:
    """A package whose content does not matter, where only the templates are looked at."""
    import zipfile

    archive = project.path / "build" / "lambda.zip"
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("placeholder.py", "")


def run(*command: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return BakedProject(directory).run(*command, **NOWHERE | variables)
