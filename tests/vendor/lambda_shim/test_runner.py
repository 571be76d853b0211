"""The runner: signals, lease, drain, exit status, and the budget that a broken import may spend."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from lambda_shim.budget import Limits, limits_of
from lambda_shim.contract import Context, MalformedMessage, NeedsMoreTime, Reject, Retry
from lambda_shim.dispatcher import Dispatcher
from lambda_shim.records import (
    PARKED,
    RUNNING,
    WAITING,
    DeadLetterRecord,
    Records,
    open_records,
)
from lambda_shim.runner import (
    Job,
    Run,
    Runner,
    RunnerSettings,
    core,
    log_location,
    main,
    settings_of,
)

from .overflow import FakeLauncher, dead_message, stopped_event
from .stores import Breakable, MemoryObjects, dead_letter
from .support import MemoryLedger, Order, Stores, decode

PATIENCE = 15.0


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The runner's signal handlers go with the test."""
    kept = {
        each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
    }
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for each, handler in kept.items():
        signal.signal(each, handler)


@pytest.fixture
def store() -> Breakable:
    return Breakable(MemoryObjects())


@pytest.fixture
def records(store: Breakable) -> Records:
    return Records(store)


def runner(records: Records, job: Job, **settings: Any) -> Runner:
    runner = Runner(
        records,
        "m1.1",
        lambda: job,
        settings=RunnerSettings(**{"lease": 5, "grace": 1, "retry_most": 0.01, **settings}),
    )
    runner.listen()
    return runner


def put(records: Records, *ids: str) -> None:
    for each in ids or ("m1",):
        body = msgspec.json.encode(Order(id=each)).decode()
        records.put(dead_letter(each, state=WAITING, reason="deadline", body=body))


def get(records: Records, key: str = "m1") -> DeadLetterRecord:
    record = records.get(key)
    assert record is not None
    return record


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def raising(error: BaseException) -> Job:
    def job(record: DeadLetterRecord, run: Run) -> None:
        raise error

    return job


def test_a_completed_run_removes_the_record(records: Records) -> None:
    put(records)
    assert runner(records, lambda record, run: None).run("m1") == 0
    assert records.get("m1") is None


def test_the_core_runs_with_the_functions_own_code_and_without_a_limit(records: Records) -> None:
    seen: list[tuple[str, int, float | None]] = []
    stores = Stores()

    def handle(message: Order, context: Context[None]) -> None:
        with context.once("effect") as first:
            assert first
        seen.append((context.business_id, context.attempt, context.remaining))

    put(records)
    assert runner(records, core(decode, handle, lambda: stores)).run("m1") == 0
    assert seen == [("order-m1", 3, None)]
    assert stores.ledger.completed == {"order-m1#effect"}


def test_a_failed_run_is_told_in_the_record_and_by_the_exit_status(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    put(records)
    assert runner(records, raising(ValueError("boom"))).run("m1") == 1
    record = get(records)
    assert (record.state, record.runs, record.error) == (WAITING, 1, "ValueError: boom")
    assert "Traceback" in (record.traceback or "")
    assert any(each.exc_info for each in caplog.records)


def test_a_failing_import_is_a_failed_run(records: Records) -> None:
    def load() -> Job:
        raise ModuleNotFoundError("No module named 'pydyf'")

    put(records)
    assert Runner(records, "m1.1", load).run("m1") == 1
    assert get(records).error == "ModuleNotFoundError: No module named 'pydyf'"
    assert get(records).runs == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Reject("no such customer"), "rejected"), (MalformedMessage("$.id"), "malformed")],
)
def test_a_verdict_parks_and_is_no_failure(error: Exception, reason: str, records: Records) -> None:
    put(records)
    assert runner(records, raising(error)).run("m1") == 0
    assert (get(records).state, get(records).reason) == (PARKED, reason)


def test_without_a_limit_no_job_needs_more_time(records: Records) -> None:
    put(records)
    assert runner(records, raising(NeedsMoreTime("still"))).run("m1") == 1
    assert get(records).runs == 1


def test_a_retry_is_made_in_the_process_a_bounded_number_of_times(records: Records) -> None:
    tries: list[int] = []

    def job(record: DeadLetterRecord, run: Run) -> None:
        tries.append(1)
        raise Retry("not yet", after=0)

    put(records)
    assert runner(records, job, retries=3).run("m1") == 1
    assert len(tries) == 4
    assert get(records).error == "Retry: not yet"


def test_it_drains_what_waits_and_tries_nothing_twice(records: Records) -> None:
    ran: list[str] = []

    def job(record: DeadLetterRecord, run: Run) -> None:
        ran.append(record.key)
        if record.key == "m2":
            raise ValueError

    put(records, "m1", "m2", "m3", "m4")
    assert runner(records, job).run("m1") == 1
    assert ran[0] == "m1"
    assert sorted(ran) == ["m1", "m2", "m3", "m4"]
    assert list(records.keys()) == ["m2"]


def test_it_drains_though_its_own_record_is_gone(records: Records) -> None:
    put(records, "m2")
    assert runner(records, lambda record, run: None).run("m1") == 0
    assert list(records.keys()) == []


def test_a_record_that_cannot_be_read_stops_nothing_but_its_own_run(
    records: Records, store: Breakable
) -> None:
    put(records, "m1", "m2", "m3")
    for broken in ("m1", "m2"):
        store.put(f"{broken}.json", b"{}")
    assert runner(records, lambda record, run: None).run("m1") == 1
    assert [*records.keys()] == ["m1", "m2"]


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_job_that_would_end_the_process_has_failed_like_any_other(
    error: BaseException, records: Records
) -> None:
    put(records, "m1", "m2")
    first = iter([error])

    def job(record: DeadLetterRecord, run: Run) -> None:
        for each in first:
            raise each

    assert runner(records, job).run("m1") == 1
    assert [*records.keys()] == ["m1"]
    assert get(records).runs == 1
    assert get(records).traceback is not None


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [Unspeakable(), ValueError("caf\udce9.pdf"), Reject("\ud800")])
def test_an_error_whose_text_cannot_be_written_is_on_record_all_the_same(
    error: Exception, records: Records
) -> None:
    put(records)
    runner(records, raising(error)).run("m1")
    assert get(records).error.startswith(type(error).__name__)


def test_it_takes_up_nothing_more_when_its_time_is_over(records: Records) -> None:
    put(records, "m1", "m2")
    assert runner(records, lambda record, run: None, drain=0).run("m1") == 0
    assert list(records.keys()) == ["m2"]


def test_it_stops_draining_when_the_circuit_opens(records: Records) -> None:
    put(records, *(f"m{number}" for number in range(1, 21)))
    subject = runner(records, raising(ValueError("boom")))
    subject.limits = Limits(failures=4)
    subject.budget.limits = subject.limits
    assert subject.run("m1") == 1
    assert sum(record.runs for record in records) == 4


def test_two_runners_share_what_waits(records: Records) -> None:
    ran: list[str] = []
    put(records, *(f"m{number}" for number in range(30)))

    def drain(launch: str) -> None:
        Runner(records, launch, lambda: lambda record, run: ran.append(record.key)).run("m0")

    threads = [threading.Thread(target=drain, args=(f"m0.{n}",)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == sorted(f"m{number}" for number in range(30))
    assert list(records.keys()) == []


# -- SIGTERM


def test_sigterm_lets_the_job_save_how_far_it_has_come(records: Records) -> None:
    saved: list[float | None] = []

    def handle(message: Order, context: Context[None]) -> None:
        assert context.remaining is None
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: context.remaining is not None)
        saved.append(context.remaining)
        raise NeedsMoreTime("saved at page 7")

    put(records, "m1", "m2")
    stores = Stores()
    assert runner(records, core(decode, handle, lambda: stores), grace=20).run("m1") == 0
    assert saved[0] is not None
    assert 10 < saved[0] <= 20
    record = get(records)
    assert (record.state, record.runs, record.lease) == (WAITING, 0, None)
    assert record.history[-1].detail == "NeedsMoreTime: saved at page 7"
    assert get(records, "m2").history[-1].event == "waiting"


def test_a_job_that_ignores_sigterm_is_ended_within_the_grace(records: Records) -> None:
    def job(record: DeadLetterRecord, run: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)

    put(records)
    assert runner(records, job, grace=0.2).run("m1") == 0
    record = get(records)
    assert (record.state, record.runs) == (WAITING, 0)
    assert record.history[-1].event == "released"


def test_a_job_that_ends_within_the_grace_is_done(records: Records) -> None:
    put(records, "m1", "m2")
    job: Job = lambda record, run: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    assert runner(records, job, grace=20).run("m1") == 0
    assert list(records.keys()) == ["m2"]


def test_sigterm_ends_the_wait_for_a_retry(records: Records) -> None:
    def job(record: DeadLetterRecord, run: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise Retry("in a while", after=PATIENCE)

    put(records)
    assert runner(records, job, retry_most=PATIENCE).run("m1") == 0
    assert (get(records).state, get(records).runs) == (WAITING, 0)


def test_sigterm_during_the_wait_for_a_retry(records: Records) -> None:
    def job(record: DeadLetterRecord, run: Run) -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        raise Retry("in a while", after=PATIENCE)

    put(records)
    assert runner(records, job, retry_most=PATIENCE).run("m1") == 0
    assert (get(records).state, get(records).runs) == (WAITING, 0)


def test_what_a_job_forks_ends_on_sigterm(records: Records) -> None:
    """As multiprocessing's children do, and as they would on Lambda."""
    ended: list[int] = []

    def job(record: DeadLetterRecord, run: Run) -> None:
        if (child := os.fork()) == 0:
            try:
                time.sleep(PATIENCE)
            finally:
                os._exit(0)
        os.kill(child, signal.SIGTERM)
        ended.append(os.waitpid(child, 0)[1])

    put(records)
    assert runner(records, job).run("m1") == 0
    assert os.WTERMSIG(ended[0]) == signal.SIGTERM


# -- the lease


def take_over(records: Records, key: str = "m1") -> None:
    """What happens to a runner that was frozen: its lease ran out, another has it now."""
    record = get(records, key)
    assert record.lease is not None
    records.release(key, record.lease.owner, "ran out")
    assert records.claim(key, "m1.2", 60) is not None


def test_the_heartbeat_keeps_the_lease_and_the_ledgers_claims(records: Records) -> None:
    renewed: list[str] = []

    class Ledger(MemoryLedger):
        def claim(self, key: str, token: str, lease: float) -> tuple[str, float]:
            if key in self.held:
                renewed.append(key)
            return super().claim(key, token, lease)

    stores = Stores()
    stores.ledger = Ledger()

    def handle(message: Order, context: Context[None]) -> None:
        with context.once("effect"):
            first = get(records).lease
            assert first is not None
            wait_for(lambda: get(records).lease.until > first.until and len(renewed) > 1)  # type: ignore[union-attr]

    put(records)
    assert runner(records, core(decode, handle, lambda: stores), lease=0.3).run("m1") == 0
    assert set(renewed) == {"order-m1#effect"}
    assert not [thread for thread in threading.enumerate() if "heartbeat" in thread.name]


def test_a_job_whose_lease_was_lost_is_ended(records: Records) -> None:
    def job(record: DeadLetterRecord, run: Run) -> None:
        take_over(records)
        time.sleep(PATIENCE)

    put(records)
    started = time.monotonic()
    assert runner(records, job, lease=0.3).run("m1") == 1
    assert time.monotonic() - started < PATIENCE
    record = get(records)
    assert record.state == RUNNING
    assert record.lease is not None
    assert record.lease.task == "m1.2"


def test_whoever_lost_the_lease_unawares_completes_nothing(records: Records) -> None:
    put(records)
    assert runner(records, lambda record, run: take_over(records), lease=60).run("m1") == 1
    assert get(records).state == RUNNING


def test_with_the_store_away_longer_than_the_lease_the_job_is_ended(
    store: Breakable, records: Records
) -> None:
    def refuse(operation: str, key: str) -> None:
        raise OSError("store unavailable")

    def job(record: DeadLetterRecord, run: Run) -> None:
        store.before = refuse
        try:
            time.sleep(PATIENCE)
        finally:
            store.before = lambda operation, key: None

    put(records)
    assert runner(records, job, lease=0.3, drain=0).run("m1") == 1
    assert get(records).state == RUNNING


def test_a_completion_is_written_as_soon_as_the_store_is_back(
    store: Breakable, records: Records
) -> None:
    refusals = 0

    def refuse(operation: str, key: str) -> None:
        nonlocal refusals
        if operation == "delete" and key == "m1.json" and refusals < 3:
            refusals += 1
            raise OSError("write refused")

    store.before = refuse
    put(records)
    assert runner(records, lambda record, run: None).run("m1") == 0
    assert refusals == 3
    assert records.get("m1") is None


# -- the process


def test_the_entry_point_reads_the_environment(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {
        "RECORDS_URL": f"file://{tmp_path}/store",
        "OVERFLOW_LAUNCH": "m1.1",
        "OVERFLOW_RECORD": "m1",
        "OVERFLOW_LIMITS": '{"runs": 1}',
    }
    records = open_records(environ["RECORDS_URL"])
    put(records)
    assert main(environ, lambda: raising(ValueError("boom"))) == 1
    assert (get(records).state, get(records).reason) == (PARKED, "run_failed")
    assert main({}, lambda: raising(ValueError("boom"))) == 2
    assert "RECORDS_URL, OVERFLOW_LAUNCH, OVERFLOW_RECORD" in caplog.text


LEAVING = """
import os, threading, time
from lambda_shim.runner import run_and_exit
def job(record, run):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    assert record.body == "good", "boom"
run_and_exit(os.environ, lambda: job)
"""


@pytest.mark.parametrize(
    ("body", "settings", "status", "says"),
    [
        ("good", "{}", 0, "done"),
        ("bad", "{}", 1, "AssertionError: boom"),
        ("good", "{", 1, "_RUNNER:"),
    ],
)
def test_a_task_ends_though_a_job_has_left_a_thread_behind(
    body: str, settings: str, status: int, says: str, tmp_path: Any
) -> None:
    url = f"file://{tmp_path}/store"
    open_records(url).put(dead_letter("m1", state=WAITING, body=body))
    ended = subprocess.run(
        [sys.executable, "-c", LEAVING],
        env={
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "RECORDS_URL": url,
            "OVERFLOW_LAUNCH": "m1.1",
            "OVERFLOW_RECORD": "m1",
            "OVERFLOW_RUNNER": settings,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    assert says in ended.stdout


def test_a_failed_run_is_recorded_with_where_its_log_lies(tmp_path: Any) -> None:
    environ = {
        "RECORDS_URL": f"file://{tmp_path}/store",
        "OVERFLOW_LAUNCH": "m1.1",
        "OVERFLOW_RECORD": "m1",
        "OVERFLOW_LOG": "/group/tasks.0/log",
    }
    records = open_records(environ["RECORDS_URL"])
    put(records)
    assert main(environ, lambda: raising(ValueError("boom"))) == 1
    assert get(records).log == "/group/tasks.0/log"


def test_in_a_task_ecs_tells_where_the_log_lies(caplog: pytest.LogCaptureFixture) -> None:
    options = {"awslogs-group": "/overflow", "awslogs-stream": "overflow/runner/0123"}
    answers = [b"no JSON", json.dumps({"LogOptions": options}).encode()]

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers.pop())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        environ = {"ECS_CONTAINER_METADATA_URI_V4": f"http://127.0.0.1:{server.server_port}/v4/id"}
        assert log_location(environ) == "/overflow:overflow/runner/0123"
        assert log_location(environ) is None
        server.shutdown()
        thread.join()
    assert "does not tell where the log lies" in caplog.text
    assert log_location({}) is None


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"OVERFLOW_LIMITS: .*tasks"):
        limits_of({"OVERFLOW_LIMITS": '{"tasks": "two"}'})
    with pytest.raises(ValueError, match=r"OVERFLOW_RUNNER: .*lease"):
        settings_of({"OVERFLOW_RUNNER": '{"lease": "long"}'})
    assert settings_of({"OVERFLOW_RUNNER": '{"lease": 60}'}) == RunnerSettings(lease=60)
    assert limits_of({}) == Limits()


def test_a_broken_import_and_ten_thousand_messages_cost_no_more_than_the_budget() -> None:
    """Every task fails at its import, for hours; all messages are there to be redriven after."""
    total, hours = 10_000, 3
    limits = Limits(tasks=2, launches=6, failures=5, cool_down=900)
    now = [1_000_000.0]
    records = Records(MemoryObjects(), lambda: now[0])
    launcher = FakeLauncher()
    dispatch = Dispatcher(records, launcher, limits, clock=lambda: now[0])
    launched_at: list[float] = []

    def load() -> Job:
        raise ModuleNotFoundError("No module named 'pydyf'")

    def run_tasks() -> None:
        while len(launched_at) < len(launcher.launches):
            launch = launcher.launches[len(launched_at)]
            launched_at.append(now[0])
            task = Runner(records, launch.id, load, limits=limits, clock=lambda: now[0])
            dispatch(stopped_event(launch.id, task.run(launch.key)))

    ids = [f"m{number:05}" for number in range(total)]
    for start in range(0, total, 10):
        batch = [dead_message(each, f"body of {each}") for each in ids[start : start + 10]]
        assert dispatch({"Records": batch}) == {"batchItemFailures": []}
        now[0] += hours * 3600 / (total / 10)
        run_tasks()

    for first in launched_at:
        within = [at for at in launched_at if first <= at < first + 3600]
        assert len(within) <= limits.launches
    assert 1 <= len(launched_at) <= limits.launches * (hours + 1)
    kept = {record.key: record for record in records}
    assert sorted(kept) == ids
    assert all(record.body == f"body of {key}" for key, record in kept.items())
    parked = [record for record in kept.values() if record.state == PARKED]
    assert {record.reason for record in parked} <= {"circuit_open", "run_failed"}
    assert len(parked) > total * 0.9
