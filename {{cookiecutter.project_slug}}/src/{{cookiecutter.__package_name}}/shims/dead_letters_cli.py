"""``dead-letters`` of the service's own command: messages that failed, here and on AWS.

::

    dead-letters ls                             of the process group that runs here
    dead-letters --stage production ls          of a deployed stage, with the caller's credentials
    dead-letters --records s3://bucket/ ls      of any record store
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from lambda_shim.dead_letters_cli import Tools, tools_of
from lambda_shim.dead_letters_cli import main as run
from lambda_shim.records import open_records
from local_sqs.cli import NotFound

from .cli import SERVICE, attach

if TYPE_CHECKING:
    from ..core.messages import Message

MORE = """They are those of the process group that runs here (--process-group ID, where several do);
of a deployed stage with --stage STAGE; of any record store with --records URL."""


def local(group_id: str | None) -> Tools:
    """Of a running process group. Raises NotFound."""
    from ..adapters.redis_queue import RedisQueue

    group = attach(group_id)
    redis = f"redis://{group['queue'].address}"
    return Tools(
        open_records(f"file://{group.directory}/dead-letters"),
        cache(lambda arn: RedisQueue(f"{redis}/{arn.rpartition(':')[2]}")),
{%- if cookiecutter.overflow == 'fargate' %}
        RedisQueue(f"{redis}/{group.variables['dead_letter_queue_name']}"),
        runner=bool(group.variables["subnets"]),
{%- else %}
        runner=False,
{%- endif %}
    )


def deployed(stage: str) -> Tools:
    """Of a deployed stage, whose stack says where they lie. Raises NotFound."""
    try:
        import boto3
    except ImportError:
        command = f"sh tools/uv.sh run --group aws {SERVICE} dead-letters --stage {stage} ls"
        raise NotFound(f"AWS is spoken to with boto3, which is not installed: {command}") from None
    from lambda_shim.sqs import {% if cookiecutter.overflow == 'fargate' %}SqsQueue, {% endif %}queue_of

    if region := os.environ.get("AWS_REGION"):  # which boto3 does not read
        boto3.setup_default_session(region_name=region)
    stack = f"{SERVICE}-{stage}"
    cloudformation = boto3.client("cloudformation")
    try:
        (found,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    except cloudformation.exceptions.ClientError as error:
        raise NotFound(f"{stack}: {error}") from None
    outputs = {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", ())}
    if "RecordsBucket" not in outputs:
        raise NotFound(f"{stack} has no record store: its status is {found['StackStatus']}")
    return Tools(
        open_records(f"s3://{outputs['RecordsBucket']}/"),
        cache(queue_of),
{%- if cookiecutter.overflow == 'fargate' %}
        SqsQueue(outputs["DeadLetterQueueUrl"]),
        runner="OverflowCluster" in outputs,  # which there is with subnets only
{%- else %}
        runner=False,
{%- endif %}
    )


def decode(body: str) -> "Message":
    """For business ids. Imported late: a service whose messages cannot be imported has dead letters
    all the more."""
    from ..core import messages

    return messages.decode(body)


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit status: 0 done, 1 not all of it, 2 a wrong call."""
    ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ours.add_argument("--stage")
    ours.add_argument("--process-group")
    options, rest = ours.parse_known_args(arguments)

    def open_tools(records: str | None) -> Tools:
        if records is not None:
            return tools_of(records)
        if options.stage is not None:
            return deployed(options.stage)
        return local(options.process_group)

    try:
        return run(rest, open_tools, f"{SERVICE} dead-letters", MORE, decode)
    except NotFound as error:
        print(error, file=sys.stderr)
        return 1
