"""Many messages out of one event: batches within SQS's limits, and only what failed is resent."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import Any, Protocol

from lambda_shim.sqs import BATCH_BYTES, BATCH_ENTRIES, Entry, Refused

log = logging.getLogger("lambda_shim")

TRIES = 5


class Outbox(Protocol):
    """A queue to send to. ``send_entries`` takes at most 10 messages of 1 MiB together."""

    def send_entries(self, entries: Sequence[Entry]) -> list[Refused]: ...


class FanOutError(RuntimeError):
    """Some messages could not be sent.

    The whole event is to be tried again: business ids make the repeats of those that were sent
    harmless.
    """


def chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Group messages as SendMessageBatch takes them: at most 10, and 1 MiB of UTF-8, together.

    Raises:
        ValueError: one body alone is larger than 1 MiB.
    """
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        length = len(entry.body.encode())
        if length > BATCH_BYTES:
            raise ValueError(f"a message of {length:,} bytes is over SQS's limit of 1 MiB")
        if chunk and (len(chunk) == BATCH_ENTRIES or size + length > BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += length
    if chunk:
        yield chunk


def send_all(
    queue: Outbox, entries: Iterable[Entry], sleep: Callable[[float], None] = time.sleep
) -> int:
    """Send every message, lazily: a generator over a million customers is never held in memory.

    Returns how many were sent.

    Raises:
        FanOutError: an entry was refused as the sender's fault, or five times in a row.
    """
    sent = 0
    for chunk in chunks(entries):
        pending = chunk
        for attempt in range(1, TRIES + 1):
            refused = queue.send_entries(pending)
            sent += len(pending) - len(refused)
            hopeless = [r for r in refused if r.sender_fault]
            if hopeless:
                first = hopeless[0]
                raise FanOutError(f"SQS refused a message: {first.code}: {first.message}")
            if not refused:
                break
            if attempt == TRIES:
                raise FanOutError(
                    f"{len(refused)} messages not sent after {TRIES} tries: {refused[0].code}"
                )
            log.warning("%d of %d messages not taken, resending", len(refused), len(pending))
            pending = [pending[r.position] for r in refused]
            sleep(0.1 * 2 ** (attempt - 1))
    return sent


def scheduled_day(event: Any) -> date:
    """The day (UTC) that a schedule event is for.

    Args:
        event: ``{"scheduled_for": "2026-11-01T06:00:00Z"}``; EventBridge Scheduler fills the time
            in for ``<aws.scheduler.scheduled-time>``.

    Raises:
        ValueError: there is no such time, or it is not ISO 8601.
    """
    try:
        return datetime.fromisoformat(event["scheduled_for"]).date()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            'a schedule event is {"scheduled_for": "2026-11-01T06:00:00Z"}, '
            f"not {event!r}; the schedule's Input sets it"
        ) from error
