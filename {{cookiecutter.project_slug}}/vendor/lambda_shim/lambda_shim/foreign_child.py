"""The process of another service's function: imports its handler and calls it once.

Runs under the function's own interpreter, which may be older: nothing but the standard library, and
nothing of this package, is imported.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import traceback
from contextlib import suppress
from decimal import Decimal
from typing import Any

# "No limit of time" for code that asks: a year, in milliseconds.
REMAINING = 365 * 86_400 * 1000


class LambdaContext:
    """What the handler is given beside the event."""

    def __init__(self, call: dict[str, Any]) -> None:
        self.aws_request_id = call["request_id"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.invoked_function_arn = call["function_arn"]
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME", "")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
        self.identity = None
        self.client_context = None

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds."""
        return REMAINING


def marshal(answer: Any) -> str:
    """JSON, where Lambda's runtime client makes JSON of it; else TypeError, as there: what a coroutine
    would have done, say, has not been done."""

    def number(value: Any) -> float:
        if isinstance(value, Decimal):
            return float(value)
        raise TypeError(f"Unable to marshal response: {type(value).__name__} is no JSON")

    return json.dumps(answer, default=number)


def main(path: str) -> None:
    """Read the call from this file; write what became of it where the call says."""
    with open(path, encoding="utf-8") as file:
        call = json.load(file)
    # As Lambda's runtime does, so that a function need but set a level.
    logging.basicConfig(stream=sys.stdout, format="[%(levelname)s]\t%(asctime)s\t%(message)s")
    try:
        module, _, name = os.environ["_HANDLER"].rpartition(".")
        handler = getattr(importlib.import_module(module.replace("/", ".")), name)
        returned = handler(call["event"], LambdaContext(call))
        text = marshal({"returned": None if isinstance(returned, bytes) else returned})
    except BaseException as error:
        answer = {
            "error": "".join(traceback.format_exception_only(type(error), error)).strip(),
            "traceback": traceback.format_exc(),
        }
        text = json.dumps(answer)
    with open(call["answer"], "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    status = 1
    try:
        main(sys.argv[1])
        status = 0
    except BaseException:
        traceback.print_exc()
    with suppress(Exception):  # the function's own files, for all that is known
        sys.stdout.flush()
        sys.stderr.flush()
    # Now: an ordinary end would wait for threads that the function has left behind.
    os._exit(status)
