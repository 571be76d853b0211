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
        elif verb == "hang-once" and record["attributes"]["ApproximateReceiveCount"] == "1":
            time.sleep(60)
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


def _failures(*identifiers: Any) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": value} for value in identifiers]}


def _raise(_: list[str]) -> Any:
    raise RuntimeError("no")


# name of a row in test_conformance.py -> response for the ids of a batch
RESPONSES = {
    "empty list": lambda ids: {"batchItemFailures": []},
    "null list": lambda ids: {"batchItemFailures": None},
    "empty object": lambda ids: {},
    "null": lambda ids: None,
    "other object": lambda ids: {"statusCode": 200},
    "one named": lambda ids: _failures(ids[1]),
    "two named": lambda ids: _failures(ids[0], ids[2]),
    "one named twice": lambda ids: _failures(ids[1], ids[1]),
    "all named": lambda ids: _failures(*ids),
    "raises": _raise,
    "not serialisable": lambda ids: {"batchItemFailures": [object()]},
    "not JSON": lambda ids: {"batchItemFailures": [], "rate": float("nan")},
    "a string": lambda ids: "done",
    "a list": lambda ids: [{"itemIdentifier": ids[0]}],
    "list is an object": lambda ids: {"batchItemFailures": {"itemIdentifier": ids[0]}},
    "element is a string": lambda ids: {"batchItemFailures": [ids[0]]},
    "empty identifier": lambda ids: _failures(ids[0], ""),
    "null identifier": lambda ids: _failures(None),
    "identifier is a number": lambda ids: _failures(7),
    "wrong key name": lambda ids: {"batchItemFailures": [{"messageId": ids[0]}]},
    "unknown identifier": lambda ids: _failures(ids[0], "00000000-0000-4000-a000-000000000000"),
}


def table(event: dict[str, Any], context: Any) -> Any:
    """Answers a first delivery as the row of the table says that the bodies name; then succeeds."""
    _note(event, context)
    first = event["Records"][0]
    if first["attributes"]["ApproximateReceiveCount"] != "1":
        return None
    return RESPONSES[first["body"].partition("|")[0]]([r["messageId"] for r in event["Records"]])
