"""The real command lines deploy, change and remove a service, against moto for AWS."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..baking import BakedProject, Template, described
from .aws import ACCOUNT, REGION
from .conftest import TARGETS
from .pump import as_event
from .stage import STACK, client, deployed_worker, for_this_python, outputs
from .tools import need_cdk, program, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Tried to parse .* but it's not supported by moto"),
]

PROGRAMS = {"sam": "sam", "cdk": "cdk", "serverless": "osls"}


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
    queue = made["WorkQueueUrl"]
    body = '{"type": "greeting", "id": "g1", "name": "Ada"}'
    sqs.send_message(QueueUrl=queue, MessageBody=body)
    sqs.send_message(QueueUrl=queue, MessageBody='{"type": "greeting"}')
    received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, AttributeNames=["All"])[
        "Messages"
    ]
    assert len(received) == 2
    with deployed_worker(account, project) as worker:
        assert worker(as_event(received)) == {"batchItemFailures": []}
    document = s3.get_object(Bucket=made["DocumentsBucket"], Key="g1.txt")["Body"].read()
    assert document == b"Good day, Ada!\n"
    records = s3.list_objects_v2(Bucket=made["RecordsBucket"])["Contents"]
    assert len(records) == 1  # the malformed one, parked
    (item,) = client(account, "dynamodb").scan(TableName=made["LedgerTable"])["Items"]
    assert "completed" in item
