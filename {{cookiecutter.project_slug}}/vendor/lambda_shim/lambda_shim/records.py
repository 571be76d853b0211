"""Dead-letter records: what failed, why, what became of it, and all that is needed to run it again.

A record is *parked* (for a person), *waiting* for the overflow runner, or *running* in it; a
completed run removes it. In the store lie

- ``<key>.json``: the record; the key is SQS's message id, the same for every delivery.
- ``waiting/<pool>/<first failed>~<key>``, ``running/<key>``: markers, so that a few open records
  are found among thousands of parked ones, the oldest first, without reading any.

Invariants:

- A record is only ever replaced by compare-and-swap on the version that was read.
- An open record has its state's marker: it is written before the record enters the state and
  removed after the record left it, and only if nobody wrote it anew in between. What a process
  killed in between leaves is a marker too many, never one too few.
- Only the holder of its lease ends a running record, or anyone once the lease has run out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from os import environ
from time import time
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from lambda_shim.contract import encodable
from lambda_shim.objects import ABSENT, Conflict, DirectoryObjects, Objects, S3Objects

# Why a message was parked, or handed over to the runner.
MALFORMED = "malformed"
UNKNOWN_TYPE = "unknown_type"
REJECTED = "rejected"
RETRIES_EXHAUSTED = "retries_exhausted"
NEEDS_MORE_TIME = "needs_more_time"
DEADLINE = "deadline"
# SQS dead-lettered it: timeouts, crashes, failing imports, throttles and their batch-mates.
DEAD_LETTERED = "dead_lettered"
# Parked by the overflow:
CIRCUIT_OPEN = "circuit_open"  # runs were failing the same way when it arrived
RUN_FAILED = "run_failed"  # the runner tried it the permitted number of times
TASK_STOPPED = "task_stopped"  # its tasks ended without a word: killed, out of memory, vanished
NEVER_STARTED = "never_started"  # its tasks stopped before they took it up
NO_RUNNER = "no_runner"  # the deployment has no tasks to run it with
NOT_REGISTERED = "not_registered"  # of a source that no function is registered for
IMAGE_FUNCTION = "image_function"  # its function is a container image, which no runner can run
NOT_RUNNABLE = "not_runnable"  # its function is of another language or architecture, or is broken

WAITING = "waiting"
RUNNING = "running"
PARKED = "parked"

# The pool of the service's own messages. Other pools are the registry's, but for that of what it does
# not list, from which no runner takes anything.
OWN = "own"
NOBODY = "nobody"

# What a redriven message bears, since SQS gives it a new id: the history of the record it came from.
HISTORY_ATTRIBUTE = "DeadLetterHistory"
# A record tells its last fifty changes.
HISTORY_MOST = 50
# A marker is left alone for so long, in seconds, whatever the record says: its writer may just be
# about to write the record. No Lambda function lives longer than 15 minutes.
MARKER_GRACE = 3600.0
# Markers that are read to tell for how long records wait.
LOOKED_AT = 100
# Somebody else was faster this many times in a row: something is wrong.
SWAPS_MOST = 20


class Lease(msgspec.Struct, frozen=True):
    """Who runs a record, and until when.

    Attributes:
        owner: unique to one claim, so that a runner which lost it cannot be taken for its successor.
        task: the launch that the runner belongs to.
        until: seconds since 1970. Clocks that differ cost a repeat, never a wrong completion.
    """

    owner: str
    task: str
    until: float


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to a message: when (ISO 8601, UTC), what, and in one line how."""

    at: str
    event: str
    detail: str = ""


class DeadLetterRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One failed message, as it lies in the record store.

    Attributes:
        message_id: SQS's id when it failed; also the record's key, so that putting the same
            delivery down twice leaves one record.
        reason: one of this module's constants: why it is parked, or why it was handed over.
        error: one line for a person; ``traceback`` is the whole of it, where there is one.
        business_id: None where the message could not, or not yet, be decoded.
        body: the message as it was sent.
        attributes: SQS's own (receive count, timestamps in ms since 1970, group id, …).
        message_attributes: the sender's, in the shape of the Lambda event.
        attempts: deliveries by SQS so far, the failed one included. Of what SQS dead-lettered, about:
            deliveries to the dispatcher, but for the first, are counted, too.
        source: ARN of the queue it came from.
        function: name and version of the function that put the record down.
        request_id: of the invocation that did, to find its log.
        parked_at: when it was put down or last parked; ISO 8601, UTC.
        state: ``waiting``, ``running`` or ``parked``.
        pool: which runners may take it: ``own``, or an entry of the registry; ``nobody``: none.
        first_failed_at: ISO 8601, UTC.
        launches: tasks asked for by its name; numbers the launch, whether it succeeded or not.
        stopped: those of its launches that ended before any runner had taken it up.
        runs: runs that failed.
        not_before: no run until then, in seconds since 1970: the back-off after a failed one.
        lease: set while it is running.
        log: where the last task's log lies.
        history: what happened to it, the oldest first.
    """

    message_id: str
    reason: str
    error: str
    body: str
    attempts: int
    source: str
    function: str
    request_id: str
    parked_at: str
    business_id: str | None = None
    traceback: str | None = None
    attributes: dict[str, str] = {}
    message_attributes: dict[str, Any] = {}
    state: str = PARKED
    pool: str = OWN
    first_failed_at: str | None = None
    launches: int = 0
    stopped: list[str] = []
    runs: int = 0
    not_before: float = 0.0
    lease: Lease | None = None
    log: str | None = None
    history: list[Event] = []

    @property
    def key(self) -> str:
        """What it is called in the store."""
        return record_key(self.message_id)

    def due(self, now: float) -> bool:
        """Whether it may be run at this time, in seconds since 1970."""
        return self.state == WAITING and now >= self.not_before


class RecordStore(Protocol):
    """What the SQS handler asks of a store. ``put`` either stored it durably or raised."""

    def put(self, record: DeadLetterRecord) -> object: ...


class Waiting(NamedTuple):
    """A marker of a waiting record.

    Attributes:
        key: the record's.
        since: when its message failed first, UTC, as 17 digits from year to millisecond.
        marker: the marker's own key.
    """

    key: str
    since: str
    marker: str

    def age(self, now: float) -> float:
        """Seconds since its message failed first."""
        from datetime import UTC, datetime

        try:
            first = datetime.strptime(self.since, "%Y%m%d%H%M%S%f").replace(tzinfo=UTC)
        except ValueError:
            return 0.0
        return max(0.0, now - first.timestamp())


class LeaseLost(Exception):
    """The record is somebody else's by now, or gone."""


def now(at: float | None = None) -> str:
    """A time in seconds since 1970 (or this moment) as ISO 8601, UTC, with milliseconds."""
    from datetime import UTC, datetime

    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="milliseconds")


def changed(
    record: DeadLetterRecord, event: str, detail: str = "", **fields: Any
) -> DeadLetterRecord:
    """A copy of the record with these fields, and with the change in its history."""
    history = [*record.history, Event(now(), event, detail)][-HISTORY_MOST:]
    return msgspec.structs.replace(record, history=history, **fields)


class Heritage(msgspec.Struct, frozen=True):
    """What a redriven message takes along."""

    first_failed_at: str | None
    history: list[Event]


def inherit(record: DeadLetterRecord) -> DeadLetterRecord:
    """The record with the history that its message, redriven before, has brought along."""
    attribute = record.message_attributes.get(HISTORY_ATTRIBUTE)
    if not isinstance(attribute, dict):
        return record
    try:
        heritage = msgspec.json.decode(attribute.get("stringValue") or "", type=Heritage)
        _expect_time(heritage.first_failed_at)
    except msgspec.DecodeError:  # somebody else's attribute
        return record
    attributes = {n: a for n, a in record.message_attributes.items() if n != HISTORY_ATTRIBUTE}
    return msgspec.structs.replace(
        record,
        first_failed_at=heritage.first_failed_at,
        history=heritage.history + record.history,
        message_attributes=attributes,
    )


def encode(record: DeadLetterRecord) -> bytes:
    """Indented JSON: a record is first of all read by a person."""
    try:
        text = msgspec.json.encode(record)
    except UnicodeEncodeError:
        text = msgspec.json.encode(_encodable(msgspec.to_builtins(record)))
    return msgspec.json.format(text, indent=2) + b"\n"


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {encodable(name): _encodable(each) for name, each in value.items()}
    return [_encodable(each) for each in value] if isinstance(value, list) else value


def decode(data: bytes) -> DeadLetterRecord:
    """The record that ``encode`` wrote. Raises msgspec.DecodeError saying why it is none."""
    try:
        record = msgspec.json.decode(data, type=DeadLetterRecord)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None
    _expect_time(record.parked_at)
    _expect_time(record.first_failed_at)
    return record


def _expect_time(text: str | None) -> None:
    """Raises msgspec.ValidationError if this is no moment in ISO 8601."""
    from datetime import datetime

    try:
        if text is not None:
            datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise msgspec.ValidationError(f"no time: {text!r}") from None


def record_key(message_id: str) -> str:
    """The record's name in the store. Ids are SQS's UUIDs; anything else is made harmless."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in message_id)
    return safe[:200] or "unnamed"


def record_name(message_id: str) -> str:
    """The record's file or object name."""
    return f"{record_key(message_id)}.json"


class _Keep:
    """Leave the record as it is."""


KEEP: Final = _Keep()


class Records:
    """Dead-letter records over a store of objects.

    Args:
        objects: where they lie.
        clock: seconds since 1970; for leases and the age of markers.
    """

    def __init__(self, objects: Objects, clock: Callable[[], float] = time) -> None:
        self.objects = objects
        self.clock = clock

    # -- reading

    def get(self, key: str) -> DeadLetterRecord | None:
        found = self.objects.get(f"{key}.json")
        return None if found is None else decode(found[0])

    def keys(self) -> Iterator[str]:
        """The keys of all records, sorted."""
        for name in self.objects.list():
            if name.endswith(".json"):
                yield name[: -len(".json")]

    def __iter__(self) -> Iterator[DeadLetterRecord]:
        for key in self.keys():
            record = self.get(key)
            if record is not None:  # gone since
                yield record

    def list(self) -> list[DeadLetterRecord]:
        """All records, the oldest first."""
        return sorted(self, key=lambda record: record.parked_at)

    def waiting(self, pool: str = OWN) -> Iterator[Waiting]:
        """The records that wait for a runner of this pool, the oldest first; some may be no longer
        waiting."""
        folder = f"waiting/{pool}/"
        for name in self.objects.list(folder):
            since, _, key = name.partition("~")
            yield Waiting(key, since, folder + name)

    def pools(self) -> Iterator[str]:
        """The pools in which records wait, or have waited."""
        return self.objects.folders("waiting/")

    def running(self) -> Iterator[str]:
        """Keys of the records that are being run; some may be no longer so."""
        return self.objects.list("running/")

    # -- changing

    def put(self, record: DeadLetterRecord, given_up: bool = False) -> DeadLetterRecord:
        """Put a failed message down, parked or waiting; returns the record that then lies there.

        A second delivery of a message that is waiting or running changes nothing: whoever runs the
        record decides about it. Of one that is parked, the newer failure counts, and the history
        goes on; but that SQS has given it up as well (``given_up``) says less than why it was
        parked, and is only noted.
        """

        detail = f"{record.reason}: {record.error}"

        def change(old: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
            if old is None:
                new = inherit(record)
                first = new.first_failed_at or new.parked_at
                new = msgspec.structs.replace(new, first_failed_at=first)
                return new if told else changed(new, record.state, detail)
            if old.state != PARKED:
                return KEEP
            if given_up:
                noted = (
                    DEAD_LETTERED in (event.event, event.detail.partition(":")[0])
                    for event in old.history
                )
                return KEEP if any(noted) else changed(old, DEAD_LETTERED, "after it was parked")
            new = msgspec.structs.replace(
                record,
                first_failed_at=old.first_failed_at or old.parked_at,
                launches=old.launches,
                stopped=old.stopped,
                runs=old.runs,
                log=old.log,
                history=old.history,
            )
            return changed(new, record.state, detail)

        # Whoever has parked it on its way here has noted it already.
        told = any(
            (event.event, event.detail) == (record.state, detail) for event in record.history
        )
        # Mostly there is none yet: written without a look, it is half the requests, and the
        # function needs no permission to read.
        new = change(None)
        assert isinstance(new, DeadLetterRecord)
        try:
            self._swap(record.key, None, ABSENT, new)
        except Conflict:
            stored = self.update(record.key, change)
            assert stored is not None
            return stored
        return new

    def update(
        self,
        key: str,
        change: Callable[[DeadLetterRecord | None], DeadLetterRecord | _Keep | None],
    ) -> DeadLetterRecord | None:
        """Change a record by compare-and-swap.

        Args:
            key: which.
            change: given the record as it lies there (None: there is none), returns what is to
                lie there instead, None to remove it, or KEEP. Called again when somebody else was
                faster.

        Returns the record as it is afterwards.

        Raises:
            Conflict: others were faster twenty times in a row.
        """
        from random import random
        from time import sleep

        for swap in range(SWAPS_MOST):
            found = self.objects.get(f"{key}.json")
            old = None if found is None else decode(found[0])
            new = change(old)
            if isinstance(new, _Keep):
                return old
            try:
                self._swap(key, old, ABSENT if found is None else found[1], new)
            except Conflict:
                sleep(random() * 0.005 * (swap + 1))
                continue
            return new
        raise Conflict(key)

    def _swap(
        self, key: str, old: DeadLetterRecord | None, version: str, new: DeadLetterRecord | None
    ) -> None:
        before, after = _marker(old), _marker(new)
        left = None
        if before is not None and before != after:
            left = self.objects.get(before)
        if after is not None and after != before:
            self.objects.put(after, self._marker_content())
        if new is None:
            if old is not None:
                self.objects.delete(f"{key}.json", version)
        else:
            self.objects.put(f"{key}.json", encode(new), version)
        if left is not None and before is not None:
            self._remove_marker(before, left[1])

    def _marker_content(self) -> bytes:
        """Its time, and something unique, so that a marker written anew is another version."""
        from os import urandom

        return f"{self.clock():.3f} {urandom(8).hex()}\n".encode()

    def _remove_marker(self, marker: str, version: str) -> None:
        """Best effort: a marker too many is met, and removed, later."""
        from contextlib import suppress

        with suppress(Exception):
            self.objects.delete(marker, version)

    def forget_marker(self, marker: str) -> None:
        """Remove a marker whose record was found in another state, once it is old enough."""
        found = self.objects.get(marker)
        if found is None:
            return
        if self.clock() - _written(found[0]) > MARKER_GRACE:
            self._remove_marker(marker, found[1])

    def longest_wait(self, markers: Sequence[Waiting]) -> float:
        """Seconds for which the one of these records has waited that has waited longest.

        Not since its first failure: it may have been parked in between, for days. None waits for
        longer than it has failed, so of the oldest only a few are read; at most LOOKED_AT.
        """
        now = self.clock()
        longest = 0.0
        for each in sorted(markers, key=lambda each: each.since)[:LOOKED_AT]:
            if each.age(now) <= longest:
                break
            if (found := self.objects.get(each.marker)) is not None:
                longest = max(longest, min(each.age(now), now - _written(found[0])))
        return longest

    # -- the life of an open record

    def claim(
        self, key: str, task: str, seconds: float, log: str | None = None
    ) -> tuple[DeadLetterRecord, str] | None:
        """Take a waiting record up.

        Args:
            key: which.
            task: the claimer's launch.
            seconds: how long the lease is, unless it is renewed.
            log: where the claimer's log lies.

        Returns the record and the lease's owner, to be named in all that follows; None when it is
        not waiting, or not due after a failed run.
        """
        from os import urandom

        owner = urandom(12).hex()

        def take(record: DeadLetterRecord | None) -> DeadLetterRecord | _Keep:
            if record is None or not record.due(self.clock()):
                return KEEP
            lease = Lease(owner, task, self.clock() + seconds)
            where = log or record.log
            return changed(record, "claimed", task, state=RUNNING, lease=lease, log=where)

        record = self.update(key, take)
        if record is None or record.state != RUNNING or record.lease is None:
            return None
        return (record, owner) if record.lease.owner == owner else None

    def held(
        self, key: str, owner: str, change: Callable[[DeadLetterRecord], DeadLetterRecord | None]
    ) -> DeadLetterRecord | None:
        """Change, or with None remove, a record whose lease is the caller's.

        Raises:
            LeaseLost: it is not.
        """

        def fenced(record: DeadLetterRecord | None) -> DeadLetterRecord | None:
            if record is None or record.lease is None or record.lease.owner != owner:
                raise LeaseLost(key)
            return change(record)

        return self.update(key, fenced)

    def renew(self, key: str, owner: str, seconds: float) -> None:
        """Hold the lease for another so many seconds from now. Raises LeaseLost."""

        def longer(record: DeadLetterRecord) -> DeadLetterRecord:
            assert record.lease is not None
            lease = msgspec.structs.replace(record.lease, until=self.clock() + seconds)
            return msgspec.structs.replace(record, lease=lease)

        self.held(key, owner, longer)

    def complete(self, key: str, owner: str) -> None:
        """The work is done: remove the record. Raises LeaseLost."""
        self.held(key, owner, lambda _: None)

    def release(self, key: str, owner: str, why: str) -> None:
        """Give a record back unharmed: nothing is counted. Raises LeaseLost."""
        self.held(key, owner, lambda r: changed(r, "released", why, state=WAITING, lease=None))

    def park(self, key: str, owner: str, reason: str, error: str, **fields: Any) -> None:
        """Let the record's runner park it. Raises LeaseLost."""
        self.held(key, owner, lambda r: parked(r, reason, error, **fields))

    def fail(self, key: str, owner: str, runs: int, error: str, **fields: Any) -> DeadLetterRecord:
        """Count a failed run: waiting again, or parked after so many. Raises LeaseLost."""
        record = self.held(key, owner, lambda r: run_failed(r, runs, RUN_FAILED, error, **fields))
        assert record is not None
        return record


def parked(record: DeadLetterRecord, reason: str, error: str, **fields: Any) -> DeadLetterRecord:
    """The record, parked now."""
    return changed(
        record,
        PARKED,
        f"{reason}: {error}",
        state=PARKED,
        lease=None,
        reason=reason,
        error=error,
        parked_at=now(),
        **fields,
    )


def with_reason(record: DeadLetterRecord) -> DeadLetterRecord:
    """The record, about to be parked for another reason, with its first one in the history."""
    return record if record.history else changed(record, record.reason, record.error)


def run_failed(
    record: DeadLetterRecord,
    runs: int,
    reason: str,
    error: str,
    not_before: float = 0.0,
    **fields: Any,
) -> DeadLetterRecord:
    """The record after one more failed run: waiting, and not to be run before a time in seconds
    since 1970; or parked when that was the last run permitted."""
    fields["runs"] = record.runs + 1
    if fields["runs"] >= runs:
        return parked(record, reason, error, **fields)
    fields |= {"state": WAITING, "lease": None, "error": error, "not_before": not_before}
    return changed(record, "run failed", error, **fields)


def _written(marker: bytes) -> float:
    """When a record entered the state that this marker of it tells of; seconds since 1970, long ago
    if it is no marker of ours."""
    try:
        return float(marker.split()[0])
    except (ValueError, IndexError):
        return 0.0


def _marker(record: DeadLetterRecord | None) -> str | None:
    if record is None or record.state == PARKED:
        return None
    if record.state == WAITING:
        # Since `put` has set it, the time of the first failure stays what it is.
        first = record.first_failed_at or record.parked_at
        since = "".join(c for c in first[:23] if c in "0123456789")
        return f"waiting/{record.pool}/{since}~{record.key}"
    return f"running/{record.key}"


class DirectoryStore(Records):
    """Records as files in a directory: ``ls`` lists them, any editor reads them."""

    def __init__(self, directory: str, clock: Callable[[], float] = time) -> None:
        super().__init__(DirectoryObjects(directory), clock)
        self.directory = directory


class S3Store(Records):
    """Records as objects of an S3 bucket, below a prefix (empty, or ending in a slash)."""

    def __init__(self, bucket: str, prefix: str = "", clock: Callable[[], float] = time) -> None:
        super().__init__(S3Objects(bucket, prefix), clock)


def open_records(url: str) -> Records:
    """The store with this URL: ``s3://<bucket>/<prefix>`` or ``file://<directory>``.

    Raises:
        ValueError: another scheme.
    """
    scheme, _, place = url.partition("://")
    match scheme:
        case "s3":
            bucket, _, prefix = place.partition("/")
            return S3Store(bucket, f"{prefix.rstrip('/')}/" if prefix else "")
        case "file":
            return DirectoryStore(place)
    raise ValueError(f"no record store for {scheme}://; use s3 or file")


def function_identity(lambda_context: Any) -> tuple[str, str]:
    """``(name:version, request id)`` of the running invocation, for records and metrics."""
    name = getattr(lambda_context, "function_name", None) or environ.get(
        "AWS_LAMBDA_FUNCTION_NAME", "local"
    )
    version = getattr(lambda_context, "function_version", None) or "$LATEST"
    return f"{name}:{version}", getattr(lambda_context, "aws_request_id", None) or ""
