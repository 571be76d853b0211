"""A service's own `dead-letters` command, against a deployed stage: moto stands in for AWS."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ..baking import BakedProject, environment

REGION = "eu-central-1"
STACK = {
    "Resources": {
        "WorkQueue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "work"}},
        "Dead": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "dead"}},
        "Records": {"Type": "AWS::S3::Bucket"},
    },
    "Outputs": {
        "WorkQueueUrl": {"Value": {"Ref": "WorkQueue"}},
        "DeadLetterQueueUrl": {"Value": {"Ref": "Dead"}},
        "RecordsBucket": {"Value": {"Ref": "Records"}},
    },
}
RECORD = {
    "message_id": "m1",
    "reason": "retries_exhausted",
    "error": "OSError: mail server down",
    "body": '{"type": "statement", "customer_id": "c001", "month": "2026-10"}',
    "attempts": 5,
    "source": f"arn:aws:sqs:{REGION}:123456789012:work",
    "function": "statement-service-dev-worker:7",
    "request_id": "r1",
    "parked_at": "2026-11-01T06:00:00.000+00:00",
    "business_id": "statement-2026-10-c001",
}


@pytest.fixture
def aws() -> Iterator[dict[str, str]]:
    """The variables with which a program finds a stand-in for AWS, where a stage is deployed."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    try:
        yield variables
    finally:
        server.stop()


def client(service: str, aws: dict[str, str]) -> Any:
    return boto3.client(
        service,
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


def dead_letters(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The service's own command, with these environment variables."""
    return subprocess.run(
        [sys.executable, "-m", "statement_service.shims.cli", "dead-letters", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=variables,
    )


def test_a_parked_message_of_a_stage_is_redriven(
    bake: Callable[..., BakedProject], aws: dict[str, str]
) -> None:
    service = bake()
    variables = environment(**aws) | {"PYTHONPATH": service.imports}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return dead_letters(variables, "--stage", "dev", *arguments)

    process = run("ls")
    assert process.returncode == 1
    assert "statement-service-dev" in process.stderr
    assert "Traceback" not in process.stderr

    cloudformation = client("cloudformation", aws)
    # As a stack is whose first deployment has failed, or goes on.
    without_outputs = json.dumps({"Resources": STACK["Resources"]})
    cloudformation.create_stack(StackName="statement-service-qa", TemplateBody=without_outputs)
    process = dead_letters(variables, "--stage", "qa", "ls")
    assert process.returncode == 1
    said = "statement-service-qa has no record store: its status is CREATE_COMPLETE\n"
    assert process.stderr == said
    cloudformation.create_stack(StackName="statement-service-dev", TemplateBody=json.dumps(STACK))
    (stack,) = cloudformation.describe_stacks(StackName="statement-service-dev")["Stacks"]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
    client("s3", aws).put_object(
        Bucket=outputs["RecordsBucket"], Key="m1.json", Body=json.dumps(RECORD).encode()
    )

    process = run("ls")
    assert process.returncode == 0, process.stderr
    assert "statement-2026-10-c001" in process.stdout
    process = run("redrive", "--reason", "retries_exhausted", "--json")
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["done"] == ["m1"]
    received = client("sqs", aws).receive_message(QueueUrl=outputs["WorkQueueUrl"])
    assert [each["Body"] for each in received["Messages"]] == [RECORD["body"]]
    assert json.loads(run("ls", "--json").stdout) == []


def test_what_sqs_dead_lettered_is_found_by_its_business_id(
    bake: Callable[..., BakedProject], tmp_path: Path
) -> None:
    service = bake()
    never_decoded = RECORD | {"reason": "dead_lettered", "business_id": None}
    (tmp_path / "m1.json").write_text(json.dumps(never_decoded))
    (tmp_path / "m2.json").write_text(json.dumps(never_decoded | {"message_id": "m2", "body": "}"}))

    def listed(*filters: str) -> dict[str, str | None]:
        variables = environment(PYTHONPATH=service.imports)
        store = ["--records", f"file://{tmp_path}"]
        process = dead_letters(variables, *store, "ls", "--json", *filters)
        assert process.returncode == 0, process.stderr
        return {each["key"]: each["business_id"] for each in json.loads(process.stdout)}

    assert listed() == {"m1": RECORD["business_id"], "m2": None}
    assert listed("--business-id", "statement-2026-10-c001") == {"m1": RECORD["business_id"]}
    # What cannot be imported hides no dead letters.
    (service.path / "src/statement_service/core/messages.py").write_text(
        "import nothing_of_the_kind"
    )
    assert listed() == {"m1": None, "m2": None}
