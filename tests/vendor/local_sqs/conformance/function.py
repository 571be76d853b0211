"""The function of the conformance rows, the same file in every ring. Nothing but the standard library.

A message's body is JSON: `name`, and `do`, what to do at its first, second … delivery; after these it
succeeds. What is done is noted: locally in the file $DELIVERIES, on AWS in the queue $NOTES_QUEUE_URL.
"""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

NOTES_QUEUE_URL = os.environ.get("NOTES_QUEUE_URL")
WORK_QUEUE_URL = os.environ.get("WORK_QUEUE_URL", "")

if NOTES_QUEUE_URL or WORK_QUEUE_URL.startswith("https:"):
    import boto3

    sqs = boto3.client("sqs", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))

# The response as a whole, by what the first message of the batch that asks for one asks for.
WHOLE = {
    "empty list": lambda ids: {"batchItemFailures": []},
    "null list": lambda ids: {"batchItemFailures": None},
    "empty object": lambda ids: {},
    "null": lambda ids: None,
    "other object": lambda ids: {"statusCode": 200},
    "not serialisable": lambda ids: {"batchItemFailures": [object()]},
    "not JSON": lambda ids: {"batchItemFailures": [], "rate": float("nan")},
    "a string": lambda ids: "done",
    "a list": lambda ids: [{"itemIdentifier": ids[0]}],
    "an object for the list": lambda ids: {"batchItemFailures": {"itemIdentifier": ids[0]}},
    "a string for an element": lambda ids: {"batchItemFailures": [ids[0]]},
    "empty identifier": lambda ids: named(ids[0], ""),
    "null identifier": lambda ids: named(None),
    "missing identifier": lambda ids: {"batchItemFailures": [{}]},
    "number for an identifier": lambda ids: named(7),
    "wrong key name": lambda ids: {"batchItemFailures": [{"messageId": ids[0]}]},
    "unknown identifier": lambda ids: named(ids[0], "00000000-0000-4000-a000-000000000000"),
    "identifier twice": lambda ids: named(ids[0], ids[0]),
    "over 6 MB": lambda ids: {"batchItemFailures": [], "more": "x" * 6_300_000},
}


def named(*identifiers: Any) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": value} for value in identifiers]}


def handler(event: dict[str, Any], context: Any) -> Any:
    records = event["Records"]
    scripts = [json.loads(record["body"]) for record in records]
    note(event, scripts, context)
    ids = [record["messageId"] for record in records]
    failed, answer = [], None
    for record, script in zip(records, scripts, strict=True):
        delivery = int(record["attributes"]["ApproximateReceiveCount"])
        do = script.get("do", [])
        verb, _, argument = (do[delivery - 1] if delivery <= len(do) else "").partition(": ")
        if verb == "fail":
            failed.append(record["messageId"])
        elif verb == "return after":
            change_visibility(record["receiptHandle"], int(argument))
            failed.append(record["messageId"])
        elif verb == "sleep":
            time.sleep(float(argument))
        elif verb == "raise":
            raise RuntimeError("as the message wished")
        elif verb == "exit":
            sys.exit(3)
        elif verb == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif verb == "hang":
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    continue
        elif verb == "fill":
            bytearray(int(argument) * 2**20)
            time.sleep(10)
        elif verb == "fill in a child":
            code = f"import time; held = bytearray({argument} * 2**20); time.sleep(10)"
            subprocess.run([sys.executable, "-c", code], check=True)
        elif verb:
            answer = answer or WHOLE[verb]
    return answer(ids) if answer else named(*failed)


def note(event: dict[str, Any], scripts: list[dict[str, Any]], context: Any) -> None:
    """One document a batch: who was in it, without the bodies."""
    shown = []
    for record, script in zip(event["Records"], scripts, strict=True):
        rest = {key: value for key, value in record.items() if key != "body"}
        shown.append({**rest, "name": script["name"], "fields": sorted(record)})
    document = json.dumps(
        {
            "request": context.aws_request_id,
            "at": time.time(),
            "remaining": context.get_remaining_time_in_millis(),
            "payload": len(json.dumps(event, separators=(",", ":"))),
            "records": shown,
        }
    )
    if NOTES_QUEUE_URL:
        sqs.send_message(QueueUrl=NOTES_QUEUE_URL, MessageBody=document)
        return
    descriptor = os.open(os.environ["DELIVERIES"], os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{document}\n".encode())
    os.close(descriptor)


def change_visibility(receipt: str, seconds: float) -> None:
    if WORK_QUEUE_URL.startswith("redis:"):
        import local_sqs

        with local_sqs.Queue.open(WORK_QUEUE_URL) as queue:
            queue.change_visibility(receipt, seconds)
        return
    sqs.change_message_visibility(
        QueueUrl=WORK_QUEUE_URL, ReceiptHandle=receipt, VisibilityTimeout=int(seconds)
    )
