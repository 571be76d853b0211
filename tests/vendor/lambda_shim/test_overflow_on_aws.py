"""The whole way of a message that takes too long, over moto's S3, SQS, DynamoDB and ECS."""

from collections.abc import Iterator
from typing import Any

import boto3
import msgspec
import pytest
from lambda_shim import dead_letters_cli
from lambda_shim.batch import SqsHandler
from lambda_shim.budget import Limits
from lambda_shim.contract import Context, NeedsMoreTime
from lambda_shim.dispatcher import Dispatcher
from lambda_shim.dynamodb_ledger import DynamoDbLedger
from lambda_shim.ecs import EcsLauncher, task_settings
from lambda_shim.records import WAITING, Records, open_records
from lambda_shim.registry import Registry
from lambda_shim.runner import Job, core, main
from lambda_shim.sqs import SqsQueue

from .conftest import REGION
from .overflow import dead_message, pointer_message
from .support import LambdaContext, Order, decode, event, record

RECORDS_URL = "s3://records/dead/"


class Service:
    """A service's AWS resources, its functions and its task."""

    max_receive_count = 3

    def __init__(self) -> None:
        boto3.client("s3").create_bucket(
            Bucket="records", CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        boto3.client("dynamodb").create_table(
            TableName="ledger",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )
        self.sqs = boto3.client("sqs")
        self.failure_url = self.sqs.create_queue(QueueName="orders-failed")["QueueUrl"]
        self.failure_queue = SqsQueue(self.failure_url)
        self.ecs = boto3.client("ecs")
        self.ecs.create_cluster(clusterName="overflow")
        self.ecs.register_task_definition(
            family="orders-overflow",
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            cpu="256",
            memory="512",
            containerDefinitions=[{"name": "runner", "image": "runner", "memory": 512}],
        )
        ec2 = boto3.client("ec2")
        group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        environ = {
            "OVERFLOW_CLUSTER": "overflow",
            "OVERFLOW_TASK_DEFINITION": "orders-overflow",
            "OVERFLOW_CONTAINER": "runner",
            "OVERFLOW_SUBNETS": ec2.describe_subnets()["Subnets"][0]["SubnetId"],
            "OVERFLOW_SECURITY_GROUPS": group,
            "OVERFLOW_LOG_GROUP": "/orders/overflow",
        }
        self.records: Records = open_records(RECORDS_URL)
        self.dispatch = Dispatcher(
            open_records(RECORDS_URL),
            EcsLauncher(task_settings(environ)),
            limits=Limits(run_wait=0.0),
            sources=Registry(("arn:aws:sqs:eu-central-1:000000000000:orders",), ()),
        )
        self.queue: Any = None
        self.ports = self
        self.ledger = DynamoDbLedger("ledger")
        self.effects: list[str] = []

    def handle(self, message: Order, context: Context["Service"]) -> None:
        if context.remaining is not None:
            raise NeedsMoreTime("an hour of it")
        if message.does == "fail":
            raise ValueError("boom")
        with context.once("effect") as first:
            if first:
                self.effects.append(context.business_id)

    def load(self) -> Job:
        return core(decode, self.handle, lambda: self)

    def failure_event(self) -> dict[str, Any]:
        """What the failure queue's event source mapping would deliver now."""
        found = self.sqs.receive_message(QueueUrl=self.failure_url, MaxNumberOfMessages=10)
        return {
            "Records": [
                pointer_message(each["MessageId"], each["Body"])
                for each in found.get("Messages", ())
            ]
        }

    def task(self) -> dict[str, Any]:
        """The one task that runs."""
        (arn,) = self.ecs.list_tasks(cluster="overflow", desiredStatus="RUNNING")["taskArns"]
        task: dict[str, Any] = self.ecs.describe_tasks(cluster="overflow", tasks=[arn])["tasks"][0]
        return task

    def run_task(self) -> int:
        """Play Fargate: the container with the launch's variables, then the event of its end."""
        task = self.task()
        variables = task["overrides"]["containerOverrides"][0]["environment"]
        environ = {each["name"]: each["value"] for each in variables}
        environ |= {"RECORDS_URL": RECORDS_URL, "OVERFLOW_LIMITS": '{"run_wait": 0}'}
        status = main(environ, self.load)
        self.ecs.stop_task(cluster="overflow", task=task["taskArn"])
        container = {"name": "runner", "exitCode": status}
        detail = {**task, "lastStatus": "STOPPED", "containers": [container]}
        self.dispatch({"detail-type": "ECS Task State Change", "detail": detail})
        return status


@pytest.fixture
def service(aws: None) -> Iterator[Service]:
    import signal

    kept = [
        (each, signal.getsignal(each)) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
    ]
    yield Service()
    for each, handler in kept:
        signal.signal(each, handler)


def body(does: str, padding: int = 0) -> str:
    text = msgspec.json.encode(Order(id="1", does=does)).decode()
    return text + " " * padding


def test_what_takes_too_long_is_finished_by_a_task(service: Service) -> None:
    worker = SqsHandler(decode, service.handle, lambda: service)
    given = record(body("nothing", 1_048_576 - 100))
    given["eventSourceARN"] = "arn:aws:sqs:eu-central-1:000000000000:orders"
    assert worker(event(given), LambdaContext(60)) == {"batchItemFailures": []}
    (waiting,) = service.records.list()
    assert (waiting.state, len(waiting.body)) == (WAITING, len(given["body"]))

    assert service.dispatch(service.failure_event()) == {"batchItemFailures": []}
    assert service.task()["startedBy"] == "overflow/m0_1"
    assert service.run_task() == 0
    assert service.effects == ["order-1"]
    assert service.records.list() == []
    objects = boto3.client("s3").list_objects_v2(Bucket="records")["Contents"]
    assert [each["Key"] for each in objects] == ["dead/overflow/budget.json"]
    assert service.ledger.claim("order-1#effect", "again", 60) == ("completed", 0.0)
    assert service.ecs.list_tasks(cluster="overflow", desiredStatus="RUNNING")["taskArns"] == []


def test_what_sqs_dead_letters_is_run_and_parked_when_it_keeps_failing(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.dispatch({"Records": [dead_message("m1", body("fail"))]})
    assert [service.run_task() for _ in range(3)] == [1, 1, 1]
    (parked,) = service.records.list()
    assert (parked.state, parked.reason, parked.runs) == ("parked", "run_failed", 3)
    assert parked.business_id == "order-1"
    assert service.ecs.list_tasks(cluster="overflow", desiredStatus="RUNNING")["taskArns"] == []
    capsys.readouterr()
    assert dead_letters_cli.main(["--records", RECORDS_URL, "ls"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:4] == ["m1", "parked", "run_failed", "6"]
    assert row[5:] == ["order-1", "ValueError:", "boom"]


def test_another_services_dead_letter_is_parked_without_a_task(service: Service) -> None:
    message = dead_message("m1", body("nothing"))
    message["attributes"]["DeadLetterQueueSourceArn"] += "-of-somebody-else"
    service.dispatch({"Records": [message]})
    (parked,) = service.records.list()
    assert (parked.state, parked.reason) == ("parked", "not_registered")
    assert service.ecs.list_tasks(cluster="overflow")["taskArns"] == []
