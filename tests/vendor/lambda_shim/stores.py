"""Stores for tests: one in memory, and a store that fails when it is told to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

from lambda_shim.objects import ABSENT, Conflict, Objects
from lambda_shim.records import DeadLetterRecord


def dead_letter(message_id: str = "m1", **changes: Any) -> DeadLetterRecord:
    fields: dict[str, Any] = {
        "message_id": message_id,
        "reason": "rejected",
        "error": "Reject: über alles",
        "body": '{"type": "order"}',
        "attempts": 2,
        "source": "arn:aws:sqs:eu-central-1:000000000000:orders",
        "function": "orders-worker:7",
        "request_id": "request-1",
        "parked_at": "2026-11-01T06:00:00.000+00:00",
    }
    return DeadLetterRecord(**fields | changes)


class MemoryObjects:
    """Objects in memory; passes the same tests as the real stores."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = Lock()

    def get(self, key: str) -> tuple[bytes, str] | None:
        data = self.objects.get(key)
        return None if data is None else (data, hashlib.sha256(data).hexdigest())

    def _expect(self, key: str, version: str | None) -> None:
        found = self.get(key)
        if version is not None and version != (ABSENT if found is None else found[1]):
            raise Conflict(key)

    def put(self, key: str, data: bytes, version: str | None = None) -> str:
        with self._lock:
            self._expect(key, version)
            self.objects[key] = data
        return hashlib.sha256(data).hexdigest()

    def delete(self, key: str, version: str | None = None) -> None:
        with self._lock:
            self._expect(key, version)
            self.objects.pop(key, None)

    def list(self, folder: str = "") -> Iterator[str]:
        names = (key[len(folder) :] for key in list(self.objects) if key.startswith(folder))
        return iter(sorted(name for name in names if "/" not in name))

    def folders(self, folder: str) -> Iterator[str]:
        names = (key[len(folder) :] for key in list(self.objects) if key.startswith(folder))
        return iter(sorted({name.partition("/")[0] for name in names if "/" in name}))


class Breakable:
    """A store in front of another one.

    ``before`` is called ahead of each operation with its name and key, ``after`` behind it; what
    they raise is what the caller gets, so the operation has then not, or has, happened.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.before: Callable[[str, str], object] = lambda operation, key: None
        self.after: Callable[[str, str], object] = lambda operation, key: None

    def get(self, key: str) -> tuple[bytes, str] | None:
        self.before("get", key)
        found = self.objects.get(key)
        self.after("get", key)
        return found

    def put(self, key: str, data: bytes, version: str | None = None) -> str:
        self.before("put", key)
        written = self.objects.put(key, data, version)
        self.after("put", key)
        return written

    def delete(self, key: str, version: str | None = None) -> None:
        self.before("delete", key)
        self.objects.delete(key, version)
        self.after("delete", key)

    def list(self, folder: str = "") -> Iterator[str]:
        self.before("list", folder)
        yield from self.objects.list(folder)

    def folders(self, folder: str) -> Iterator[str]:
        self.before("folders", folder)
        yield from self.objects.folders(folder)
