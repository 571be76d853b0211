"""The ``staging`` ring: a deployed stage, reached as anybody reaches it: through AWS."""

import json
import os
import time
from functools import cached_property

import boto3
from lambda_shim.records import DeadLetterRecord, S3Store

from .service import Service, wait_until

# SQS's counts are approximate: a queue is idle when they have been nought so many times running.
LOOKS, PAUSE = 5, float(os.environ.get("STAGING_PAUSE", "1"))  # seconds
# Seconds to wait for a deployed service, cold starts included.
PATIENCE = 120.0


class Stage:
    """A deployed stack. Raises botocore's ClientError when there is none of that name."""

    def __init__(self, stack: str) -> None:
        (found,) = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        self.stack = stack
        self.outputs = {made["OutputKey"]: made["OutputValue"] for made in found["Outputs"]}

    @cached_property
    def variables(self) -> dict[str, str]:
        """The worker's environment variables."""
        function = boto3.client("lambda").get_function_configuration(
            FunctionName=self.outputs["WorkerFunction"]
        )
        variables: dict[str, str] = function["Environment"]["Variables"]
        return variables

{%- if cookiecutter.example == 'statements' %}

    @cached_property
    def has_doubles(self) -> bool:
        """Whether its worker asks the doubles beside it for customers, not the real API."""
        cloudformation = boto3.client("cloudformation")
        try:
            doubles = Stage(f"{self.stack}-doubles")
        except cloudformation.exceptions.ClientError:
            return False
        real, double = self.variables["CUSTOMERS_URL"], str(doubles.outputs["CustomersUrl"])
        return real.rstrip("/") == double.rstrip("/")
{%- endif %}

    def lacks(self, need: str) -> bool:
        """Whether a scenario that needs this cannot run here; one of `rings.STAGE_LACKS`."""
        return {% if cookiecutter.example == 'statements' %}need != "customers" or not self.has_doubles{% else %}True{% endif %}


class StagedService(Service):
    """The service as one scenario sees it: its own messages, and what became of them."""

    patience = PATIENCE

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._outputs = stage.outputs
        self._sqs = boto3.client("sqs")
        self.sent: dict[str, object] = {}  # messages by their ids
{% if cookiecutter.queue_type == 'fifo' %}
    def send(self, message: object, group: str = "one") -> str:
        answer = self._sqs.send_message(
            QueueUrl=self._outputs["WorkQueueUrl"],
            MessageBody=as_body(message),
            MessageGroupId=group,
        )
{%- else %}
    def send(self, message: object) -> str:
        answer = self._sqs.send_message(
            QueueUrl=self._outputs["WorkQueueUrl"], MessageBody=as_body(message)
        )
{%- endif %}
        identifier = str(answer["MessageId"])
        self.sent[identifier] = message
        return identifier

    def wait_idle(self) -> None:
        idle = 0

        def settled() -> bool:
            nonlocal idle
            idle = idle + 1 if self.backlog() == 0 else 0
            if idle < LOOKS:
                time.sleep(PAUSE)
            return idle >= LOOKS

        wait_until(settled, "an empty queue; does anybody else use this stage?", PATIENCE)

    def backlog(self) -> int:
        counts = self._sqs.get_queue_attributes(
            QueueUrl=self._outputs["WorkQueueUrl"], AttributeNames=["All"]
        )["Attributes"]
        names = ("", "NotVisible", "Delayed")
        return sum(int(counts[f"ApproximateNumberOfMessages{name}"]) for name in names)

    def records(self) -> list[DeadLetterRecord]:
        every = S3Store(self._outputs["RecordsBucket"]).list()
        return [record for record in every if record.message_id in self.sent]

    def stored(self) -> list[tuple[str, str]]:
        pages = boto3.client("s3").get_paginator("list_object_versions")
        return sorted(
            (version["Key"], version["VersionId"])
            for page in pages.paginate(Bucket=self._outputs["DocumentsBucket"])
            for version in page.get("Versions", [])
        )

    def done(self, key: str) -> str | None:
        """When the ledger says that an effect was done; None: not yet."""
        item = boto3.client("dynamodb").get_item(
            TableName=self._outputs["LedgerTable"], Key={"id": {"S": key}}, ConsistentRead=True
        )
        completed = item.get("Item", {}).get("completed")
        return str(completed["N"]) if completed else None


def as_body(message: object) -> str:
    return message if isinstance(message, str) else json.dumps(message)
