"""Functions for the mappings under test. Each notes what it was given in $DELIVERIES."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import local_sqs

logger = logging.getLogger("handlers")


def _note(event: dict[str, Any], context: Any) -> None:
    lines = []
    for record in event["Records"]:
        known = {
            "pid": os.getpid(),
            "request": context.aws_request_id,
            "at": time.monotonic(),
            "remaining": context.get_remaining_time_in_millis(),
        }
        lines.append(json.dumps(record | known) + "\n")
    descriptor = os.open(os.environ["DELIVERIES"], os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, "".join(lines).encode())
    os.close(descriptor)


def work(event: dict[str, Any], context: Any) -> Any:
    """Does what a body says: see the branches."""
    _note(event, context)
    failures = []
    for record in event["Records"]:
        verb, _, argument = record["body"].partition(" ")
        if verb == "raise":
            raise ValueError(argument)
        if verb == "sleep":
            time.sleep(float(argument))
        elif verb == "hang":
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    continue
        elif verb == "c-call":
            sum(range(10**13))  # runs no signal handler
        elif verb == "wait-for":
            while not Path(argument).exists():
                time.sleep(0.002)
        elif verb == "grandchild":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(argument).write_text(str(child.pid))
            time.sleep(60)
        elif verb == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif verb == "exit":
            sys.exit(int(argument))
        elif verb == "log":
            logger.info("said %s", argument, extra={"customer": 7})
            print("printed", argument)
        elif verb == "fail":
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}


def nap(event: dict[str, Any], context: Any) -> Any:
    """Takes as long as each body says, and notes each message when it is done, not before."""
    for record in event["Records"]:
        time.sleep(float(record["body"].split()[1]))
        _note({"Records": [record]}, context)


def stop_here(event: dict[str, Any], context: Any) -> Any:
    """Stops in the debugger, then ends its process as ctrl-C would."""
    answer = len(event["Records"]) * 7
    breakpoint()  # noqa: T100 - the point of it
    raise KeyboardInterrupt(answer)


def wrong_key(event: dict[str, Any], context: Any) -> Any:
    """Names every message under a key that is not itemIdentifier."""
    return {"batchItemFailures": [{"messageId": x["messageId"]} for x in event["Records"]]}


def fill(event: dict[str, Any], context: Any) -> Any:
    """Takes as many MB as the body says, for a moment."""
    _note(event, context)
    for record in event["Records"]:
        bytearray(int(record["body"]) * 2**20)


def fill_in_a_child(event: dict[str, Any], context: Any) -> Any:
    """Has a process of its own take as many MB as the body says, and waits for it."""
    _note(event, context)
    for record in event["Records"]:
        code = f"import time; held = bytearray({record['body']} * 2**20); time.sleep(0.3)"
        if int(record["body"]) > 100:
            code = code.replace("0.3", "60")
        subprocess.run([sys.executable, "-c", code], check=True)


def fork_with(event: dict[str, Any], context: Any) -> Any:
    """Holds as many MB as the body says, while three forked processes have them, too."""
    _note(event, context)
    held = bytearray(int(event["Records"][0]["body"]) * 2**20)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            time.sleep(0.5)
            os._exit(len(held) % 2)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def large(event: dict[str, Any], context: Any) -> Any:
    """Answers with as many bytes as the body says."""
    _note(event, context)
    size = int(event["Records"][0]["body"])
    return {
        "batchItemFailures": [],
        "more": "x" * (size - len('{"batchItemFailures": [], "more": ""}')),
    }


LEASE = 2.0
"""Seconds: longer than the function's timeout in test_chaos.py, so that no two hold a claim at once."""

_ledger: local_sqs.RedisLedger | None = None


def effect(event: dict[str, Any], context: Any) -> Any:
    """Does each message's effect under a claim, and notes in $EFFECTS: `effect`, then `completed` once
    the ledger knows. A message whose claim another holds returns, and with it the rest of its group."""
    global _ledger
    if _ledger is None:
        _ledger = local_sqs.RedisLedger.open(os.environ["LEDGER"])
    failures, blocked = [], set()
    for record in event["Records"]:
        number, _, seconds = record["body"].partition(" ")
        group = record["attributes"].get("MessageGroupId")
        state = "held"
        if group not in blocked:
            state, _ = _ledger.claim(number, context.aws_request_id, LEASE)
        if state == "held":
            failures.append({"itemIdentifier": record["messageId"]})
            if group is not None:
                blocked.add(group)
        elif state == "claimed":
            _note_effect("effect", number, context)
            time.sleep(float(seconds))
            if _ledger.complete(number, context.aws_request_id):
                _note_effect("completed", number, context)
    return {"batchItemFailures": failures}


def _note_effect(what: str, number: str, context: Any) -> None:
    descriptor = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {number} {context.aws_request_id}\n".encode())
    os.close(descriptor)
