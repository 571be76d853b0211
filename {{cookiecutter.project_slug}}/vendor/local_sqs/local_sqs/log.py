"""The poller's own log: one line on standard error, whole, however many processes write there."""

import os
import time
from datetime import UTC, datetime

_debug = bool(os.environ.get("LOCAL_SQS_DEBUG"))


def timestamp() -> str:
    """Now, as Lambda writes it."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def line(text: str) -> None:
    os.write(2, f"{timestamp()} {text}\n".encode("utf-8", "backslashreplace"))


def debug(text: str) -> None:
    """As `line`, when LOCAL_SQS_DEBUG is set."""
    if _debug:
        line(text)
