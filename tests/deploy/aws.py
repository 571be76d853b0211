"""moto's server standing in for AWS, with what its CloudFormation lacks for this stack.

Added: SAM's transform (the very translator that AWS runs), a version's own attributes and that a
changed one is replaced, aliases, functions' URLs, alarms' ARNs, and the outputs and the order of changes of a changed
stack, and conditions that change with it.
What moto does not know at all (CodeDeploy, dashboards and the like) it passes over, so these tests say
nothing about rollouts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from moto.awslambda.models import LambdaVersion, lambda_backends
from moto.cloudformation import models, parsing
from moto.cloudformation.models import (
    ChangeSet,
    CloudFormationBackend,
    Stack,
    cloudformation_backends,
)
from moto.core.common_models import CloudFormationModel
from moto.ecr.models import Repository, ecr_backends
from moto.ecs.models import EC2ContainerServiceBackend
from moto.moto_api._internal.models import moto_api_backend
from moto.server import ThreadedMotoServer
from moto.sqs.models import Queue

from .parity import settled

ACCOUNT = "123456789012"
REGION = "eu-central-1"


class _GoesAlong:
    """What need not be deleted: it goes with its function, or does nothing that could be stopped."""

    @classmethod
    def delete_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> None:
        """Nothing."""


class Alias(_GoesAlong, CloudFormationModel):
    """AWS::Lambda::Alias."""

    def __init__(self, properties: dict[str, Any], account_id: str, region_name: str) -> None:
        backend = lambda_backends[account_id][region_name]
        name, function = properties["Name"], properties["FunctionName"]
        version = properties["FunctionVersion"]
        try:
            backend.get_alias(name, function)
        except Exception:  # moto's error for what is not there
            alias = backend.create_alias(name, function, version, "", "")
        else:
            alias = backend.update_alias(name, function, version, "", "")
        self.arn = alias.arn

    @property
    def physical_resource_id(self) -> str:
        return str(self.arn)

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Lambda::Alias"

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> Alias:
        return cls(cloudformation_json["Properties"], account_id, region_name)

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Any,
        new_resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> Alias:
        return cls(cloudformation_json["Properties"], account_id, region_name)


class Url(_GoesAlong, CloudFormationModel):
    """AWS::Lambda::Url."""

    # Where a test answers for the function; moto answers nowhere.
    address = ""

    def __init__(self, arn: str) -> None:
        self.physical_resource_id = arn  # as in AWS, the function's

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr in ("FunctionUrl", "FunctionArn")

    def get_cfn_attribute(self, attribute_name: str) -> str:
        return self.physical_resource_id if attribute_name == "FunctionArn" else self.address

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Lambda::Url"

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> Url:
        properties = cloudformation_json["Properties"]
        arn: str = properties["TargetFunctionArn"]
        lambda_backends[account_id][region_name].create_function_url_config(arn, properties)
        return cls(arn)


class Alarm(_GoesAlong, CloudFormationModel):
    """AWS::CloudWatch::Alarm: its name and ARN, and nothing that it would do."""

    def __init__(self, name: str, account_id: str, region_name: str) -> None:
        self.physical_resource_id = name
        self.arn = f"arn:aws:cloudwatch:{region_name}:{account_id}:alarm:{name}"

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr == "Arn"

    def get_cfn_attribute(self, attribute_name: str) -> str:
        assert attribute_name == "Arn", attribute_name
        return self.arn

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::CloudWatch::Alarm"

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> Alarm:
        return cls(resource_name, account_id, region_name)

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Alarm,
        new_resource_name: str,
        cloudformation_json: dict[str, Any],
        account_id: str,
        region_name: str,
    ) -> Alarm:
        return original_resource


def _version_attribute(version: LambdaVersion, name: str) -> str:
    assert name == "Version", name
    return str(version.version)


def _replace_version(
    original_resource: LambdaVersion,
    new_resource_name: str,
    cloudformation_json: dict[str, Any],
    account_id: str,
    region_name: str,
) -> LambdaVersion:
    """Whatever changes of a version, CloudFormation makes a new one, and the alias follows."""
    made = LambdaVersion.create_from_cloudformation_json(
        new_resource_name, cloudformation_json, account_id, region_name
    )
    backend = lambda_backends[account_id][region_name]
    function = cloudformation_json["Properties"]["FunctionName"]
    for alias in list(backend.list_aliases(function)):
        if str(alias.function_version) == str(original_resource.version):
            backend.update_alias(alias.name, function, str(made.version), "", "")
    return made


def _make_queue(
    name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_: Any
) -> Queue:
    """The names that CloudFormation makes up for FIFO queues end as they must."""
    ending = ".fifo" if cloudformation_json["Properties"].get("FifoQueue") else ""
    made: Queue = _plain_make_queue(name + ending, cloudformation_json, account_id, region_name)
    return made


def _parse(template: str) -> dict[str, Any]:
    """A template as CloudFormation works with it: SAM's transform done."""
    parsed: dict[str, Any] = _plain_parse(template)
    if parsed.get("Transform") != "AWS::Serverless-2016-10-31":
        return parsed
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    os.environ.setdefault("AWS_DEFAULT_REGION", REGION)
    translator = Translator(managed_policy_map={}, sam_parser=Parser())
    made: dict[str, Any] = translator.translate(parsed, {})
    return made


def _parse_change_set(change_set: ChangeSet) -> None:
    change_set.template_dict = _parse(change_set.template)


def _apply(change_set: ChangeSet) -> None:
    """What moto does, and the outputs made anew, which it forgets."""
    _plain_apply(change_set)
    stack = change_set.stack
    stack.template = change_set.template
    stack._parse_template()
    stack.output_map = stack._create_output_map()
    exports = cloudformation_backends[stack.account_id][stack.region_name].exports
    exports.update({export.name: export for export in stack.exports})


def _settled(template: dict[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions decided once: moto overlooks resources that come or go with them.

    Those of a tool's own stack may be of other kinds; they stay moto's.
    """
    if "Conditions" not in template:
        return template
    given = template.get("Parameters", {}).items()
    defaults = {name: parameter.get("Default") for name, parameter in given}
    try:
        return settled(template, {**defaults, **parameters})
    except ValueError:
        return template


def _create(resources: parsing.ResourceMap, template: dict[str, Any]) -> bool:
    created: bool = _plain_create(resources, _settled(template, resources.input_parameters))
    return created


def _update(
    resources: parsing.ResourceMap,
    template: dict[str, Any],
    parameters: dict[str, Any] | None = None,
) -> None:
    """What is new and functions first, then the versions made of them; moto alone adds before it
    changes."""
    template = _settled(template, parameters or resources.input_parameters)
    known = resources._resource_json_map
    earlier = {
        name: resource
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Lambda::Function"
        or (name not in known and resource["Type"] != "AWS::Lambda::Version")
    }
    if any(name in known for name in earlier):
        _plain_update(resources, {**template, "Resources": {**known, **earlier}}, parameters)
    _plain_update(resources, template, parameters)


def _resolve_parameters(
    backend: CloudFormationBackend, instance: Any, incoming_params: list[dict[str, Any]]
) -> dict[str, str]:
    """A previous value that nobody gave is the default, which moto does not look up."""
    known = [
        one
        for one in incoming_params
        if "ParameterValue" in one or one["ParameterKey"] in instance.parameters
    ]
    resolved: dict[str, str] = _plain_resolve(backend, instance, known)
    return resolved


_plain_resolve = CloudFormationBackend._resolve_update_parameters
_plain_make_queue = Queue.create_from_cloudformation_json
_plain_create = parsing.ResourceMap.create
_plain_update = parsing.ResourceMap.update
_plain_parse = Stack.parse_template
_plain_apply = ChangeSet.apply


PATCHES: tuple[tuple[object, str, object], ...] = (
    (LambdaVersion, "physical_resource_id", property(lambda version: f"v{version.version}")),
    (LambdaVersion, "has_cfn_attr", classmethod(lambda _, name: name == "Version")),
    (LambdaVersion, "get_cfn_attribute", _version_attribute),
    (LambdaVersion, "update_from_cloudformation_json", staticmethod(_replace_version)),
    # Versions are retained.
    (LambdaVersion, "delete_from_cloudformation_json", classmethod(lambda *_, **__: None)),
    (Stack, "parse_template", staticmethod(_parse)),
    (ChangeSet, "_parse_template", _parse_change_set),
    (ChangeSet, "apply", _apply),
    (parsing.ResourceMap, "update", _update),
    (parsing.ResourceMap, "create", _create),
    (CloudFormationBackend, "_resolve_update_parameters", _resolve_parameters),
    (Queue, "create_from_cloudformation_json", staticmethod(_make_queue)),
    # The stack's repository says EmptyOnDelete.
    (
        Repository,
        "delete",
        lambda it, account, region: ecr_backends[account][region].delete_repository(
            it.name, force=True
        ),
    ),
    # On Fargate the task has memory; moto adds up that of containers, which need none.
    (
        EC2ContainerServiceBackend,
        "_calculate_task_resource_requirements",
        staticmethod(lambda _: {"CPU": 0, "MEMORY": 0, "PORTS": [], "PORTS_UDP": []}),
    ),
    # moto's own mapping would run the function in Docker; the pump stands in for it.
    (Queue, "lambda_event_source_mappings", property(lambda _: {}, lambda *_: None)),
    # It would refuse what cfn-lint merely warns of; `make validate` lints.
    (models, "validate_template_cfn_lint", lambda _: []),
)


@contextmanager
def aws() -> Iterator[str]:
    """The address of a new, empty account; `localhost`, for S3's buckets are names before it."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, value in PATCHES:
            patch.setattr(owner, name, value, raising=False)
        for cached in (parsing.get_model_list, parsing.get_model_map, parsing.get_name_type_map):
            cached.cache_clear()
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        moto_api_backend.reset()  # what an earlier one, which failed perhaps, has left behind
        try:
            yield f"http://localhost:{server.get_host_and_port()[1]}"
        finally:
            server.stop()
