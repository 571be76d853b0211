"""A function that notes its context and variables in $DELIVERIES."""

import json
import os
import time
from pathlib import Path
from typing import Any

KEY = os.environ["KEY"]  # as services read their settings: at import

CONTEXT = (
    "function_name",
    "function_version",
    "invoked_function_arn",
    "memory_limit_in_mb",
    "log_group_name",
    "log_stream_name",
)


def handler(event: dict[str, Any], context: Any) -> None:
    known = {name: getattr(context, name) for name in CONTEXT}
    known["variables"] = dict(os.environ)
    known["remaining"] = context.get_remaining_time_in_millis()
    known["key"] = KEY
    known["zone"] = time.tzname
    Path(os.environ["DELIVERIES"]).write_text(json.dumps(known) + "\n")
