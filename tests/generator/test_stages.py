"""A stage that nobody configured is refused in words, before anything is called."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from ..baking import BakedProject, described, offered

FILES = {
    "sam": "deploy/samconfig.toml",
    "cdk": "deploy/stages.py",
    "serverless": "deploy/serverless.yml, under params",
}
SECTION = """
[prdo.deploy.parameters]
parameter_overrides = ["Stage=prdo", "CustomersUrl=https://c.example.com", "MailFrom=s@example.com"]
"""
# How a team adds a stage: what is written behind what, in the target's own file.
ADDED = {
    "sam": ("version = 0.1\n", SECTION),
    "cdk": ("    for stage in (\n", '        Stage("prdo"),\n'),
    "serverless": ("  production:\n", "    trafficShift: AllAtOnce\n  prdo:\n"),
}

AT_HOME = {
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "",
    "AWS_PROFILE": "ours",
    "AWS_ACCESS_KEY_ID": "",
}


def tool(project: BakedProject, *words: str, **variables: str) -> str:
    """What the service prints, with `echo` for its deployment tool."""
    archive = project.path / "build" / "lambda.zip"
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(b"")
    process = project.run(
        *(sys.executable, "-m", *words),
        **{"DEPLOY_TOOL": "echo", "CONFIRM": "prdo", "STAGE": "prdo", **AT_HOME, **variables},
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


@pytest.mark.parametrize("target", offered()["deploy_target"])
def test_a_stage_whose_functions_would_have_too_long_a_name_is_refused(
    target: str, bake: Callable[..., BakedProject]
) -> None:
    """Lambda takes 64 characters, and a service's own name may have 40."""
    project = bake(deploy_target=target, example="statements", overflow="fargate")
    path = project.path / FILES[target].partition(",")[0]
    place, words = ADDED[target]
    sound = path.read_text("utf-8")
    longest, longer = "production-e", "production-eu"
    assert len(f"{'x' * 40}-{longest}-dispatcher") == 64
    path.write_text(sound.replace(place, place + words.replace("prdo", longer)), "utf-8")
    said = tool(project, "tools.deploy", "test", longer)
    assert "up to 12 of" in said
    assert said.endswith("exit status 1")
    path.write_text(sound.replace(place, place + words.replace("prdo", longest)), "utf-8")
    said = tool(project, "tools.deploy", "deploy", longest)
    assert said.endswith("exit status 0"), said


def test_where_the_stage_cannot_be_reached_that_is_said_once(
    bake: Callable[..., BakedProject],
) -> None:
    project = bake()
    process = project.pytest(
        *("--ring", "staging", "--stage", "dev", "tests/scenarios"),
        AWS_DEFAULT_REGION="eu-central-1",
        AWS_ACCESS_KEY_ID="",
        AWS_CONFIG_FILE="/dev/null",
        AWS_SHARED_CREDENTIALS_FILE="/dev/null",
        AWS_EC2_METADATA_DISABLED="true",
    )
    assert process.returncode == 1
    assert process.stdout.count("cannot be tested: Unable to locate credentials") == 1


# A stage that was copied from another, with what was forgotten in it, and what is said of it.
COPIED = {
    "stack_name": (
        'stack_name = "statement-service-prdo"',
        'stack_name = "statement-service-staging"',
        "stack_name of prdo is statement-service-staging, and has to be statement-service-prdo.",
    ),
    "s3_prefix": (
        's3_prefix = "statement-service-prdo"',
        's3_prefix = "statement-service-staging"',
        "s3_prefix of prdo is statement-service-staging, and has to be statement-service-prdo.",
    ),
    "Stage": (
        '"Stage=prdo"',
        '"Stage=staging"',
        "parameter_overrides of prdo make a Stage=staging, and have to say Stage=prdo.",
    ),
    "no Stage": (
        '    "Stage=prdo",\n',
        "",
        "parameter_overrides of prdo make a Stage=dev, and have to say Stage=prdo.",
    ),
    "region": (
        "resolve_s3 = true",
        'resolve_s3 = true\nregion = "eu-west-1"',
        "region of prdo is eu-west-1, and has to be eu-central-1 as AWS_REGION says.",
    ),
    "region of all commands": (
        "[prdo.global.parameters]",
        '[prdo.global.parameters]\nregion = "eu-west-1"',
        "region of prdo is eu-west-1, and has to be eu-central-1 as AWS_REGION says.",
    ),
    "stack_name of one command": (
        "[prdo.deploy.parameters]",
        '[prdo.delete.parameters]\nstack_name = "statement-service-dev"\n[prdo.deploy.parameters]',
        "stack_name of prdo is statement-service-dev, and has to be statement-service-prdo.",
    ),
    "a parameter": (
        '    "MailFrom=statements@example.com",\n',
        "",
        "parameter_overrides of prdo lack what has no default in the template: MailFrom",
    ),
}


@pytest.mark.parametrize("forgotten", COPIED)
def test_what_sams_stage_has_of_another_is_refused(
    forgotten: str, bake: Callable[..., BakedProject]
) -> None:
    """Or `make destroy` would say the one stage and delete the other."""
    project = bake(deploy_target="sam", example="statements", overflow="fargate")
    config = project.path / "deploy" / "samconfig.toml"
    text = config.read_text("utf-8")
    copied = text[text.index("[staging.global") : text.index("[production.global")]
    config.write_text(text + copied.replace("staging", "prdo"), "utf-8")
    said = tool(project, "tools.deploy", "destroy", "prdo")
    assert said.startswith("Destroys stack statement-service-prdo with AWS SAM (profile ours, ")
    assert said.endswith("exit status 0")

    right, wrong, words = COPIED[forgotten]
    assert right in copied.replace("staging", "prdo")
    forgetful = copied.replace("staging", "prdo").replace(right, wrong)
    config.write_text(text + forgetful, "utf-8")
    refusal = f"deploy/samconfig.toml: {words}\nexit status 1"
    for command in ("deploy deploy", "deploy destroy", "deploy test", "push", "validate"):
        module, *verb = command.split()
        assert tool(project, f"tools.{module}", *verb, "prdo") == refusal


def test_sam_is_told_the_stack_that_is_announced(bake: Callable[..., BakedProject]) -> None:
    """Whatever its configuration has, or does not."""
    project = bake(deploy_target="sam", example="minimal")
    config = project.path / "deploy" / "samconfig.toml"
    stage = 'version = 0.1\n[prdo.deploy.parameters]\nparameter_overrides = "Stage=prdo"\n'
    config.write_text(stage + '[default.global.parameters]\nregion = "eu-west-1"\n', "utf-8")
    for verb in ("deploy", "destroy"):
        said = tool(project, "tools.deploy", verb, "prdo")
        assert " --config-env prdo --stack-name statement-service-prdo " in said
    assert "There is no stage default, only prdo." in tool(
        project, "tools.deploy", "destroy", "default"
    )


NO_REGION = {"AWS_REGION": "", "CONFIRM": "dev"}
ELSEWHERE = {
    "sam": "(profile ours, region of samconfig.toml, else of the profile)",
    "cdk": "(profile ours, region of the profile)",
    "serverless": "osls does not take the region from the profile: set AWS_REGION.\nexit status 1",
}


@pytest.mark.parametrize("target", offered()["deploy_target"])
def test_the_region_is_said_or_asked_for(target: str, bake: Callable[..., BakedProject]) -> None:
    project = bake(deploy_target=target, example="minimal", overflow="none")
    for verb in ("deploy", "destroy"):
        said = tool(project, "tools.deploy", verb, "dev", **NO_REGION)
        if target == "serverless":
            assert said == ELSEWHERE[target]
        else:
            assert ELSEWHERE[target] in said
    said = tool(project, "tools.deploy", "test", "dev", **NO_REGION)
    assert said.startswith(
        "Tests stack statement-service-dev (profile ours, region of the profile)"
    )


KEYS = "the keys of the environment (AWS_ACCESS_KEY_ID …WXYZ)"
BOTH = "AWS_PROFILE and AWS_ACCESS_KEY_ID are both set: the tools differ in which they take; unset one.\n"


@pytest.mark.parametrize(
    ("profile", "key", "warning", "said"),
    [
        ("", "", "", "profile default"),
        ("ours", "", "", "profile ours"),
        ("", "AKIAIOSFODNN7WXYZ", "", KEYS),
        ("ours", "AKIAIOSFODNN7WXYZ", BOTH, f"profile ours or {KEYS}"),
    ],
)
def test_whose_account_it_is_is_said(
    profile: str, key: str, warning: str, said: str, bake: Callable[..., BakedProject]
) -> None:
    project = bake(deploy_target="sam", example="minimal")
    printed = tool(
        *(project, "tools.deploy", "destroy", "dev"),
        AWS_PROFILE=profile,
        AWS_ACCESS_KEY_ID=key,
        CONFIRM="dev",
    )
    assert f"with AWS SAM ({said}, region eu-central-1):\n" in printed
    assert BOTH in printed if warning else BOTH not in printed


# What is typed instead of the word, as Python has it.
ANSWERS = {"ctrl-D": "EOFError", "ctrl-C": "KeyboardInterrupt", "another word": "['staging']"}


@pytest.mark.parametrize("answer", ANSWERS)
def test_who_does_not_type_the_word_has_not_confirmed(
    answer: str, bake: Callable[..., BakedProject]
) -> None:
    project = bake(deploy_target="sam", example="minimal")
    code = (
        "from unittest.mock import patch; from tools.deploy import confirmed; "
        f"patch('builtins.input', side_effect={ANSWERS[answer]}).start(); "
        "patch('sys.stdin').start(); print(confirmed('dev'))"
    )
    process = project.run(sys.executable, "-c", code, CONFIRM="")
    assert process.returncode == 0, described(process)
    assert process.stdout.split("\n")[-3:] == ["Not confirmed.", "False", ""]
