"""One fact, one value: the deployment, the blueprint and the build agree."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
BUILD = (PROJECT / "tools" / "build.py").read_text("utf-8")


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's tags as what they tag."""


def _untagged(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _untagged)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    text = (PROJECT / "deploy" / "template.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.load(text, Loader=_Loader)
    return loaded


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    text = (PROJECT / "blueprints" / "service.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)["variables"]
    return loaded


def test_the_local_queue_is_the_deployed_queue(
    template: dict[str, Any], variables: dict[str, Any]
) -> None:
    resources = template["Resources"]
    queue = resources["WorkQueue"]["Properties"]
    worker = resources["Worker"]["Properties"]
    mapping = worker["Events"]["WorkQueue"]["Properties"]
    environment = template["Globals"]["Function"]["Environment"]["Variables"]
    assert {
        "function_timeout": worker["Timeout"],
        "memory_mb": worker["MemorySize"],
        "visibility_timeout": queue["VisibilityTimeout"],
        "max_receive_count": queue["RedrivePolicy"]["maxReceiveCount"],
        "batch_size": mapping["BatchSize"],
        "batching_window": mapping["MaximumBatchingWindowInSeconds"],
        "concurrency": mapping["ScalingConfig"]["MaximumConcurrency"],
        "handler": worker["Handler"],
    }.items() <= variables.items()
    assert environment["MAX_RECEIVE_COUNT"] == str(variables["max_receive_count"])


def test_every_setting_is_deployed_and_rendered_locally(template: dict[str, Any]) -> None:
    from {{ cookiecutter.__package_name }}.core.settings import Settings

    settings = set(Settings.__struct_encode_fields__)
    rendered = (PROJECT / "blueprints" / "templates" / "settings.json.j2").read_text("utf-8")
    assert set(template["Globals"]["Function"]["Environment"]["Variables"]) == settings
    assert set(re.findall(r'"([A-Z_]+)":', rendered)) == settings


def test_the_visibility_timeout_is_six_function_timeouts(variables: dict[str, Any]) -> None:
    """As AWS advises: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html."""
    assert variables["visibility_timeout"] == 6 * variables["function_timeout"]


def test_the_package_is_built_for_the_deployed_runtime(template: dict[str, Any]) -> None:
    function = template["Globals"]["Function"]
    assert f'PYTHON = "{function["Runtime"].removeprefix("python")}"' in BUILD
    assert [f'ARCHITECTURE = "{name}"' in BUILD for name in function["Architectures"]] == [True]
