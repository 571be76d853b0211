"""An operator's view of dead-letter records: find, redrive, park, purge.

Redriving sends a parked message to its queue again, then removes the record: interrupted in
between, it is sent once more by the next run, which the ledger absorbs. Its history travels with it
in a message attribute, and goes on in the new record if it fails again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from os import urandom
from threading import Event
from typing import TYPE_CHECKING, Any

import msgspec

from lambda_shim import records as dead_letters
from lambda_shim.bodies import fields_of, pointer
from lambda_shim.contract import BusinessMessage, encodable
from lambda_shim.objects import Conflict
from lambda_shim.records import (
    HISTORY_ATTRIBUTE,
    KEEP,
    OWN,
    PARKED,
    RUNNING,
    WAITING,
    DeadLetterRecord,
    Heritage,
    Lease,
    Records,
    _Keep,
    changed,
    parked,
)
from lambda_shim.sqs import BATCH_BYTES, BATCH_ENTRIES, Entry, region_of

if TYPE_CHECKING:
    from lambda_shim.fan_out import Outbox

# A redriven message tells its last ten events.
HISTORY_TAKEN = 10
ATTRIBUTES_MOST = 10
# Records read at once: ten thousand in S3 would take minutes one after another.
READERS = 16
OPERATOR = "operator"  # the reason with which a person parks
# Seconds for which a record is one redrive's: longer than a batch takes to be sent. Whoever is killed
# meanwhile leaves it to the others after that.
SENDING_MOST = 60.0
BUSY = "somebody else is at it"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which records; every condition that is given must hold.

    Attributes:
        keys: these.
        reasons, states: one of these.
        older_than, newer_than: than so many seconds, by when it was put down or parked.
        type: the message's ``type`` field.
        error: this text in the error or the traceback, in any case of letters.
        business_id: exactly this one.
        decode: see ``business_id_of``.
    """

    keys: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    older_than: float | None = None
    newer_than: float | None = None
    type: str | None = None
    error: str | None = None
    business_id: str | None = None
    decode: Callable[[str], BusinessMessage] | None = None

    def accepts(self, record: DeadLetterRecord, now: float) -> bool:
        age = age_of(record, now)
        text = f"{record.error}\n{record.traceback or ''}".lower()
        return (
            (not self.keys or record.key in self.keys)
            and (not self.reasons or record.reason in self.reasons)
            and (not self.states or record.state in self.states)
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
            and (self.type is None or type_of(record) == self.type)
            and (self.error is None or self.error.lower() in text)
            and (
                self.business_id is None or business_id_of(record, self.decode) == self.business_id
            )
        )


def age_of(record: DeadLetterRecord, now: float) -> float:
    """Seconds since it was put down or last parked."""
    return now - datetime.fromisoformat(record.parked_at).timestamp()


def type_of(record: DeadLetterRecord) -> str | None:
    """The message's ``type`` field; None where it has none."""
    found = (fields_of(record.body) or {}).get("type")
    return found if isinstance(found, str) else None


def business_id_of(
    record: DeadLetterRecord, decode: Callable[[str], BusinessMessage] | None
) -> str | None:
    """The record's, or else that of its message: what SQS dead-lettered was never decoded.

    Args:
        record: of another service's message, only what is on record counts.
        decode: a body to the service's message; whatever it raises, there is no business id.
    """
    if record.business_id is not None or decode is None or record.pool != OWN:
        return record.business_id
    try:
        return encodable(decode(record.body).business_id)
    except Exception:
        return None


def find(
    records: Records, which: Filter, unreadable: dict[str, str], keys: Sequence[str] = ()
) -> Iterator[DeadLetterRecord]:
    """Records that the filter accepts; a few are read at a time, however many there are.

    Args:
        records: the store.
        which: the filter.
        unreadable: is told of records that are none: by key, why.
        keys: only these, in this order; default: those of the filter, or all by key.
    """
    from concurrent.futures import ThreadPoolExecutor
    from itertools import islice

    def get(key: str) -> DeadLetterRecord | None:
        try:
            return records.get(key)
        except msgspec.DecodeError as error:
            unreadable[key] = f"no record: {error}"
            return None

    now = time.time()
    some_keys = map(dead_letters.record_key, keys or which.keys)
    given = iter(dict.fromkeys(some_keys) or records.keys())
    with ThreadPoolExecutor(READERS) as readers:
        while some := list(islice(given, READERS)):
            for record in readers.map(get, some):
                if record is not None and which.accepts(record, now):
                    yield record


def in_order(
    records: Records, which: Filter, unreadable: dict[str, str]
) -> Iterator[DeadLetterRecord]:
    """Parked records that the filter accepts, queue by queue in the order in which they were sent,
    and then what is open. Read twice, since all at once might not fit into memory."""
    found = [(_sent(record), record.key) for record in find(records, which, unreadable)]
    if found:
        yield from find(records, which, unreadable, [key for _, key in sorted(found)])


def _sent(record: DeadLetterRecord) -> tuple[bool, str, int, int]:
    """Sorts records: a FIFO queue numbers its messages; of others the time tells, in ms."""
    attributes = record.attributes
    first = datetime.fromisoformat(record.first_failed_at or record.parked_at).timestamp()
    return (
        record.state != PARKED,
        record.source,
        _number(attributes.get("SequenceNumber")) or 0,
        _number(attributes.get("SentTimestamp")) or int(first * 1000),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


class Outcome(msgspec.Struct):
    """What became of the records that a command was given.

    Attributes:
        done: their keys.
        left: those that were left alone, and why.
        without_history: those that are done, but whose message had no room for their history.
    """

    done: list[str] = []
    left: dict[str, str] = {}
    without_history: list[str] = []


def entry_of(record: DeadLetterRecord) -> Entry:
    """The message to send again, with its own attributes and, where it fits, its history."""
    attributes = {n: a for n, a in record.message_attributes.items() if n != HISTORY_ATTRIBUTE}
    events = changed(record, "redriven", record.reason).history[-HISTORY_TAKEN:]
    events = [msgspec.structs.replace(event, detail=event.detail[:300]) for event in events]
    heritage = Heritage(record.first_failed_at or record.parked_at, events)
    # ASCII: SQS refuses a few characters that an error may quote.
    text = json.dumps(msgspec.to_builtins(heritage))
    with_history = attributes | {
        HISTORY_ATTRIBUTE: {"stringValue": text, "dataType": "String"},
    }
    entry = Entry(record.body, record.attributes.get("MessageGroupId"), with_history)
    if record.source.endswith(".fifo"):
        # By its content the queue would take it for the message that failed a minute ago, and drop
        # it. Stable, so that an interrupted redrive that is resumed sends nothing twice.
        parking = f"{record.key} {record.parked_at}"
        entry = entry._replace(deduplication_id=sha256(parking.encode()).hexdigest())
    if len(with_history) > ATTRIBUTES_MOST or _size(entry) > BATCH_BYTES:
        entry = entry._replace(attributes=attributes)
    return entry


def _size(entry: Entry) -> int:
    """Bytes that SQS counts: body, and names, types and values of the attributes."""
    size = len(entry.body.encode())
    for name, value in (entry.attributes or {}).items():
        text = value.get("stringValue") or value.get("binaryValue") or ""
        size += len(name.encode()) + len(value["dataType"]) + len(text.encode())
    return size


def redrive(
    records: Records,
    which: Filter,
    queue: Callable[[str], Outbox],
    *,
    rate: float | None = None,
    limit: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[str], object] = lambda key: None,
) -> Outcome:
    """Send parked messages to their queues again, each queue's in the order of their first sending.

    Of a FIFO queue's group, what comes after a message that was not sent is left as well.

    Args:
        records: the store.
        which: those of them that are parked.
        queue: the queue with this ARN.
        rate: messages a second, at most.
        limit: messages, at most.
        sleep: for tests.
        progress: called with each key that is done, in another thread.

    Whatever stops it, run it again: what was sent is gone from the store.
    """
    outcome = Outcome()
    taken = 0
    batch: list[tuple[DeadLetterRecord, Entry]] = []
    held: set[tuple[str, str | None]] = set()  # groups of which one was not sent
    size = 0
    most = BATCH_ENTRIES if rate is None else max(1, min(BATCH_ENTRIES, int(rate)))

    def flush() -> None:
        nonlocal size
        if batch:
            _send_undisturbed(records, batch, queue, outcome, progress)
            held.update(group_of(record) for record, _ in batch if record.key in outcome.left)
            if rate is not None:
                sleep(len(batch) / rate)
        batch.clear()
        size = 0

    def group_of(record: DeadLetterRecord) -> tuple[str, str | None]:
        return record.source, record.attributes.get("MessageGroupId")

    for record in in_order(records, which, outcome.left):
        if limit is not None and taken >= limit:
            break
        if record.state != PARKED:
            outcome.left[record.key] = f"it is {record.state}"
            continue
        entry = entry_of(record)
        length = _size(entry)
        other = bool(batch) and batch[0][0].source != record.source
        # Of a batch, SQS may take the later and refuse the earlier one.
        ordered = record.source.endswith(".fifo")
        after = ordered and group_of(record) in {group_of(each) for each, _ in batch}
        if other or after or len(batch) == most or size + length > BATCH_BYTES:
            flush()
        if ordered and group_of(record) in held:
            outcome.left[record.key] = "an earlier message of its group was not sent"
            continue
        batch.append((record, entry))
        size += length
        taken += 1
    flush()
    return outcome


def _send_undisturbed(
    records: Records,
    batch: list[tuple[DeadLetterRecord, Entry]],
    queue: Callable[[str], Outbox],
    outcome: Outcome,
    progress: Callable[[str], object],
) -> None:
    """One batch, in a thread of its own: only the main thread hears ctrl-C, and waits until the batch
    was given back or, where its sending had begun, was sent and removed."""
    from concurrent.futures import ThreadPoolExecutor, wait

    stop = Event()
    with ThreadPoolExecutor(1) as aside:  # waits for its thread, however it is left
        try:
            sending = aside.submit(_send, records, batch, queue, outcome, progress, stop)
            # A signal that comes as a wait begins is not heard until it ends: so it is a short one.
            while not sending.done():
                wait([sending], timeout=0.1)
            sending.result()
        finally:
            stop.set()


def _send(
    records: Records,
    batch: list[tuple[DeadLetterRecord, Entry]],
    queue: Callable[[str], Outbox],
    outcome: Outcome,
    progress: Callable[[str], object],
    stop: Event,
) -> None:
    """One batch, all of one source. A queue that cannot be had leaves the batch where it is. Whatever
    is raised, what was not sent is given back, and what was sent is removed."""
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    lease = Lease(urandom(12).hex(), OPERATOR, records.clock() + SENDING_MOST)
    batch = [(msgspec.structs.replace(record, lease=lease), entry) for record, entry in batch]
    mine: list[tuple[DeadLetterRecord, Entry]] = []
    try:
        with ThreadPoolExecutor(BATCH_ENTRIES) as side_by_side:
            take = partial(_take, records)
            taken = list(side_by_side.map(take, (record for record, _ in batch)))
    except BaseException:
        for record, _ in batch:
            _give_back(records, record)
        raise
    stopped = stop.is_set()
    for (record, entry), had in zip(batch, taken, strict=True):
        if not had:
            outcome.left[record.key] = BUSY
        elif stopped:
            _give_back(records, record)
        else:
            mine.append((record, entry))
    if not mine:
        return
    try:
        refused = queue(mine[0][0].source).send_entries([entry for _, entry in mine])
    except BaseException as error:
        for record, _ in mine:
            _give_back(records, record)
            outcome.left[record.key] = f"not sent: {error}"
        if isinstance(error, Exception):
            return
        raise
    reasons = {each.position: f"refused: {each.code}: {each.message}" for each in refused}
    errors: list[BaseException] = []
    for position, (record, entry) in enumerate(mine):
        if position in reasons:
            _give_back(records, record)
            outcome.left[record.key] = reasons[position]
            continue
        try:
            _remove(records, record)
            outcome.done.append(record.key)
            if HISTORY_ATTRIBUTE not in (entry.attributes or {}):
                outcome.without_history.append(record.key)
            progress(record.key)
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _busy(record: DeadLetterRecord, now: float) -> bool:
    """Whether a parked record is being redriven."""
    return record.lease is not None and record.lease.until > now


def _take(records: Records, mine: DeadLetterRecord) -> bool:
    """Have a parked record for oneself while it is sent, under the lease that it bears here; False
    when somebody else was faster."""
    free = msgspec.structs.replace(mine, lease=None)

    def take(found: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
        if found is None or _busy(found, records.clock()):
            return KEEP
        return mine if msgspec.structs.replace(found, lease=None) == free else KEEP

    return records.update(mine.key, take) == mine


def _give_back(records: Records, mine: DeadLetterRecord) -> None:
    """Unless it was not taken. Best effort: the lease runs out by itself."""

    def free(found: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
        return msgspec.structs.replace(mine, lease=None) if found == mine else KEEP

    with suppress(Exception):
        records.update(mine.key, free)


def _remove(records: Records, seen: DeadLetterRecord) -> bool:
    """Remove a record if it is still as it was seen."""
    gone = True

    def drop(record: DeadLetterRecord | None) -> _Keep | None:
        nonlocal gone
        gone = record == seen
        return None if gone else KEEP

    records.update(seen.key, drop)
    return gone


def run_again(
    records: Records, which: Filter, failure_queue: Outbox | None, limit: int | None = None
) -> Outcome:
    """Hand parked messages to the overflow runner, their failed runs forgiven."""
    outcome = Outcome()
    for record in in_order(records, which, outcome.left):
        if limit is not None and len(outcome.done) >= limit:
            break
        if record.state != PARKED:
            outcome.left[record.key] = f"it is {record.state}"
            continue
        seen = record

        def open_again(found: DeadLetterRecord | None, seen: DeadLetterRecord = seen) -> Any:
            if found != seen or _busy(seen, records.clock()):
                return KEEP
            forgiven: dict[str, Any] = {"runs": 0, "stopped": [], "not_before": 0.0, "lease": None}
            return changed(seen, WAITING, "redriven", state=WAITING, **forgiven)

        stored = records.update(record.key, open_again)
        if stored is None or stored.state != WAITING:
            outcome.left[record.key] = BUSY
            continue
        outcome.done.append(record.key)
    if outcome.done and failure_queue is not None:
        failure_queue.send_entries([Entry(pointer(outcome.done[0]))])
    return outcome


def park(records: Records, which: Filter, why: str, limit: int | None = None) -> Outcome:
    """Park records that wait. One that is running is left to its runner."""
    outcome = Outcome()
    for record in find(records, which, outcome.left):
        if limit is not None and len(outcome.done) >= limit:
            break
        if record.state != WAITING:
            outcome.left[record.key] = f"it is {record.state}"
            continue

        def stop(found: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
            if found is None or found.state != WAITING:
                return KEEP
            return parked(found, OPERATOR, why or found.error)

        stored = records.update(record.key, stop)
        if stored is not None and stored.state == PARKED:
            outcome.done.append(record.key)
        else:
            outcome.left[record.key] = "it was taken up"
    return outcome


def purge(records: Records, which: Filter, limit: int | None = None) -> Outcome:
    """Remove parked records. Open ones are left."""
    outcome = Outcome()
    for record in find(records, which, outcome.left):
        if limit is not None and len(outcome.done) >= limit:
            break
        if record.state != PARKED:
            outcome.left[record.key] = f"it is {record.state}"
            continue
        try:
            removed = not _busy(record, records.clock()) and _remove(records, record)
        except Conflict:
            removed = False
        if removed:
            outcome.done.append(record.key)
        else:
            outcome.left[record.key] = BUSY
    return outcome


def move_queue(arn: str, destination: str | None = None, rate: int | None = None) -> str:
    """Let SQS move all of a dead-letter queue back to where its messages came from.

    Args:
        arn: the dead-letter queue's; SQS takes only a queue that is another SQS queue's.
        destination: ARN of another queue to move them to.
        rate: messages a second, 1 to 500.

    Returns the task's handle. Raises ValueError when the ARN is none, and botocore's ClientError, as
    when one is under way already.
    """
    import boto3

    request: dict[str, Any] = {"SourceArn": arn}
    if destination is not None:
        request["DestinationArn"] = destination
    if rate is not None:
        request["MaxNumberOfMessagesPerSecond"] = rate
    sqs = boto3.client("sqs", region_name=region_of(arn))
    handle: str = sqs.start_message_move_task(**request)["TaskHandle"]
    return handle


__all__ = ["RUNNING", "Filter", "Outcome", "find", "move_queue", "park", "purge", "redrive"]
