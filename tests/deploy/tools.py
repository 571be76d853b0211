"""The deployment tools, where `make deploy-tools` or the user's PATH has them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ..baking import ROOT, BakedProject, described, environment

CACHE = ROOT / ".cache"
PLACES = (
    CACHE / "npm" / "node_modules" / ".bin",
    CACHE / "sam" / "bin",
    CACHE / "node" / "bin",
    Path(sys.executable).parent,
)
# Stages as the projects have them.
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


# What the dispatcher needs for another service, whose dead letters it takes up, too.
POLICY = "arn:aws:iam::123456789012:policy/attached"


def give_tasks(
    project: BakedProject, target: str, stage: str, subnets: Sequence[str], group: str
) -> None:
    """Switch the overflow's tasks on, as a team would: in the settings of the stage."""
    joined = ",".join(subnets)
    name, place, settings = {
        "sam": (
            "deploy/samconfig.toml",
            f'    "Stage={stage}",\n',
            f'    "Subnets={joined}",\n    "SecurityGroups={group}",\n    "PublicIp=true",\n'
            '    "TaskCpu=2048",\n    "TaskMemory=4096",\n'
            f'    "DispatcherPolicy={POLICY}",\n',
        ),
        "cdk": (
            "deploy/stages.py",
            f'Stage("{stage}"',
            f", subnets={tuple(subnets)}, security_groups=({group!r},), public_ip=True"
            f", task_cpu=2048, task_memory=4096, dispatcher_policy={POLICY!r}",
        ),
        "serverless": (
            "deploy/serverless.yml",
            f"  {stage}:\n",
            f"    subnets: {joined}\n    securityGroups: {group}\n"
            '    publicIp: "true"\n    taskCpu: "2048"\n    taskMemory: "4096"\n'
            f"    dispatcherPolicy: {POLICY}\n",
        ),
    }[target]
    text = project.read(name)
    assert text.count(place) == 1, place
    (project.path / name).write_text(text.replace(place, place + settings), encoding="utf-8")


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


SYNTHESISE = """
import functools, json, os, sys
import aws_cdk as cdk

App = cdk.App
for project, stage, output in json.loads(sys.argv[1]):
    os.chdir(project)
    sys.path[0] = project
    for name in [name for name in sys.modules if name.partition(".")[0] == "deploy"]:
        del sys.modules[name]
    with open("cdk.json") as file:
        context = {**json.load(file)["context"], "stage": stage}
    cdk.App = functools.partial(App, outdir=output, context=context)
    from deploy import app
    app.main()
"""


def synthesised(jobs: Sequence[tuple[BakedProject, str]]) -> list[dict[str, Any]]:
    """What each project's app makes of a stage; in one process, which alone takes seconds to start.

    The command line hands an app its output directory and context in environment variables; here
    they are arguments of ``cdk.App``.
    """
    need_cdk()
    outputs = [project.path / "build" / f"cdk-{stage}" for project, stage in jobs]
    listed = [
        (str(project.path), stage, str(output))
        for (project, stage), output in zip(jobs, outputs, strict=True)
    ]
    process = subprocess.run(
        [sys.executable, "-c", SYNTHESISE, json.dumps(listed)],
        env=environment(**NOWHERE),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, described(process)
    return [read(next(output.glob("*.template.json"))) for output in outputs]


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
