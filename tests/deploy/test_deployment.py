"""The real command lines deploy, change and remove a service, against moto for AWS."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ..baking import BakedProject, Template, described
from .aws import ACCOUNT, REGION
from .conftest import TARGETS
from .pump import as_event
from .stage import STACK, client, deployed, for_this_python, outputs
from .tools import POLICY, give_tasks, need_cdk, program, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Tried to parse .* but it's not supported by moto"),
]

ENGINE = Path(__file__).with_name("engine.py")
BILLING = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:billing"
BILLING_ROLE = f"arn:aws:iam::{ACCOUNT}:role/billing-overflow"
PROGRAMS = {"sam": "sam", "cdk": "cdk", "serverless": "osls"}


def live_version(account: str) -> str:
    alias = client(account, "lambda").get_alias(
        FunctionName=outputs(account)["WorkerFunction"], Name="live"
    )
    return str(alias["FunctionVersion"])


class Deployment:
    """A service, and the real tool that brings it to the account."""

    def __init__(
        self, template: Template, directory: Path, account: str, target: str, **answers: str
    ) -> None:
        process = template.cookiecutter(
            directory, deploy_target=target, example="minimal", **answers
        )
        assert process.returncode == 0, described(process)
        self.project = BakedProject(directory / "statement-service")
        self.account = account
        # osls speaks to S3 by paths, the others by host names, which 127.0.0.1 cannot have.
        address = account.replace("localhost", "127.0.0.1") if target == "serverless" else account
        self.environment = {
            "DEPLOY_TOOL": program(PROGRAMS[target]),
            "AWS_ENDPOINT_URL": address,
            # moto fails where the CDK looks for an old change set.
            "CDK_METHOD": "direct",
            "CONFIRM": "dev",
            "ENGINE": f"{sys.executable} {ENGINE}",
        }
        for_this_python(self.project)
        if target == "cdk":
            need_cdk()
            self.run(program("cdk"), "bootstrap", f"aws://{ACCOUNT}/{REGION}", directory=directory)

    def run(self, *words: str, directory: Path | None = None) -> None:
        process = run(*words, directory=directory or self.project.path, **self.environment)
        print(process.stdout)
        assert process.returncode == 0, described(process)

    def make(self, verb: str) -> None:
        self.run("make", verb, "STAGE=dev")


@pytest.mark.parametrize("target", TARGETS)
def test_deploy_change_use_remove(
    target: str, account: str, template: Template, tmp_path: Path
) -> None:
    deployment = Deployment(template, tmp_path, account, target)
    project = deployment.project
    archive = project.path / "build" / "lambda.zip"
    deployment.make("deploy")
    first = live_version(account)
    a_dead_letter_is_parked(deployment)

    # Changed code alone: a new version stands behind the alias.
    another_service_attaches(deployment)
    jobs = project.path / "src" / "statement_service" / "core" / "jobs.py"
    jobs.write_text(jobs.read_text("utf-8").replace("Hello, ", "Good day, "), "utf-8")
    deployment.make("deploy")
    assert int(live_version(account)) == int(first) + 1

    # So it does when tasks are switched on, with the same code. (For SAM: because the version's
    # description changes. That CloudFormation then makes a new one, moto is told in aws.py.)
    code = archive.read_bytes()
    network = client(account, "ec2")
    subnets = [subnet["SubnetId"] for subnet in network.describe_subnets()["Subnets"]]
    group = network.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    give_tasks(project, target, "dev", subnets[:2], group)
    if target == "sam":  # as a person does it; the others as the workflow does
        deployment.make("push")
        deployment.make("deploy")
    else:
        deployment.run("make", "image", "IMAGE=build/image.tar")
        deployment.run("make", "deploy", "STAGE=dev", "IMAGE=build/image.tar")
    assert int(live_version(account)) == int(first) + 2
    assert archive.read_bytes() == code

    a_message_is_processed(deployment, "Good day, Ada!")
    a_dead_letter_becomes_a_task(deployment)
    another_services_dead_letter_becomes_a_task_with_its_role(deployment)

    theirs = another_stages_code(deployment) if target == "sam" else set()
    deployment.make("destroy")
    for bucket, key in theirs:
        client(account, "s3").head_object(Bucket=bucket, Key=key)
    stacks = client(account, "cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE"])
    assert STACK not in [stack["StackName"] for stack in stacks["StackSummaries"]]


def test_a_fifo_queue_is_deployed_and_used(
    account: str, template: Template, tmp_path: Path
) -> None:
    deployment = Deployment(template, tmp_path, account, "serverless", queue_type="fifo")
    deployment.make("deploy")
    a_message_is_processed(deployment, "Hello, Ada!", MessageGroupId="g")
    a_dead_letter_is_redriven_to_its_group(deployment)


def another_stages_code(deployment: Deployment) -> set[tuple[str, str]]:
    """Where SAM puts the very same zip for another stage: its bucket and key."""
    deployment.run("make", "deploy", "STAGE=staging", "ZIP=build/lambda.zip")
    made = client(deployment.account, "cloudformation").get_template(
        StackName="statement-service-staging", TemplateStage="Original"
    )
    found = set(re.findall(r"s3://([^/]+)/([\w./-]+)", str(made["TemplateBody"])))
    assert found
    return found


def a_message_is_processed(deployment: Deployment, greeting: str, **group: str) -> None:
    """From the created queue through the built zip to the created bucket, ledger and all.

    A few lines stand in for the event source mapping.
    """
    made = outputs(deployment.account)
    sqs, s3 = client(deployment.account, "sqs"), client(deployment.account, "s3")
    queue = made["WorkQueueUrl"]
    body = '{"type": "greeting", "id": "g1", "name": "Ada"}'
    sqs.send_message(QueueUrl=queue, MessageBody=body, **group)
    sqs.send_message(QueueUrl=queue, MessageBody='{"type": "greeting"}', **group)
    received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, AttributeNames=["All"])[
        "Messages"
    ]
    assert len(received) == 2
    known = len(records(deployment))
    with deployed(deployment.account, deployment.project, "WorkerFunction") as worker:
        assert worker(as_event(received, arn(sqs, queue))) == {"batchItemFailures": []}
    document = s3.get_object(Bucket=made["DocumentsBucket"], Key="g1.txt")["Body"].read()
    assert document.decode() == f"{greeting}\n"
    assert len(records(deployment)) == known + 1  # the malformed one, parked
    (item,) = client(deployment.account, "dynamodb").scan(TableName=made["LedgerTable"])["Items"]
    assert "completed" in item


def arn(sqs: Any, queue: str) -> str:
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    return str(attributes["Attributes"]["QueueArn"])


def records(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """The dead-letter records in the created bucket, by message id."""
    s3, bucket = client(deployment.account, "s3"), outputs(deployment.account)["RecordsBucket"]
    found = s3.list_objects_v2(Bucket=bucket, Delimiter="/").get("Contents", ())
    return {
        each["Key"].removesuffix(".json"): json.loads(
            s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
        )
        for each in found
    }


def dispatched(deployment: Deployment, **group: str) -> dict[str, Any]:
    """The record of a message that SQS dead-letters, once the dispatcher has taken it."""
    made, sqs = outputs(deployment.account), client(deployment.account, "sqs")
    queue, dead = made["WorkQueueUrl"], made["DeadLetterQueueUrl"]
    body = '{"type": "greeting", "id": "slow"}'
    sent = sqs.send_message(QueueUrl=queue, MessageBody=body, **group)
    for _ in range(6):  # five deliveries are permitted
        sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0)
    received = sqs.receive_message(QueueUrl=dead, AttributeNames=["All"])["Messages"]
    assert [message["MessageId"] for message in received] == [sent["MessageId"]]
    received[0]["Attributes"]["DeadLetterQueueSourceArn"] = arn(sqs, queue)  # as AWS has it
    dispatch(deployment, received)
    return records(deployment)[sent["MessageId"]]


def dispatch(deployment: Deployment, received: list[dict[str, Any]]) -> None:
    sqs, dead = client(deployment.account, "sqs"), outputs(deployment.account)["DeadLetterQueueUrl"]
    with deployed(deployment.account, deployment.project, "DispatcherFunction") as dispatcher:
        assert dispatcher(as_event(received, arn(sqs, dead))) == {"batchItemFailures": []}
    for message in received:
        sqs.delete_message(QueueUrl=dead, ReceiptHandle=message["ReceiptHandle"])


def a_dead_letter_is_parked(deployment: Deployment) -> None:
    """Without subnets there are no tasks, nor what they would need."""
    record = dispatched(deployment)
    assert "state" not in record  # as of every record that is parked
    assert record["reason"] == "no_runner"
    assert client(deployment.account, "ecs").list_clusters()["clusterArns"] == []


def a_dead_letter_is_redriven_to_its_group(deployment: Deployment) -> None:
    """Of a service without tasks, by its own command."""
    record = dispatched(deployment, MessageGroupId="g7")
    assert (record["reason"], record["attributes"]["MessageGroupId"]) == ("dead_lettered", "g7")
    uv = ("sh", "tools/uv.sh", "run", "--quiet", "--group", "aws")
    command = (*uv, "statement-service", "dead-letters", "--stage", "dev")
    deployment.run(*command, "redrive", record["message_id"])
    sqs, queue = client(deployment.account, "sqs"), outputs(deployment.account)["WorkQueueUrl"]
    (back,) = sqs.receive_message(QueueUrl=queue, AttributeNames=["All"])["Messages"]
    assert (back["Body"], back["Attributes"]["MessageGroupId"]) == (record["body"], "g7")
    assert record["message_id"] not in records(deployment)


def a_dead_letter_becomes_a_task(deployment: Deployment) -> None:
    """The created definition, with the image that was pushed, is run on the created cluster."""
    record = dispatched(deployment)
    assert record["state"] == "waiting"
    ecs, cluster = client(deployment.account, "ecs"), outputs(deployment.account)["OverflowCluster"]
    (task,) = ecs.list_tasks(cluster=cluster)["taskArns"]
    (task,) = ecs.describe_tasks(cluster=cluster, tasks=[task])["tasks"]
    (overrides,) = task["overrides"]["containerOverrides"]
    pointer = {each["name"]: each["value"] for each in overrides["environment"]}
    assert pointer["OVERFLOW_RECORD"] == record["message_id"]
    definition = ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])
    (container,) = definition["taskDefinition"]["containerDefinitions"]
    repository, _, tag = container["image"].rpartition(":")
    assert repository == outputs(deployment.account)["ImageRepository"]
    (image,) = client(deployment.account, "ecr").describe_images(
        repositoryName=repository.partition("/")[2]
    )["imageDetails"]
    assert image["imageTags"] == [tag]


def another_service_attaches(deployment: Deployment) -> None:
    """Its function is registered, and the dispatcher may pass on its role."""
    function = {"function": BILLING, "pool": "billing", "role": BILLING_ROLE}
    registry = deployment.project.path / "src" / "statement_service" / "overflow" / "registry.json"
    registry.write_text(json.dumps({"functions": [function]}))
    allowed = {"Effect": "Allow", "Action": "iam:PassRole", "Resource": BILLING_ROLE}
    policy = client(deployment.account, "iam").create_policy(
        PolicyName=POLICY.rpartition("/")[2],
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
    )
    assert policy["Policy"]["Arn"] == POLICY


def another_services_dead_letter_becomes_a_task_with_its_role(deployment: Deployment) -> None:
    """As a function's on-failure destination sends it; what is not registered is parked."""
    made, sqs = outputs(deployment.account), client(deployment.account, "sqs")
    failed = {"requestContext": {"functionArn": BILLING}, "requestPayload": {"bill": 7}}
    unknown = {"requestContext": {"functionArn": BILLING + "-2"}, "requestPayload": {}}
    sent = [
        sqs.send_message(QueueUrl=made["DeadLetterQueueUrl"], MessageBody=json.dumps(body))
        for body in (failed, unknown)
    ]
    dispatch(
        deployment,
        sqs.receive_message(
            QueueUrl=made["DeadLetterQueueUrl"], MaxNumberOfMessages=10, AttributeNames=["All"]
        )["Messages"],
    )
    known = records(deployment)
    one, other = (known[message["MessageId"]] for message in sent)
    assert (one["state"], one["pool"]) == ("waiting", "billing")
    assert other["reason"] == "not_registered"
    ecs, cluster = client(deployment.account, "ecs"), made["OverflowCluster"]
    tasks = ecs.list_tasks(cluster=cluster)["taskArns"]
    tasks = ecs.describe_tasks(cluster=cluster, tasks=tasks)["tasks"]
    assert BILLING_ROLE in [task["overrides"].get("taskRoleArn") for task in tasks]
    assert len({task["taskDefinitionArn"] for task in tasks}) == 1  # the service's own serves both
