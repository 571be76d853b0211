"""SQS events as Lambda gives them, full of greetings."""

from __future__ import annotations

import hashlib
import json
from itertools import count

_numbers = count(1)


def identifier() -> str:
    """A greeting's id, new each time: its effect has not been done."""
    return f"g{next(_numbers):06}"


def body(greeting: str) -> str:
    """The message that the `minimal` service greets somebody for."""
    return json.dumps({"type": "greeting", "id": greeting, "name": "Ada Lovelace"})


def record(greeting: str) -> dict[str, object]:
    """One record of an SQS event."""
    text = body(greeting)
    number = int(greeting.removeprefix("g"))
    return {
        "messageId": f"19dd0b57-b21e-4ac1-bd88-{number:012}",
        "receiptHandle": "AQEB" + "x" * 180,
        "body": text,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1790000000000",
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1790000000010",
        },
        "messageAttributes": {},
        "md5OfBody": hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:greetings",
        "awsRegion": "eu-central-1",
    }


def event(*greetings: str) -> dict[str, object]:
    """An SQS event with one record for each."""
    return {"Records": [record(greeting) for greeting in greetings]}
