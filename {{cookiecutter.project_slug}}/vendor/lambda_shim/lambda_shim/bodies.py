"""What a message's body holds: its fields; or a pointer, which is sent to the failure queue in place
of a message, once its record is put down."""

import json
from typing import Any

_FIELD = "$overflow_record"


def fields_of(body: str) -> dict[str, Any] | None:
    """A body's fields; None where it is no JSON object, or one nested too deeply to be read."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def pointer(key: str) -> str:
    """The body of a message that points to the record with this key."""
    return json.dumps({_FIELD: key})


def pointed(body: str) -> str | None:
    """The key of the record that a body points to; None for every other body."""
    if _FIELD not in body or len(body) > 1000:
        return None
    fields = fields_of(body)
    key = fields.get(_FIELD) if fields is not None and len(fields) == 1 else None
    return key if isinstance(key, str) else None
