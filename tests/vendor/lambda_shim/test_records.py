"""The life of a record: states, markers, leases, history; over every store."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from lambda_shim.objects import Conflict, Objects
from lambda_shim.records import (
    DEADLINE,
    HISTORY_MOST,
    MARKER_GRACE,
    PARKED,
    RUN_FAILED,
    RUNNING,
    WAITING,
    DeadLetterRecord,
    LeaseLost,
    Records,
    changed,
    decode,
)

from .stores import Breakable, MemoryObjects, dead_letter

# dead_letter's time
SINCE = "20261101060000000"


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def records(objects: Objects, clock: Clock) -> Records:
    return Records(objects, clock)


def waiting(message_id: str = "m1", **changes: Any) -> DeadLetterRecord:
    return dead_letter(message_id, state=WAITING, reason=DEADLINE, **changes)


def get(records: Records, key: str = "m1") -> DeadLetterRecord:
    record = records.get(key)
    assert record is not None
    return record


def markers(records: Records) -> list[str]:
    found = [f"waiting/own/{each.key}" for each in records.waiting()]
    return found + [f"running/{key}" for key in records.running()]


def test_a_record_of_the_first_version_is_still_read() -> None:
    old = (
        b'{"message_id": "m1", "reason": "rejected", "error": "Reject: no", "body": "{}",'
        b'"attempts": 1, "source": "", "function": "f:1", "request_id": "",'
        b'"parked_at": "2026-11-01T00:00:00+00:00"}'
    )
    assert decode(old).state == PARKED


def test_the_marker_follows_the_state(records: Records) -> None:
    records.put(waiting())
    assert markers(records) == ["waiting/own/m1"]
    claimed = records.claim("m1", "launch-1", 60)
    assert claimed is not None
    assert markers(records) == ["running/m1"]
    records.release("m1", claimed[1], "SIGTERM")
    assert markers(records) == ["waiting/own/m1"]
    claimed = records.claim("m1", "launch-2", 60)
    assert claimed is not None
    records.park("m1", claimed[1], "rejected", "Reject: no")
    assert markers(records) == []
    assert get(records).state == PARKED


def test_a_completed_record_is_gone_with_its_marker(records: Records) -> None:
    records.put(waiting())
    claimed = records.claim("m1", "launch-1", 60)
    assert claimed is not None
    records.complete("m1", claimed[1])
    assert records.get("m1") is None
    assert markers(records) == []


def test_one_of_two_claims_wins(records: Records) -> None:
    records.put(waiting())
    assert records.claim("m1", "launch-1", 60) is not None
    assert records.claim("m1", "launch-2", 60) is None
    assert records.claim("nothing", "launch-2", 60) is None


def test_whoever_lost_the_lease_changes_nothing(records: Records) -> None:
    records.put(waiting())
    first = records.claim("m1", "launch-1", 60)
    assert first is not None
    records.release("m1", first[1], "")
    second = records.claim("m1", "launch-1", 60)
    assert second is not None
    attempts: list[Callable[[], object]] = [
        lambda: records.complete("m1", first[1]),
        lambda: records.renew("m1", first[1], 60),
        lambda: records.release("m1", first[1], ""),
        lambda: records.park("m1", first[1], "rejected", ""),
        lambda: records.fail("m1", first[1], 3, "boom"),
    ]
    before = get(records)
    for attempt in attempts:
        with pytest.raises(LeaseLost):
            attempt()
    assert get(records) == before
    records.complete("m1", second[1])
    with pytest.raises(LeaseLost):
        records.complete("m1", second[1])


def test_a_lease_is_renewed(records: Records, clock: Clock) -> None:
    records.put(waiting())
    claimed = records.claim("m1", "launch-1", 60)
    assert claimed is not None
    clock.time += 50
    records.renew("m1", claimed[1], 60)
    lease = get(records).lease
    assert lease is not None
    assert lease.until == clock.time + 60
    assert lease.task == "launch-1"


def test_failed_runs_are_counted_and_the_last_one_parks(records: Records) -> None:
    records.put(waiting())
    for run in (1, 2, 3):
        claimed = records.claim("m1", f"launch-{run}", 60)
        assert claimed is not None
        record = records.fail("m1", claimed[1], 3, "ValueError: boom", traceback="Traceback …")
        assert (record.runs, record.state) == (run, PARKED if run == 3 else WAITING)
    record = get(records)
    assert (record.reason, record.error) == (RUN_FAILED, "ValueError: boom")
    assert record.traceback == "Traceback …"
    assert [event.event for event in record.history] == [
        "waiting",
        *("claimed", "run failed") * 2,
        "claimed",
        "parked",
    ]
    assert markers(records) == []


def test_a_second_delivery_leaves_an_open_record_alone(records: Records) -> None:
    records.put(waiting())
    claimed = records.claim("m1", "launch-1", 60)
    assert claimed is not None
    before = get(records)
    assert records.put(waiting()) == before
    assert records.put(dead_letter()) == before
    records.complete("m1", claimed[1])


def test_a_second_parking_goes_on_with_the_history(records: Records) -> None:
    records.put(dead_letter(reason="malformed"))
    records.put(dead_letter(reason="rejected", parked_at="2026-11-02T06:00:00.000+00:00"))
    record = get(records)
    assert record.reason == "rejected"
    assert record.first_failed_at == "2026-11-01T06:00:00.000+00:00"
    assert [event.detail.split(":")[0] for event in record.history] == ["malformed", "rejected"]


def test_a_first_failure_is_put_down_without_a_look() -> None:
    """One write for what is parked, a marker and a write for what waits, and no read."""
    store = Breakable(MemoryObjects())
    done: list[str] = []
    store.before = lambda operation, key: done.append(operation)
    Records(store).put(dead_letter("parked"))
    Records(store).put(waiting("waiting"))
    assert done == ["put", "put", "put"]


def test_the_history_is_bounded(records: Records) -> None:
    record = dead_letter()
    for number in range(HISTORY_MOST + 10):
        record = changed(record, "event", str(number))
    assert len(record.history) == HISTORY_MOST
    assert record.history[-1].detail == str(HISTORY_MOST + 9)


def test_a_change_that_lost_the_race_is_decided_anew() -> None:
    store = Breakable(MemoryObjects())
    records = Records(store)
    rival = Records(store.objects)
    records.put(waiting())

    def overtake(operation: str, key: str) -> None:
        if (operation, key) == ("put", "m1.json"):
            store.before = lambda operation, key: None
            assert rival.claim("m1", "rival", 60) is not None

    store.before = overtake
    assert records.claim("m1", "launch-1", 60) is None
    lease = get(records).lease
    assert lease is not None
    assert lease.task == "rival"


def test_a_completion_overtaken_by_the_next_holder_removes_nothing() -> None:
    """Between the look at the lease and the removal, the record became somebody else's."""
    store = Breakable(MemoryObjects())
    records = Records(store)
    rival = Records(store.objects)
    records.put(waiting())
    claimed = records.claim("m1", "launch-1", 60)
    assert claimed is not None

    def overtake(operation: str, key: str) -> None:
        if (operation, key) == ("delete", "m1.json"):
            store.before = lambda operation, key: None
            rival.release("m1", claimed[1], "ran out")
            assert rival.claim("m1", "rival", 60) is not None

    store.before = overtake
    with pytest.raises(LeaseLost):
        records.complete("m1", claimed[1])
    lease = get(records).lease
    assert lease is not None
    assert lease.task == "rival"


def test_who_is_always_overtaken_gives_up() -> None:
    store = Breakable(MemoryObjects())
    records = Records(store)
    records.put(waiting())

    def refuse(operation: str, key: str) -> None:
        if (operation, key) == ("put", "m1.json"):
            raise Conflict(key)

    store.before = refuse
    with pytest.raises(Conflict):
        records.claim("m1", "launch-1", 60)


@pytest.mark.parametrize("operation", range(1, 8))
@pytest.mark.parametrize("step", ["put", "claim", "release", "park", "complete"])
def test_killed_anywhere_an_open_record_keeps_its_marker(step: str, operation: int) -> None:
    """Every change, ended before its first, second, third … operation on the store."""
    store = Breakable(MemoryObjects())
    records = Records(store)
    owner = ""
    if step != "put":
        records.put(waiting())
    if step in ("release", "park", "complete"):
        claimed = records.claim("m1", "launch-1", 60)
        assert claimed is not None
        owner = claimed[1]
    done = 0

    class Killed(BaseException):
        pass

    def kill(name: str, key: str) -> None:
        nonlocal done
        done += 1
        if done == operation:
            raise Killed

    store.before = kill
    steps: dict[str, Callable[[], object]] = {
        "put": lambda: records.put(waiting()),
        "claim": lambda: records.claim("m1", "launch-1", 60),
        "release": lambda: records.release("m1", owner, ""),
        "park": lambda: records.park("m1", owner, "rejected", ""),
        "complete": lambda: records.complete("m1", owner),
    }
    try:
        steps[step]()
    except Killed:
        assert done == operation
    store.before = lambda name, key: None
    record = records.get("m1")
    if record is not None and record.state == WAITING:
        assert "waiting/own/m1" in markers(records)
    if record is not None and record.state == RUNNING:
        assert "running/m1" in markers(records)


def test_a_marker_written_anew_survives_its_removal_by_the_one_before() -> None:
    """Parked by one and opened again by another, before the first gets to remove the marker."""
    store = Breakable(MemoryObjects())
    records = Records(store)
    rival = Records(store.objects)
    records.put(waiting())

    def reopen(operation: str, key: str) -> None:
        if (operation, key) == ("delete", f"waiting/own/{SINCE}~m1"):
            store.before = lambda operation, key: None
            record = get(rival)
            assert record.lease is not None
            rival.release("m1", record.lease.owner, "")

    store.before = reopen
    records.claim("m1", "launch-1", 60)
    assert get(records).state == WAITING
    assert "waiting/own/m1" in markers(records)


def test_what_waits_is_listed_by_age(records: Records) -> None:
    for key, hour in (("a", 9), ("b", 7), ("c", 8)):
        records.put(waiting(key, parked_at=f"2026-11-01T{hour:02}:00:00.000+00:00"))
    found = list(records.waiting())
    assert [each.key for each in found] == ["b", "c", "a"]
    nine = datetime(2026, 11, 1, 9, tzinfo=UTC).timestamp()
    assert [each.age(nine) for each in found] == [7200, 3600, 0]


def test_stray_markers_go_when_they_are_old(records: Records, clock: Clock) -> None:
    marker = f"waiting/own/{SINCE}~gone"
    records.objects.put(marker, f"{clock.time} x".encode())
    records.forget_marker(marker)
    assert markers(records) == ["waiting/own/gone"]
    clock.time += MARKER_GRACE + 1
    records.forget_marker(marker)
    assert markers(records) == []
