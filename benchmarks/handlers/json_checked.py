"""The standard library with what our handler does too: a typed message, partial batch failures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from effects import greet


@dataclass(frozen=True)
class Greeting:
    type: str
    id: str
    name: str

    def __post_init__(self) -> None:
        if self.type != "greeting":
            raise ValueError(f"unknown type {self.type!r}")
        if not isinstance(self.id, str) or not isinstance(self.name, str):
            raise TypeError("id and name are strings")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    failures = []
    for record in event["Records"]:
        try:
            greeting = Greeting(**json.loads(record["body"]))
            greet(greeting.id, greeting.name)
        except Exception:
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}
