"""Pointers: what is sent to the failure queue, in place of a message, once its record is put down."""

import json

_FIELD = "$overflow_record"


def pointer(key: str) -> str:
    """The body of a message that points to the record with this key."""
    return json.dumps({_FIELD: key})


def pointed(body: str) -> str | None:
    """The key of the record that a body points to; None for every other body."""
    if _FIELD not in body or len(body) > 1000:
        return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    key = found.get(_FIELD) if isinstance(found, dict) and len(found) == 1 else None
    return key if isinstance(key, str) else None
