"""The dispatcher: putting down, launching within the budget, stopped tasks, the sweep."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from lambda_shim.budget import Limits, signature
from lambda_shim.dead_letters import Filter, run_again
from lambda_shim.dispatcher import (
    ANSWER_MOST,
    UNKNOWN_MOST,
    UNKNOWN_TASK,
    Dispatcher,
    Launch,
    Stopped,
)
from lambda_shim.records import PARKED, RUNNING, WAITING, DeadLetterRecord, Records
from lambda_shim.registry import Function, Registry

from .overflow import (
    SOURCE,
    TICK,
    Clock,
    FakeLauncher,
    dead_event,
    dead_message,
    failed,
    pointer_event,
    pointer_message,
    stopped_event,
)
from .stores import Breakable, MemoryObjects, dead_letter


class Overflow:
    """A dispatcher with all that it touches."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.store = Breakable(MemoryObjects())
        self.records = Records(self.store, self.clock)
        self.launcher = FakeLauncher()
        self.limits = Limits(**{"run_wait": 0.0, **limits})
        self.dispatch = Dispatcher(self.records, self.launcher, self.limits, clock=self.clock)

    def record(self, key: str) -> DeadLetterRecord:
        record = self.records.get(key)
        assert record is not None
        return record

    def launches(self) -> list[str]:
        return [launch.id for launch in self.launcher.launches]

    def fail_run(self, key: str, launch: str, error: str = "ValueError: boom") -> None:
        """What a runner does whose run fails."""
        claimed = self.records.claim(key, launch, 60)
        assert claimed is not None
        self.records.fail(key, claimed[1], self.limits.runs, error)
        self.dispatch.budget.ran(launch, signature(error))


@pytest.fixture
def overflow() -> Overflow:
    return Overflow()


# -- messages


def test_every_message_of_a_batch_is_put_on_record(overflow: Overflow) -> None:
    assert failed(overflow.dispatch(dead_event("a", "b", "c"))) == []
    assert sorted(overflow.records.keys()) == ["a", "b", "c"]
    record = overflow.record("a")
    assert (record.state, record.reason) == (WAITING, "dead_lettered")
    assert record.body == dead_message("a")["body"]
    assert (record.attempts, record.source) == (3, SOURCE)
    assert record.first_failed_at == "2025-11-01T00:00:00.001+00:00"


def test_a_message_of_one_mebibyte_is_launched_by_a_pointer(overflow: Overflow) -> None:
    body = "x" * 1_048_576
    overflow.dispatch({"Records": [dead_message("a", body)]})
    assert overflow.record("a").body == body
    assert overflow.launcher.launches == [Launch("a.1", "a", "own", overflow.clock())]


def test_a_pointer_launches_what_waits(overflow: Overflow) -> None:
    overflow.records.put(dead_letter("a", state=WAITING, reason="deadline"))
    assert failed(overflow.dispatch(pointer_event("a"))) == []
    assert overflow.launches() == ["a.1"]
    assert list(overflow.records.keys()) == ["a"]


@pytest.mark.parametrize("key", ["nothing", "../../etc/passwd", ""])
def test_a_pointer_to_nothing_does_nothing(key: str, overflow: Overflow) -> None:
    assert failed(overflow.dispatch(pointer_event(key))) == []
    assert overflow.launches() == []


def test_a_dead_letter_that_looks_like_a_pointer_is_put_on_record(overflow: Overflow) -> None:
    body = '{"$overflow_record":"x"}'
    assert failed(overflow.dispatch({"Records": [dead_message("a", body)]})) == []
    assert overflow.record("a").body == body
    assert overflow.launches() == ["a.1"]


def test_a_duplicate_delivery_changes_and_launches_nothing(overflow: Overflow) -> None:
    overflow.dispatch(dead_event("a"))
    before = overflow.record("a")
    overflow.dispatch(dead_event("a"))
    assert overflow.record("a") == before
    assert overflow.launches() == ["a.1"]


@pytest.mark.parametrize("tasks", ["some", "none yet", "never"])
def test_what_was_parked_ahead_of_its_batchs_crash_stays_as_it_was_parked(tasks: str) -> None:
    """Its record is down, its acknowledgement died with the batch: SQS gives the message up too."""
    overflow = Overflow()
    if tasks != "some":
        wanted = tasks == "none yet"
        overflow.dispatch = Dispatcher(overflow.records, None, tasks_wanted=wanted)
    overflow.records.put(
        dead_letter("a", reason="retries_exhausted", traceback="boom", business_id="order-1")
    )
    before = overflow.record("a")
    for _ in range(2):
        assert failed(overflow.dispatch(dead_event("a"))) == []
    record = overflow.record("a")
    assert [event.event for event in record.history] == ["parked", "dead_lettered"]
    record.history = before.history
    assert record == before
    assert overflow.launches() == []


def test_a_message_that_cannot_be_put_on_record_returns_alone(
    overflow: Overflow, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(operation: str, key: str) -> None:
        if (operation, key) == ("put", "b.json"):
            raise OSError("write refused")

    overflow.store.before = refuse
    assert failed(overflow.dispatch(dead_event("a", "b", "c"))) == ["b"]
    assert sorted(overflow.records.keys()) == ["a", "c"]
    assert json.loads(capsys.readouterr().out)["FailedRecords"] == 1
    overflow.store.before = lambda operation, key: None
    assert failed(overflow.dispatch(dead_event("b"))) == []
    assert capsys.readouterr().out == ""


def test_with_the_store_away_the_whole_batch_returns(
    overflow: Overflow, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(operation: str, key: str) -> None:
        raise OSError("store unavailable")

    overflow.store.before = refuse
    assert failed(overflow.dispatch(dead_event("a", "b"))) == ["a", "b"]
    assert json.loads(capsys.readouterr().out)["FailedRecords"] == 2
    assert overflow.launches() == []


# -- the launch budget


def test_no_more_tasks_at_once_than_permitted() -> None:
    overflow = Overflow(tasks=2)
    overflow.dispatch(dead_event(*"abcdef"))
    overflow.dispatch(dead_event(*"ghij"))
    assert len(overflow.launches()) == 2
    overflow.fail_run("a", "a.1")
    overflow.dispatch(stopped_event("a.1"))
    assert len(overflow.launches()) == 3


def test_two_dispatchers_at_once_spend_one_budget() -> None:
    """Both have seen a free place; the second finds it taken when it books."""
    overflow = Overflow(tasks=1)
    rival = Dispatcher(
        Records(overflow.store.objects, overflow.clock),
        overflow.launcher,
        overflow.limits,
        clock=overflow.clock,
    )

    def overtake(operation: str, key: str) -> None:
        if (operation, key) == ("put", "overflow/budget.json"):
            overflow.store.before = lambda operation, key: None
            rival(dead_event("0"))  # ahead of a, by its key

    overflow.store.before = overtake
    overflow.dispatch(dead_event("a"))
    assert len(overflow.launches()) == 1
    assert len(overflow.dispatch.budget.read().tasks) == 1


def test_no_more_launches_an_hour_than_permitted() -> None:
    overflow = Overflow(tasks=100, launches=3, failures=100)
    overflow.dispatch(dead_event(*"abcdef"))
    for launch in overflow.launches():
        overflow.dispatch(stopped_event(launch, 0))
    assert len(overflow.launches()) == 3
    overflow.clock.time += 3599
    overflow.dispatch(TICK)
    assert len(overflow.launches()) == 3
    overflow.clock.time += 2
    overflow.dispatch(TICK)
    assert len(overflow.launches()) == 6


def test_the_circuit_opens_when_runs_keep_failing_the_same_way() -> None:
    overflow = Overflow(tasks=1, failures=3, cool_down=900)
    overflow.dispatch(dead_event(*"abcd"))
    for number, key in enumerate("abc"):
        (launch,) = overflow.dispatch.budget.read().tasks
        overflow.fail_run(key, launch, f"KeyError: 'customer-{number}'")
        overflow.dispatch(stopped_event(launch))
    assert overflow.dispatch.budget.circuit() == "open"
    launched = overflow.launches()
    assert len(launched) == 3

    # What arrives now is parked, dead-lettered or handed over; what waited goes on waiting.
    overflow.records.put(dead_letter("handed", state=WAITING, reason="deadline"))
    overflow.dispatch(pointer_event("handed"))
    overflow.dispatch(dead_event("late"))
    for key in ("late", "handed"):
        assert (overflow.record(key).state, overflow.record(key).reason) == (
            PARKED,
            "circuit_open",
        )
    assert overflow.record("d").state == WAITING

    # After the cool-down one task may try; one more failure opens the circuit again.
    overflow.clock.time += 901
    overflow.dispatch(TICK)
    assert len(overflow.launches()) == 4
    (launch,) = overflow.dispatch.budget.read().tasks
    overflow.fail_run("d", launch, "OSError: something else")
    assert overflow.dispatch.budget.circuit() == "open"
    overflow.dispatch(stopped_event(launch))

    # And a success closes it.
    overflow.clock.time += 901
    overflow.dispatch(TICK)
    (launch,) = overflow.dispatch.budget.read().tasks
    overflow.dispatch.budget.ran(launch, None)
    assert overflow.dispatch.budget.circuit() == "closed"


def test_a_task_that_is_busy_for_hours_does_not_keep_the_circuit_from_its_trial() -> None:
    overflow = Overflow(tasks=3, failures=1, cool_down=900)
    overflow.dispatch(dead_event(*"ab"))
    assert overflow.records.claim("a", "a.1", 100_000) is not None
    overflow.fail_run("b", "b.1")
    overflow.dispatch(stopped_event("b.1"))
    overflow.clock.time += 901
    overflow.dispatch(dead_event("c"))
    assert overflow.launches() == ["a.1", "b.1", "b.2"]
    overflow.dispatch(dead_event("d"))
    assert len(overflow.launches()) == 3


def test_failures_of_several_kinds_do_not_open_the_circuit() -> None:
    overflow = Overflow(failures=3)
    budget = overflow.dispatch.budget
    for error in ("ValueError: a", "OSError: b", "ValueError: a", "KeyError: c"):
        budget.ran("x.1", signature(error))
    budget.ran("x.1", signature("KeyError: c"))
    budget.ran("x.1", None)
    budget.ran("x.1", signature("KeyError: c"))
    assert budget.circuit() == "closed"


def test_signatures_leave_out_what_differs_between_messages() -> None:
    first = signature("KeyError: 'customer-17' at 2026-11-01 of 5f0e-a1")
    assert first == signature("KeyError: 'customer-18' at 2026-11-02 of 7c1d-b2\nmore")
    assert signature("ValueError: a") != signature("OSError: a")
    lacks = "ModuleNotFoundError: No module named 'pydyf'"
    assert signature(lacks) == lacks
    assert signature("") == ""


def test_a_refused_launch_leaves_the_record_waiting_for_the_next_try(
    overflow: Overflow, capsys: pytest.CaptureFixture[str]
) -> None:
    overflow.launcher.refuse("RESOURCE:MEMORY")
    assert failed(overflow.dispatch(dead_event("a", "b"))) == []
    record = overflow.record("a")
    assert record.state == WAITING
    assert [(e.event, e.detail) for e in record.history][-2:] == [
        ("launching", "a.1"),
        ("launch refused", "RESOURCE:MEMORY"),
    ]
    # Refused once, the next launch waits, and is given back to the hour's budget.
    assert overflow.record("b").launches == 0
    assert overflow.dispatch.budget.read().launched_at == []
    assert capsys.readouterr().out.count('"FailedLaunches":1') == 1
    overflow.launcher.answer()
    overflow.dispatch(TICK)
    assert overflow.launches() == []
    overflow.clock.time += 16
    overflow.dispatch(TICK)
    assert overflow.launches() == ["a.2", "b.1"]


def test_a_launch_without_an_answer_is_asked_for_again_and_starts_one_task(
    overflow: Overflow,
) -> None:
    def lose(launch: Launch) -> None:
        raise TimeoutError("no answer")

    overflow.launcher.after = lose
    overflow.dispatch(dead_event("a"))
    assert overflow.launches() == ["a.1"]
    overflow.launcher.answer()
    overflow.dispatch(TICK)
    assert overflow.dispatch.budget.read().tasks["a.1"].arn is None
    overflow.clock.time += ANSWER_MOST + 1
    overflow.dispatch(TICK)
    assert overflow.launches() == ["a.1"]
    assert overflow.dispatch.budget.read().tasks["a.1"].arn == overflow.launcher.arns["a.1"]


def test_a_launch_that_fails_never_fails_the_batch(overflow: Overflow) -> None:
    def lose(launch: Launch) -> None:
        raise RuntimeError("boom")

    overflow.launcher.before = lose
    assert failed(overflow.dispatch(dead_event("a"))) == []
    assert overflow.record("a").state == WAITING


@pytest.mark.parametrize("operation", range(1, 25))
def test_a_dispatcher_killed_anywhere_loses_nothing_and_launches_once(operation: int) -> None:
    """Killed ahead of its n-th operation on the store; then the message is delivered again."""
    overflow = Overflow(tasks=1)

    class Killed(BaseException):
        pass

    done = 0

    def kill(name: str, key: str) -> None:
        nonlocal done
        done += 1
        if done == operation:
            raise Killed

    overflow.store.before = kill
    try:
        overflow.dispatch(dead_event("a"))
        assert done < operation
    except Killed:
        pass
    overflow.store.before = lambda name, key: None
    overflow.dispatch(dead_event("a"))
    overflow.clock.time += ANSWER_MOST + 1
    overflow.dispatch(TICK)
    overflow.dispatch(TICK)
    assert overflow.record("a").state == WAITING
    assert overflow.launches() == ["a.1"]
    assert list(overflow.dispatch.budget.read().tasks) == ["a.1"]


# -- stopped tasks


def test_a_task_that_stopped_while_running_a_record_is_launched_again(overflow: Overflow) -> None:
    overflow.dispatch(dead_event("a"))
    overflow.records.claim("a", "a.1", 60)
    overflow.dispatch(stopped_event("a.1", 137, "OutOfMemoryError"))
    record = overflow.record("a")
    assert (record.state, record.runs) == (WAITING, 1)
    assert record.log == "/overflow:a.1"
    assert overflow.launches() == ["a.1", "a.2"]


def test_a_record_whose_tasks_keep_dying_is_parked_with_reason_and_log(
    overflow: Overflow,
) -> None:
    overflow.dispatch(dead_event("a"))
    for number in (1, 2, 3):
        overflow.records.claim("a", f"a.{number}", 60)
        overflow.dispatch(stopped_event(f"a.{number}", 137, "OutOfMemoryError"))
    record = overflow.record("a")
    assert (record.state, record.reason, record.runs) == (PARKED, "task_stopped", 3)
    assert "exit 137" in record.error
    assert record.log == "/overflow:a.3"
    assert len(overflow.launches()) == 3


def test_a_record_drained_by_another_records_task_is_found_too(overflow: Overflow) -> None:
    overflow.dispatch(dead_event("a", "b", "c"))
    overflow.records.claim("c", "a.1", 60)
    overflow.dispatch(stopped_event("a.1", 137))
    assert (overflow.record("c").state, overflow.record("c").runs) == (WAITING, 1)


@pytest.mark.parametrize("exit_code", [None, 0, 1])
def test_a_record_whose_tasks_never_take_it_up_is_parked(exit_code: int | None) -> None:
    overflow = Overflow(failures=100)
    overflow.dispatch(dead_event("a"))
    for number in (1, 2, 3):
        event = stopped_event(f"a.{number}", exit_code, "TaskFailedToStart")
        overflow.dispatch(event)
        overflow.dispatch(event)  # EventBridge delivers at least once
    record = overflow.record("a")
    assert (record.state, record.reason) == (PARKED, "never_started")
    assert record.log == "/overflow:a.3"
    assert overflow.launches() == ["a.1", "a.2", "a.3"]
    assert overflow.dispatch.budget.read().tasks == {}


def test_tasks_that_never_start_open_the_circuit() -> None:
    overflow = Overflow(tasks=1, failures=3)
    overflow.dispatch(dead_event(*"abcd"))
    for _ in range(3):
        (launch,) = overflow.dispatch.budget.read().tasks
        overflow.dispatch(stopped_event(launch, None, "TaskFailedToStart"))
    assert overflow.dispatch.budget.circuit() == "open"
    assert len(overflow.launches()) == 3


def test_a_task_that_ended_well_leaves_nothing_behind(overflow: Overflow) -> None:
    overflow.dispatch(dead_event("a"))
    claimed = overflow.records.claim("a", "a.1", 60)
    assert claimed is not None
    overflow.records.complete("a", claimed[1])
    overflow.dispatch(stopped_event("a.1", 0))
    assert overflow.dispatch.budget.read().tasks == {}
    assert list(overflow.records.keys()) == []


def test_changes_of_other_tasks_are_none_of_ours(overflow: Overflow) -> None:
    overflow.dispatch(dead_event("a"))
    running = stopped_event("a.1")
    running["detail"]["lastStatus"] = "RUNNING"
    stranger = stopped_event("a.1")
    stranger["detail"]["overrides"] = {}
    for event in (running, stranger):
        overflow.dispatch(event)
    assert list(overflow.dispatch.budget.read().tasks) == ["a.1"]


# -- the sweep


def test_the_sweep_finds_a_task_that_vanished_without_an_event(overflow: Overflow) -> None:
    overflow.dispatch(dead_event("a"))
    overflow.records.claim("a", "a.1", 60)
    overflow.launcher.gone[overflow.launcher.arns["a.1"]] = Stopped(UNKNOWN_TASK)
    overflow.dispatch(TICK)  # too young to be given up
    assert overflow.record("a").state == RUNNING
    overflow.clock.time += UNKNOWN_MOST + 1
    overflow.dispatch(TICK)
    assert (overflow.record("a").state, overflow.record("a").runs) == (WAITING, 1)
    assert overflow.launches() == ["a.1", "a.2"]


def test_the_sweep_finds_a_lease_that_ran_out(overflow: Overflow) -> None:
    overflow.dispatch(dead_event("a"))
    overflow.records.claim("a", "a task of which nothing is known", 60, "its log")
    overflow.clock.time += 59
    overflow.dispatch(TICK)
    assert overflow.record("a").state == RUNNING
    overflow.clock.time += 2
    overflow.dispatch(TICK)
    assert (overflow.record("a").state, overflow.record("a").runs) == (WAITING, 1)
    assert overflow.record("a").log == "its log"


def test_a_lease_that_ran_out_is_left_to_a_task_that_runs(overflow: Overflow) -> None:
    """Its job may be in a long call into C, in which no heartbeat beats."""
    overflow.dispatch(dead_event("a"))
    claimed = overflow.records.claim("a", "a.1", 60)
    assert claimed is not None
    overflow.clock.time += 3600
    overflow.dispatch(TICK)
    assert overflow.record("a").state == RUNNING
    overflow.records.complete("a", claimed[1])
    assert overflow.records.get("a") is None


def test_a_lease_that_ran_out_is_taken_from_a_task_that_has_ended(overflow: Overflow) -> None:
    overflow.dispatch(dead_event("a"))
    overflow.records.claim("a", "a.1", 60)
    overflow.clock.time += 61
    overflow.launcher.gone[overflow.launcher.arns["a.1"]] = Stopped("OutOfMemoryError")
    overflow.dispatch(TICK)
    record = overflow.record("a")
    assert (record.state, record.runs, record.error) == (WAITING, 1, "OutOfMemoryError")


def test_the_sweep_launches_what_no_pointer_told_of(overflow: Overflow) -> None:
    overflow.records.put(dead_letter("a", state=WAITING, reason="deadline"))
    overflow.dispatch(TICK)
    assert overflow.launches() == ["a.1"]


def test_a_stray_marker_launches_nothing(overflow: Overflow) -> None:
    overflow.records.put(dead_letter("a"))
    overflow.store.put("waiting/own/1~a", f"{overflow.clock.time} x".encode())
    overflow.store.put("waiting/own/2~gone", f"{overflow.clock.time} x".encode())
    overflow.dispatch(TICK)
    overflow.clock.time += 3601
    overflow.dispatch(TICK)
    assert overflow.launches() == []
    assert list(overflow.records.waiting()) == []


def test_the_sweep_measures_what_lies_in_the_store(
    overflow: Overflow, capsys: pytest.CaptureFixture[str]
) -> None:
    overflow.clock.time = datetime(2026, 11, 1, 6, tzinfo=UTC).timestamp()
    overflow.records.put(dead_letter("a"))
    overflow.records.put(dead_letter("b", state=WAITING, reason="deadline"))
    overflow.records.put(dead_letter("c", state=WAITING, reason="deadline"))
    overflow.clock.time += 600
    overflow.records.claim("c", "c.1", 60)
    overflow.dispatch._measure()
    line = json.loads(capsys.readouterr().out)
    names = ("WaitingRecords", "RunningRecords", "DeadLetterRecords", "OldestWaitingRecord")
    assert [line[name] for name in names] == [1, 1, 1, 600]
    metrics = line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    assert {metric["Name"]: metric["Unit"] for metric in metrics}[
        "OldestWaitingRecord"
    ] == "Seconds"


@pytest.mark.parametrize("tasks", ["some", "none yet", "never"])
def test_what_waits_in_a_pool_that_is_registered_no_longer_is_parked(
    tasks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overflow = Overflow()
    overflow.records.put(
        dead_letter("a", state=WAITING, reason="dead_lettered", error="boom", pool="billing")
    )
    overflow.dispatch = Dispatcher(
        overflow.records,
        overflow.launcher if tasks == "some" else None,
        overflow.limits,
        Registry((SOURCE,), ()),
        overflow.clock,
        tasks_wanted=tasks != "never",
    )
    overflow.dispatch._measure()
    assert json.loads(capsys.readouterr().out)["WaitingRecords"] == 1
    overflow.dispatch(TICK)
    record = overflow.record("a")
    assert (record.state, record.reason) == (PARKED, "not_registered")
    assert overflow.launches() == []


def test_what_waits_in_a_pool_that_has_another_name_now_is_run_by_it() -> None:
    overflow = Overflow()
    attributes = {"DeadLetterQueueSourceArn": SOURCE}
    overflow.records.put(dead_letter("a", state=WAITING, pool="billing", attributes=attributes))
    overflow.dispatch.sources = Registry((SOURCE,), ())
    overflow.dispatch(TICK)
    assert overflow.record("a").pool == "own"
    assert overflow.launches() == ["a.1"]


def test_a_record_waits_from_when_it_was_handed_to_the_runner_not_from_its_failure(
    overflow: Overflow,
) -> None:
    overflow.clock.time = datetime(2026, 11, 2, 6, tzinfo=UTC).timestamp()
    for number in range(30):
        overflow.records.put(dead_letter(f"old{number}"))
    run_again(overflow.records, Filter(), None)
    overflow.clock.time += 60
    overflow.records.put(
        dead_letter("new", state=WAITING, parked_at="2026-11-02T06:01:00.000+00:00")
    )
    overflow.clock.time += 60
    read: list[str] = []
    overflow.store.before = lambda operation, key: read.append(key) if operation == "get" else None
    waiting = overflow.dispatch._waiting()
    assert overflow.records.longest_wait(waiting) == 120
    assert len(read) == 30
    # What has waited since it failed is found at once.
    read.clear()
    assert overflow.records.longest_wait([each for each in waiting if each.key == "new"] * 9) == 60
    assert len(read) == 1
    assert overflow.records.longest_wait([]) == 0
    assert overflow.records.longest_wait(waiting * 10) == 120
    assert len(read) == 101


# -- back-off


def test_a_record_whose_run_failed_waits_twice_as_long_after_each_run() -> None:
    overflow = Overflow(runs=4, run_wait=60.0)
    overflow.dispatch(dead_event("a"))
    assert overflow.launches() == ["a.1"]
    for run, wait in enumerate((60, 120, 240), start=1):
        overflow.dispatch.budget.ended(f"a.{run}", None)
        key, limits = "a", overflow.limits
        claimed = overflow.records.claim(key, f"a.{run}", 60)
        assert claimed is not None
        record, _ = claimed
        # The task dies: the sweep finds its lease run out.
        overflow.clock.time += 61
        overflow.dispatch(TICK)
        assert overflow.record(key).runs == record.runs + 1 == run
        if run == limits.runs - 1:
            break
        overflow.clock.time += wait - 1
        overflow.dispatch(TICK)
        assert overflow.records.claim(key, "another task", 60) is None
        assert overflow.launches()[-1] == f"a.{run}"
        overflow.clock.time += 1
        overflow.dispatch(TICK)
        assert overflow.launches()[-1] == f"a.{run + 1}"


def test_the_longest_back_off_is_an_hour() -> None:
    assert Limits().again_at(1, 1000.0) == 1060.0
    assert Limits().again_at(50, 1000.0) == 4600.0


# -- a deployment without tasks


def test_without_tasks_everything_that_arrives_is_parked_and_says_so() -> None:
    overflow = Overflow()
    overflow.dispatch = Dispatcher(overflow.records, None, clock=overflow.clock)
    overflow.records.put(dead_letter("b", state=WAITING, reason="deadline"))
    overflow.records.put(dead_letter("c", state=WAITING, reason="needs_more_time"))
    assert failed(overflow.dispatch(dead_event("a"))) == []
    assert failed(overflow.dispatch(pointer_event("b"))) == []
    overflow.dispatch(TICK)  # finds what no pointer told of
    for key in "abc":
        record = overflow.record(key)
        assert (record.state, record.reason) == (PARKED, "no_runner")
        assert "no subnets were given at deployment" in record.error
    first = {key: overflow.record(key).history[0] for key in "abc"}
    assert "dead-lettered by SQS" in first["a"].detail
    assert [first[key].event for key in "abc"] == ["dead_lettered", "waiting", "waiting"]
    assert overflow.dispatch({"detail-type": "ECS Task State Change", "detail": {}}) == {
        "launched": 0
    }


def test_without_tasks_what_the_last_ones_left_is_settled() -> None:
    overflow = Overflow(tasks=1)
    overflow.dispatch(dead_event("a"))
    assert list(overflow.dispatch.budget.read().tasks) == ["a.1"]
    overflow.dispatch = Dispatcher(overflow.records, None, clock=overflow.clock)
    overflow.store.put("waiting/own/1~gone", f"{overflow.clock.time} x".encode())
    overflow.clock.time += 3601
    overflow.dispatch(TICK)
    assert overflow.dispatch.budget.read().tasks == {}
    assert list(overflow.records.waiting()) == []


def test_a_sweep_without_an_answer_does_all_the_rest(
    overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow.dispatch(dead_event("a"))
    overflow.records.claim("a", "a.1", 60)

    def ended(arns: list[str]) -> Mapping[str, Stopped]:
        raise RuntimeError("the cluster is another")

    monkeypatch.setattr(overflow.launcher, "ended", ended)
    overflow.clock.time += 61
    overflow.dispatch(TICK)
    assert overflow.record("a").state == WAITING


def test_a_record_that_cannot_be_read_stands_in_the_way_of_no_other(overflow: Overflow) -> None:
    for number, place in enumerate(("waiting/own/1~bad", "running/bad", "waiting/gone/1~bad")):
        overflow.store.put(place, f"{overflow.clock.time - number} x".encode())
    overflow.store.put("bad.json", b"[]")
    overflow.dispatch(dead_event("a"))
    overflow.dispatch(TICK)
    assert overflow.launches() == ["a.1"]


def test_a_body_that_nests_too_deeply_is_put_on_record(overflow: Overflow) -> None:
    assert failed(overflow.dispatch({"Records": [pointer_message("a", "[" * 50_000)]})) == []
    assert overflow.record("a").body == "[" * 50_000


def test_where_there_were_never_to_be_tasks_a_record_keeps_its_reason() -> None:
    overflow = Overflow()
    overflow.dispatch = Dispatcher(overflow.records, None, clock=overflow.clock, tasks_wanted=False)
    overflow.records.put(dead_letter("b", state=WAITING, reason="deadline"))
    assert failed(overflow.dispatch(dead_event("a"))) == []
    overflow.dispatch(TICK)
    reasons = {key: overflow.record(key).reason for key in "ab"}
    assert reasons == {"a": "dead_lettered", "b": "deadline"}
    assert {overflow.record(key).state for key in "ab"} == {PARKED}
    assert "dead-lettered by SQS" in overflow.record("a").error


LONE_SURROGATE = "no such file: 'caf\udce9.pdf'"


def test_halves_of_surrogate_pairs_in_a_message_are_put_on_record() -> None:
    """JSON can hold them, as of a file name that was no UTF-8; UTF-8 cannot."""
    overflow = Overflow()
    arn = "arn:aws:lambda:eu-central-1:000000000000:function:billing"
    overflow.dispatch.sources = Registry((), (Function(function=arn, pool="billing", role="r"),))
    response = {"errorType": "OSError", "errorMessage": LONE_SURROGATE}
    known = {"requestContext": {"functionArn": arn}, "requestPayload": {}}
    unknown = {"requestContext": {"functionArn": "\ud800"}, "requestPayload": {}}
    messages = [
        dead_message("known", json.dumps({**known, "responsePayload": response})),
        dead_message("unknown", json.dumps(unknown)),
    ]
    for message in messages:
        del message["attributes"]["DeadLetterQueueSourceArn"]
    assert failed(overflow.dispatch({"Records": messages})) == []
    assert overflow.record("known").error == r"OSError: no such file: 'caf\udce9.pdf'"
    assert r"\ud800" in overflow.record("unknown").error


def test_a_record_that_was_broken_while_it_ran_keeps_no_launch_slot(overflow: Overflow) -> None:
    overflow.dispatch(dead_event("a", "b"))
    for key in "ab":
        assert overflow.records.claim(key, f"{key}.1", 60) is not None
    overflow.store.put("a.json", b"{ oops")
    for key in "ab":
        overflow.dispatch(stopped_event(f"{key}.1", 137))
    assert overflow.dispatch.budget.read().tasks.keys() == {"b.2"}
    overflow.dispatch(dead_event("c"))
    assert overflow.dispatch.budget.read().tasks.keys() == {"b.2", "c.1"}
    overflow.dispatch(TICK)


def test_the_end_of_an_earlier_task_of_the_same_name_is_nothing_to_a_later_one(
    overflow: Overflow,
) -> None:
    """Its message was delivered once more after the first one had done it."""
    overflow.dispatch(dead_event("a"))
    event = stopped_event("a.1")
    event["detail"]["taskArn"] = "arn:an-earlier-task"
    overflow.dispatch.task_changed(event["detail"])
    assert overflow.dispatch.budget.read().tasks.keys() == {"a.1"}
    assert overflow.record("a").stopped == []


def test_a_budget_that_was_broken_by_hand_begins_anew(overflow: Overflow) -> None:
    overflow.store.put("overflow/budget.json", b"{ oops")
    assert failed(overflow.dispatch(dead_event("a"))) == []
    assert overflow.launches() == ["a.1"]


@pytest.mark.parametrize("marker", ["running/notes", "waiting/own/20260101000000000~gone"])
def test_a_marker_that_is_none_of_ours_stops_no_sweep(marker: str, overflow: Overflow) -> None:
    overflow.store.put(marker, b"")
    overflow.dispatch(TICK)
    assert overflow.store.get(marker) is None


def test_a_signature_of_a_long_line_is_made_in_no_time() -> None:
    began = time.process_time()
    assert len(signature("1" * 60_000 + "z")) <= 200
    assert len(signature("a-" * 60_000)) <= 200
    assert time.process_time() - began < 1
    signature(LONE_SURROGATE).encode()
