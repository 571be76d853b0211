"""The real command lines deploy, change and remove a service, against moto for AWS."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from ..baking import BakedProject, Template, described
from .aws import ACCOUNT, REGION, aws
from .conftest import TARGETS
from .pump import running
from .tools import NOWHERE, need_cdk, program, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Tried to parse .* but it's not supported by moto"),
]

STACK = "statement-service-dev"
PROGRAMS = {"sam": "sam", "cdk": "cdk", "serverless": "osls"}
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def account() -> Iterator[str]:
    with aws() as address:
        yield address


def client(account: str, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=account,
        region_name=NOWHERE["AWS_REGION"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


def for_this_python(project: BakedProject) -> None:
    """Have `make build` build for the interpreter at hand, which is to run the package here."""
    source = project.path / "tools" / "build.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(re.sub(r'(?m)^PYTHON = ".*"', f'PYTHON = "{PYTHON}"', text))


def outputs(account: str) -> dict[str, str]:
    (stack,) = client(account, "cloudformation").describe_stacks(StackName=STACK)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def live_version(account: str) -> str:
    alias = client(account, "lambda").get_alias(
        FunctionName=outputs(account)["WorkerFunction"], Name="live"
    )
    return str(alias["FunctionVersion"])


@pytest.mark.parametrize("target", TARGETS)
def test_deploy_change_use_remove(
    target: str, account: str, template: Template, tmp_path: Path
) -> None:
    if target == "cdk":
        need_cdk()
    # osls speaks to S3 by paths, the others by host names, which 127.0.0.1 cannot have.
    address = account.replace("localhost", "127.0.0.1") if target == "serverless" else account
    tool = {
        "DEPLOY_TOOL": program(PROGRAMS[target]),
        "AWS_ENDPOINT_URL": address,
        # moto fails where the CDK looks for an old change set.
        "CDK_METHOD": "direct",
    }
    process = template.cookiecutter(tmp_path, deploy_target=target, example="minimal")
    assert process.returncode == 0, described(process)
    project = BakedProject(tmp_path / "statement-service")
    for_this_python(project)

    def command(*words: str, directory: Path = project.path) -> None:
        process = run(*words, directory=directory, **tool, CONFIRM="dev")
        print(process.stdout)
        assert process.returncode == 0, described(process)

    if target == "cdk":
        command(program("cdk"), "bootstrap", f"aws://{ACCOUNT}/{REGION}", directory=tmp_path)
    command("make", "deploy", "STAGE=dev")
    first = live_version(account)

    # Changed code: a new version stands behind the alias.
    jobs = project.path / "src" / "statement_service" / "core" / "jobs.py"
    jobs.write_text(jobs.read_text("utf-8").replace("Hello, ", "Good day, "), "utf-8")
    command("make", "deploy", "STAGE=dev")
    assert int(live_version(account)) == int(first) + 1

    a_message_is_processed(account, project)

    command("make", "destroy", "STAGE=dev")
    stacks = client(account, "cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE"])
    assert STACK not in [stack["StackName"] for stack in stacks["StackSummaries"]]


def a_message_is_processed(account: str, project: BakedProject) -> None:
    """From the created queue through the built zip to the created bucket, ledger and all.

    A few lines stand in for the event source mapping.
    """
    made = outputs(account)
    sqs, s3 = client(account, "sqs"), client(account, "s3")
    body = '{"type": "greeting", "id": "g1", "name": "Ada"}'
    sqs.send_message(QueueUrl=made["WorkQueueUrl"], MessageBody=body)
    sqs.send_message(QueueUrl=made["WorkQueueUrl"], MessageBody='{"type": "greeting"}')
    received = sqs.receive_message(
        QueueUrl=made["WorkQueueUrl"], MaxNumberOfMessages=10, AttributeNames=["All"]
    )["Messages"]
    assert len(received) == 2
    event = {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:work",
                "awsRegion": "eu-central-1",
            }
            for message in received
        ]
    }
    function = client(account, "lambda").get_function_configuration(
        FunctionName=made["WorkerFunction"]
    )
    variables = function["Environment"]["Variables"] | NOWHERE | {"AWS_ENDPOINT_URL": account}
    # boto3 lies beside the runtime client on Lambda, and here in this environment.
    package = project.path / "build" / "unpacked"
    zipfile.ZipFile(project.path / "build" / "lambda.zip").extractall(package)
    with running(package, function["Handler"], variables, function["Timeout"]) as worker:
        assert worker(event) == {"batchItemFailures": []}
    document = s3.get_object(Bucket=made["DocumentsBucket"], Key="g1.txt")["Body"].read()
    assert document == b"Good day, Ada!\n"
    records = s3.list_objects_v2(Bucket=made["RecordsBucket"])["Contents"]
    assert len(records) == 1  # the malformed one, parked
    (item,) = client(account, "dynamodb").scan(TableName=made["LedgerTable"])["Items"]
    assert "completed" in item
