"""The ring `aws`: the rows against AWS itself, in a throw-away stack.

Everything that is made is named `<prefix>…`. It is deleted at the end, also after an error or ctrl-C or
SIGTERM; what a kill -9 leaves, `--delete PREFIX` removes.
"""

import io
import itertools
import json
import os
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, ParamValidationError

from .scene import Arrangement, PartlyRefused, Refused, Send

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
TREE = ROOT / "{{cookiecutter.project_slug}}"

PATIENCE = 180.0  # seconds: a new mapping can take a minute until it polls
PAUSE = 5.0  # seconds between two looks for what is left at the end
RUNTIME = "python3.13"

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


def policy(prefix: str) -> dict[str, Any]:
    """What the functions of the stack may do, and nothing outside it."""
    queues = ["ReceiveMessage", "DeleteMessage", "GetQueueAttributes", "ChangeMessageVisibility"]
    logs = ["CreateLogGroup", "CreateLogStream", "PutLogEvents"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": [f"sqs:{action}" for action in [*queues, "SendMessage"]],
                "Resource": f"arn:aws:sqs:*:*:{prefix}*",
            },
            {
                "Effect": "Allow",
                "Action": [f"logs:{action}" for action in logs],
                "Resource": f"arn:aws:logs:*:*:log-group:/aws/lambda/{prefix}*",
            },
        ],
    }


def package(*, shim: bool) -> bytes:
    """The functions as a zip, with lambda_shim and the msgspec that it needs when asked for."""
    files = {f"conformance/{name}.py": HERE / f"{name}.py" for name in ("__init__", "function")}
    with tempfile.TemporaryDirectory() as directory:
        if shim:
            files["conformance/shim.py"] = HERE / "shim.py"
            vendor = TREE / "vendor" / "lambda_shim"
            install(Path(directory), "msgspec")
            for top in (vendor, Path(directory)):
                files |= {str(p.relative_to(top)): p for p in top.glob("*/**/*") if p.is_file()}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, path in sorted(files.items()):
                entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def install(target: Path, requirement: str) -> None:
    """Put a package for Lambda's platform into a directory."""
    command = ["sh", str(TREE / "tools" / "uv.sh"), "pip", "install", "--quiet"]
    command += ["--target", str(target), "--only-binary", ":all:", requirement]
    command += ["--python-version", RUNTIME.removeprefix("python")]
    command += ["--python-platform", "x86_64-manylinux2014"]
    subprocess.run(command, check=True, env=os.environ | {"UV_HOME": str(ROOT / ".cache" / "uv")})


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        time.sleep(1)
    return found


class Account:
    """Clients of one account and region. `endpoint`: another server, such as moto's."""

    def __init__(self, region: str, endpoint: str | None = None) -> None:
        session = boto3.Session(region_name=region)
        config = Config(retries={"max_attempts": 10, "mode": "standard"})
        self.endpoint = endpoint
        self.sqs, self.functions, self.iam, self.logs = (
            session.client(name, endpoint_url=endpoint, config=config)
            for name in ("sqs", "lambda", "iam", "logs")
        )


def leftovers(account: Account, prefix: str) -> list[tuple[str, Callable[[], object]]]:
    """What exists under a prefix, each with how to delete it, in the order in which it must go."""
    functions, iam, sqs, logs = account.functions, account.iam, account.sqs, account.logs
    found: list[tuple[str, Callable[[], object]]] = []

    def every(client: Any, operation: str, key: str, **limits: str) -> Iterator[Any]:
        for page in client.get_paginator(operation).paginate(**limits):
            yield from page.get(key, [])

    for mapping in every(functions, "list_event_source_mappings", "EventSourceMappings"):
        if f":function:{prefix}" in mapping["FunctionArn"] and mapping["State"] != "Deleting":
            delete = partial(functions.delete_event_source_mapping, UUID=mapping["UUID"])
            found.append((f"mapping {mapping['UUID']}", delete))
    for function in every(functions, "list_functions", "Functions"):
        if (name := function["FunctionName"]).startswith(prefix):
            found.append(
                (f"function {name}", partial(functions.delete_function, FunctionName=name))
            )
    for url in every(sqs, "list_queues", "QueueUrls", QueueNamePrefix=prefix):
        found.append((f"queue {url.rpartition('/')[2]}", partial(sqs.delete_queue, QueueUrl=url)))
    for role in every(iam, "list_roles", "Roles"):
        if (name := role["RoleName"]).startswith(prefix):
            found.append((f"role {name}", partial(delete_role, iam, name)))
    named = {"logGroupNamePrefix": f"/aws/lambda/{prefix}"}
    for group in every(logs, "describe_log_groups", "logGroups", **named):
        name = group["logGroupName"]
        found.append((f"log group {name}", partial(logs.delete_log_group, logGroupName=name)))
    return found


def delete_role(iam: Any, name: str) -> None:
    for inline in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=inline)
    iam.delete_role(RoleName=name)


def delete_everything(account: Account, prefix: str) -> list[str]:
    """Delete what exists under a prefix; what could not be deleted, with the reason.

    Looks again until nothing is left: a mapping that is just being made cannot be deleted at once, and
    new and deleted queues are listed late.
    """
    failed: list[str] = []
    for _ in range(12):
        failed, deleted = [], 0
        for what, delete in leftovers(account, prefix):
            try:
                delete()
                deleted += 1
                print(f"deleted: {what}", flush=True)
            except ClientError as error:
                if not any(word in str(error) for word in ("NotFound", "NonExistent", "NoSuch")):
                    failed.append(f"{what}: {error}")
        if not deleted and not failed:
            break
        time.sleep(PAUSE)
    return failed


class AwsLane:
    """See scene.Lane."""

    virtual_time = False

    def __init__(self, ring: "AwsRing", arrangement: Arrangement, url: str, dead_url: str) -> None:
        self.arrangement = arrangement
        self.url, self.dead_url = url, dead_url
        self._ring = ring
        self._account = ring.account
        self._noted: list[dict[str, Any]] = []
        self._letters: dict[str, dict[str, Any]] = {}
        self.notes_url = ""

    def send(self, messages: Sequence[Send]) -> list[str]:
        entries = [_entry(number, message) for number, message in enumerate(messages)]
        try:
            if len(entries) == 1:
                entries[0].pop("Id")
                answer = self._account.sqs.send_message(QueueUrl=self.url, **entries[0])
                return [answer["MessageId"]]
            answer = self._account.sqs.send_message_batch(QueueUrl=self.url, Entries=entries)
        except ClientError as error:
            raise Refused(error.response["Error"]["Code"].rpartition(".")[2]) from error
        ids = {int(entry["Id"]): entry["MessageId"] for entry in answer.get("Successful", [])}
        sent = [ids[number] for number in sorted(ids)]
        if failed := answer.get("Failed"):
            codes = {int(x["Id"]): str(x["Code"]).rpartition(".")[2] for x in failed}
            raise PartlyRefused(sent, codes)
        return sent

    def refusal(self, arrangement: Arrangement) -> str:
        try:
            self._ring.make(arrangement, exact=True)
        except (ClientError, ParamValidationError) as error:
            return str(error)
        return ""

    def batches(self) -> list[dict[str, Any]]:
        self._noted += [json.loads(note["Body"]) for note in self._take(self.notes_url)]
        unique = {note["request"]: note for note in self._noted}  # notes may come twice
        return sorted(unique.values(), key=lambda note: note["at"])

    def dead_letters(self) -> list[dict[str, Any]]:
        for letter in self._take(self.dead_url, delete=False):
            self._letters[letter["MessageId"]] = {
                "messageId": letter["MessageId"],
                "body": letter["Body"],
                "attributes": letter["Attributes"],
            }
        return [*self._letters.values()]

    def _take(self, url: str, *, delete: bool = True) -> list[dict[str, Any]]:
        taken: list[dict[str, Any]] = []
        while messages := self._account.sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            MessageSystemAttributeNames=["All"],
            VisibilityTimeout=30 if delete else 1,
            WaitTimeSeconds=1,
        ).get("Messages", []):
            taken += messages
            if not delete:
                break  # they come again
            for message in messages:
                self._account.sqs.delete_message(
                    QueueUrl=url, ReceiptHandle=message["ReceiptHandle"]
                )
        return taken

    def redrive(self) -> None:
        arn = self._account.sqs.get_queue_attributes(
            QueueUrl=self.dead_url, AttributeNames=["QueueArn"]
        )["Attributes"]["QueueArn"]
        self._account.sqs.start_message_move_task(SourceArn=arn)
        self._letters.clear()

    def settle(self, in_flight: int) -> None:
        """SQS's counts are approximate and late: time settles it."""

    def wait_empty(self) -> None:
        names = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ]

        def empty() -> bool:
            counts = self._account.sqs.get_queue_attributes(
                QueueUrl=self.url, AttributeNames=names
            )["Attributes"]
            return all(int(counts[name]) == 0 for name in names)

        until(empty, "the work queue is empty")

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return until(condition, what)


def _entry(number: int, message: Send) -> dict[str, Any]:
    attributes = {
        name: {**value, "BinaryValue": _binary(value["BinaryValue"])}
        if "BinaryValue" in value
        else value
        for name, value in (message.attributes or {}).items()
    }
    entry: dict[str, Any] = {
        "Id": str(number),
        "MessageBody": message.body,
        "MessageAttributes": attributes,
        "DelaySeconds": message.delay,
        "MessageGroupId": message.group,
        "MessageDeduplicationId": message.deduplication_id,
    }
    return {name: value for name, value in entry.items() if value not in (None, {})}


def _binary(text: str) -> bytes:
    from base64 import b64decode

    return b64decode(text)


class AwsRing:
    """See runner.Ring."""

    name = "aws"

    def __init__(self, account: Account, prefix: str) -> None:
        self.prefix = prefix
        self.account = account
        self._lanes: dict[Arrangement, AwsLane] = {}
        self._numbers = itertools.count()
        self._role = ""

    def lane(self, arrangement: Arrangement) -> AwsLane:
        if arrangement not in self._lanes:
            self._lanes[arrangement] = self.make(arrangement)
        return self._lanes[arrangement]

    def discard(self, arrangement: Arrangement) -> None:
        self._lanes.pop(arrangement, None)

    def close(self) -> None:
        """Raises RuntimeError naming what could not be deleted."""
        if failed := delete_everything(self.account, self.prefix):
            again = f"try again: --delete {self.prefix}"
            raise RuntimeError("\n".join(["could not be deleted:", *failed, again]))

    def make(self, arrangement: Arrangement, *, exact: bool = False) -> AwsLane:
        """`exact`: the mapping as it is asked for, window included. Raises ClientError."""
        name = f"{self.prefix}-{next(self._numbers)}"
        dead = arrangement.fifo_dead_letters
        kind = arrangement if dead is None else replace(arrangement, fifo=dead)
        dead_url = self._queue(f"{name}-dead", kind, {})
        dead_arn = self._arn(dead_url)
        count = arrangement.max_receive_count
        redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": count})
        url = self._queue(
            name,
            arrangement,
            {
                "VisibilityTimeout": str(arrangement.visibility_timeout),
                "MessageRetentionPeriod": str(arrangement.retention),
                "DelaySeconds": str(arrangement.delay),
                "RedrivePolicy": redrive,
            },
        )
        lane = AwsLane(self, arrangement, url, dead_url)
        notes = self.account.sqs.create_queue(QueueName=f"{name}-notes")
        lane.notes_url = notes["QueueUrl"]
        self._function(name, lane)
        mapping: dict[str, Any] = {
            "FunctionName": name,
            "EventSourceArn": self._arn(url),
            "BatchSize": arrangement.batch_size,
        }
        if arrangement.reserved_concurrency is None:
            mapping["ScalingConfig"] = {"MaximumConcurrency": arrangement.concurrency}
        if exact:
            mapping["MaximumBatchingWindowInSeconds"] = arrangement.batching_window
        elif not arrangement.fifo:
            # Rows that want one batch get a window to come together in.
            mapping["MaximumBatchingWindowInSeconds"] = max(arrangement.batching_window, 1)
        if arrangement.report_batch_item_failures:
            mapping["FunctionResponseTypes"] = ["ReportBatchItemFailures"]
        functions = self.account.functions

        def create() -> str:
            try:
                made = functions.create_event_source_mapping(**mapping)
            except ClientError as error:
                if "permission" not in str(error):
                    raise
                return ""  # a new role's policy takes some seconds to be known everywhere
            identifier: str = made["UUID"]
            return identifier

        uuid = until(create, "the role can receive from its queue")
        until(
            lambda: functions.get_event_source_mapping(UUID=uuid)["State"] == "Enabled",
            f"the mapping of {name} polls",
        )
        return lane

    def _queue(self, name: str, arrangement: Arrangement, attributes: dict[str, str]) -> str:
        attributes = {**attributes, "SqsManagedSseEnabled": "true"}
        if arrangement.fifo:
            name += ".fifo"
            content = str(arrangement.content_based_deduplication).lower()
            attributes |= {"FifoQueue": "true", "ContentBasedDeduplication": content}
        created = self.account.sqs.create_queue(QueueName=name, Attributes=attributes)
        url: str = created["QueueUrl"]
        return url

    def _arn(self, url: str) -> str:
        answer = self.account.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        arn: str = answer["Attributes"]["QueueArn"]
        return arn

    def _function(self, name: str, lane: AwsLane) -> None:
        if not self._role:
            made = self.account.iam.create_role(
                RoleName=self.prefix, AssumeRolePolicyDocument=json.dumps(TRUST)
            )
            self._role = made["Role"]["Arn"]
            self.account.iam.put_role_policy(
                RoleName=self.prefix,
                PolicyName="conformance",
                PolicyDocument=json.dumps(policy(self.prefix)),
            )
        variables = {
            "WORK_QUEUE_URL": lane.url,
            "NOTES_QUEUE_URL": lane.notes_url,
            "MAX_RECEIVE_COUNT": str(lane.arrangement.max_receive_count),
        }

        code = package(shim=lane.arrangement.shim)

        def create() -> bool:
            try:
                self.account.functions.create_function(
                    FunctionName=name,
                    Runtime=RUNTIME,
                    Role=self._role,
                    Handler=f"conformance.{lane.arrangement.handler}",
                    Code={"ZipFile": code},
                    Timeout=lane.arrangement.timeout,
                    MemorySize=lane.arrangement.memory_mb,
                    Environment={"Variables": variables},
                )
            except ClientError as error:
                if "assume" not in str(error):
                    raise
                return False  # a new role takes some seconds to be known everywhere
            return True

        until(create, "the role can be assumed")
        until(
            lambda: (
                self.account.functions.get_function_configuration(FunctionName=name)["State"]
                == "Active"
            ),
            f"{name} is active",
        )
        if lane.arrangement.reserved_concurrency is not None:
            self.account.functions.put_function_concurrency(
                FunctionName=name,
                ReservedConcurrentExecutions=lane.arrangement.reserved_concurrency,
            )
