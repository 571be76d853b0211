"""The floor: standard library, no types, no validation, one failure fails the batch."""

from __future__ import annotations

import json
from typing import Any

from effects import greet


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    for record in event["Records"]:
        greeting = json.loads(record["body"])
        greet(greeting["id"], greeting["name"])
    return {"batchItemFailures": []}
