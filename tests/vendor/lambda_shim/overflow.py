"""A dispatcher, a launcher whose tasks run when they are told to, and the events around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lambda_shim.bodies import pointer
from lambda_shim.dispatcher import Dispatcher, Launch, LaunchRefused, Stopped

SOURCE = "arn:aws:sqs:eu-central-1:000000000000:orders"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


class FakeLauncher:
    """Remembers launches; idempotent by launch, as ECS is by client token."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.arns: dict[str, str] = {}
        self.gone: dict[str, Stopped] = {}
        # Called ahead of, and behind, each launch; what it raises is the launcher's answer.
        self.before: Callable[[Launch], object] = lambda launch: None
        self.after: Callable[[Launch], object] = lambda launch: None

    def launch(self, launch: Launch, ask_in: Callable[[str], object]) -> str:
        self.before(launch)
        if launch.id not in self.arns:
            self.launches.append(launch)
            self.arns[launch.id] = f"arn:aws:ecs:eu-central-1:000000000000:task/c/{launch.id}"
        self.after(launch)
        return self.arns[launch.id]

    def ended(self, arns: list[str]) -> Mapping[str, Stopped]:
        return {arn: self.gone[arn] for arn in arns if arn in self.gone}

    def log_of(self, arn: str) -> str:
        return f"/overflow:{arn.rpartition('/')[2]}"

    def refuse(self, why: str) -> None:
        def refuse(launch: Launch) -> None:
            raise LaunchRefused(why)

        self.before = refuse

    def answer(self) -> None:
        self.before = self.after = lambda launch: None


def dead_message(message_id: str, body: str = '{"type": "order", "id": "1"}') -> dict[str, Any]:
    """A message as the failure queue's event has it, dead-lettered by SQS after three deliveries."""
    return {
        "messageId": message_id,
        "receiptHandle": f"r-{message_id}",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "4",
            "SentTimestamp": "1761955200000",
            "SenderId": "AIDAEXAMPLE",
            "ApproximateFirstReceiveTimestamp": "1761955200001",
            "DeadLetterQueueSourceArn": SOURCE,
        },
        "messageAttributes": {},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": f"{SOURCE}-failed",
        "awsRegion": "eu-central-1",
    }


def dead_event(*ids: str) -> dict[str, Any]:
    return {"Records": [dead_message(each) for each in ids]}


def pointer_message(message_id: str, body: str) -> dict[str, Any]:
    """A message that was sent to the failure queue, not dead-lettered."""
    message = dead_message(message_id, body)
    del message["attributes"]["DeadLetterQueueSourceArn"]
    return message


def pointer_event(key: str) -> dict[str, Any]:
    return {"Records": [pointer_message(f"p-{key}", pointer(key))]}


def stopped_event(
    launch: str, exit_code: int | None = 1, why: str = "EssentialContainerExited"
) -> dict[str, Any]:
    """EventBridge's "ECS Task State Change", as far as the AWS documentation shows it."""
    container: dict[str, Any] = {"name": "runner", "lastStatus": "STOPPED"}
    if exit_code is not None:
        container["exitCode"] = exit_code
    return {
        "version": "0",
        "source": "aws.ecs",
        "detail-type": "ECS Task State Change",
        "detail": {
            "taskArn": f"arn:aws:ecs:eu-central-1:000000000000:task/c/{launch}",
            "lastStatus": "STOPPED",
            "stopCode": why,
            "containers": [container],
            "overrides": {
                "containerOverrides": [
                    {
                        "name": "runner",
                        "environment": [{"name": "OVERFLOW_LAUNCH", "value": launch}],
                    }
                ]
            },
        },
    }


TICK = {"source": "aws.scheduler"}


def failed(answer: dict[str, Any]) -> list[str]:
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


__all__ = ["Dispatcher", "LaunchRefused"]
