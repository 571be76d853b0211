"""The event source mapping and its environments, as real processes."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_sqs import Queue, advance_clock
from local_sqs.faults import set_faults
from local_sqs.invocation import MAXIMUM_RESPONSE_BYTES

from .conftest import on_one_server

# What servers do differently would show in the queue's own tests, the model's and the chaos runs.
pytestmark = on_one_server

BOTH = pytest.mark.parametrize("environments", ["fork", "runtime"])


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def _batches(mapping):
    """Bodies by invocation, in order."""
    batches: dict[str, list[str]] = {}
    for delivery in mapping.deliveries():
        batches.setdefault(delivery["request"], []).append(delivery["body"])
    return list(batches.values())


# Batches


def test_a_batch_holds_at_most_batch_size_messages(queue, start_mapping, wait_until):
    for start in range(0, 10, 5):
        queue.send_batch([str(number) for number in range(start, start + 5)])
    mapping = start_mapping(mapping={"batch_size": 4, "serial": True})
    wait_until(lambda: len(mapping.bodies()) == 10, "all delivered")
    assert [len(batch) for batch in _batches(mapping)] == [4, 4, 2]
    assert sorted(mapping.bodies()) == [str(number) for number in range(10)]
    wait_until(lambda: queue.stats().in_flight == 0, "all deleted")


def test_a_window_gathers_until_it_ends(queue, start_mapping, wait_until):
    mapping = start_mapping(mapping={"batching_window": 0.3})
    started = time.monotonic()
    for body in ("a", "b", "c"):
        queue.send(body)
    wait_until(lambda: len(mapping.bodies()) == 3, "all delivered")
    assert _batches(mapping) == [["a", "b", "c"]]
    assert mapping.deliveries()[0]["at"] - started >= 0.3


def test_a_window_ends_early_when_the_batch_is_full(queue, start_mapping, wait_until):
    mapping = start_mapping(mapping={"batching_window": 60, "batch_size": 25})
    for start in range(0, 25, 5):
        queue.send_batch([str(number) for number in range(start, start + 5)])
    wait_until(lambda: len(mapping.bodies()) == 25, "all delivered")
    assert [len(batch) for batch in _batches(mapping)] == [25]


@BOTH
def test_a_batch_is_cut_at_six_megabytes(queue, start_mapping, wait_until):
    for number in range(8):
        queue.send(f"{number}" + "x" * (1024 * 1024 - 100))
    mapping = start_mapping(mapping={"serial": True})
    wait_until(lambda: len(mapping.bodies()) == 8, "all delivered")
    assert [len(batch) for batch in _batches(mapping)] == [5, 3]
    wait_until(lambda: queue.stats().in_flight == 0, "all deleted")


# Concurrency


@BOTH
def test_as_many_environments_as_concurrency_and_no_more(
    queue, start_mapping, wait_until, tmp_path
):
    mapping = start_mapping(mapping={"batch_size": 1, "concurrency": 3})
    gate = tmp_path / "gate"
    queue.send_batch([f"wait-for {gate}"] * 4)
    wait_until(lambda: len(mapping.deliveries()) == 3, "three at once")
    assert len(mapping.environments()) == 3
    assert len({delivery["pid"] for delivery in mapping.deliveries()}) == 3
    assert queue.stats().ready == 1, "the fourth was claimed without an environment to run it"
    gate.touch()
    wait_until(lambda: len(mapping.deliveries()) == 4, "the fourth")
    wait_until(lambda: queue.stats().in_flight == 0, "all deleted")


@BOTH
def test_an_environment_is_used_again(queue, start_mapping, wait_until):
    mapping = start_mapping()
    for number in range(5):
        queue.send(str(number))
        wait_until(lambda number=number: len(mapping.bodies()) == number + 1, "delivered")
        wait_until(lambda: queue.stats().in_flight == 0, "deleted")
    assert len({delivery["pid"] for delivery in mapping.deliveries()}) == 1


def test_advancing_the_clock_wakes_a_blocked_mapping(queue, client, start_mapping, wait_until):
    mapping = start_mapping()
    queue.send("later", delay=900)
    wait_until(lambda: queue.stats().delayed == 1, "delayed")
    advance_clock(client, 900)
    wait_until(lambda: mapping.bodies() == ["later"], "delivered", 2)


# What the function sees


def test_a_module_that_cannot_be_preloaded_is_told_and_no_obstacle(
    queue, start_mapping, wait_until
):
    mapping = start_mapping(function={"preload": ["nowhere_to_be_found", "decimal"]})
    assert "preload of nowhere_to_be_found failed: ModuleNotFoundError" in mapping.log()
    queue.send("a")
    wait_until(mapping.deliveries, "delivered")


@BOTH
def test_the_context_is_lambda_s(queue, start_mapping, wait_until):
    mapping = start_mapping(
        function={
            "handler": "probe.handler",
            "timeout": 7,
            "memory_mb": 512,
            "environment": {"KEY": "value"},
        }
    )
    queue.send("a")
    (seen,) = wait_until(mapping.deliveries, "the probe's note")
    assert seen["key"] == "value", "set before the import"
    assert seen["function_name"] == seen["variables"]["AWS_LAMBDA_FUNCTION_NAME"] == "worker"
    assert seen["function_version"] == seen["variables"]["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert seen["memory_limit_in_mb"] == "512"
    assert seen["variables"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "512"
    assert seen["invoked_function_arn"] == "arn:aws:lambda:us-east-1:000000000000:function:worker"
    assert seen["log_group_name"] == "/aws/lambda/worker"
    assert "[$LATEST]" in seen["log_stream_name"]
    assert seen["variables"]["AWS_EXECUTION_ENV"].startswith("AWS_Lambda_python3.")
    assert seen["zone"] == ["UTC", "UTC"]
    assert 6000 < seen["remaining"] <= 7000


@BOTH
def test_logs_are_lambda_s_json(queue, start_mapping, wait_until):
    mapping = start_mapping()
    queue.send("log hello")
    wait_until(lambda: "printed hello" in mapping.log(), "the log")
    (line,) = [line for line in mapping.log().splitlines() if "said hello" in line]
    entry = json.loads(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "level": "INFO",
        "message": "said hello",
        "logger": "handlers",
        "requestId": mapping.deliveries()[0]["request"],
        "customer": 7,
    }


# Timeouts and crashes: each costs the whole batch one receive


@BOTH
@pytest.mark.parametrize("body", ["hang", "c-call"])
def test_an_environment_is_killed_at_the_function_timeout(
    queue, client, start_mapping, wait_until, body
):
    """Whatever it catches, and wherever it is."""
    mapping = start_mapping(function={"timeout": 0.3}, mapping={"serial": True})
    queue.send_batch([body, "mate"])
    started = wait_until(mapping.deliveries, "the first delivery")[0]["at"]
    wait_until(lambda: "Task timed out after 0.30 seconds" in mapping.log(), "the timeout")
    assert 0.25 < time.monotonic() - started < 2
    (line,) = [line for line in mapping.log().splitlines() if "timed out" in line]
    assert line.split()[1] == mapping.deliveries()[0]["request"]
    wait_until(lambda: not _alive(mapping.deliveries()[0]["pid"]), "the environment is gone")
    assert queue.stats().in_flight == 2
    advance_clock(client, 30)
    wait_until(lambda: len(mapping.bodies()) == 4, "both delivered again")
    assert mapping.bodies()[2:] == [body, "mate"]
    counts = [d["attributes"]["ApproximateReceiveCount"] for d in mapping.deliveries()]
    assert counts == ["1", "1", "2", "2"]
    first, *_, last = mapping.deliveries()
    assert first["pid"] != last["pid"]


@BOTH
def test_what_an_environment_started_dies_with_it(queue, start_mapping, wait_until, tmp_path):
    mapping = start_mapping(function={"timeout": 0.5})
    note = tmp_path / "grandchild"
    queue.send(f"grandchild {note}")
    wait_until(lambda: "timed out" in mapping.log(), "the timeout")
    wait_until(lambda: not _alive(int(note.read_text())), "the grandchild is gone")


@BOTH
@pytest.mark.parametrize(
    ("body", "words"),
    [("kill", "Runtime exited with error: signal: killed"), ("exit 3", "exit status 3")],
)
def test_an_environment_that_dies_is_replaced(
    queue, client, start_mapping, wait_until, body, words
):
    mapping = start_mapping(mapping={"serial": True})
    queue.send_batch([body, "mate"])
    wait_until(lambda: words in mapping.log(), "the end of the environment in the log")
    assert queue.stats().in_flight == 2
    queue.send("next")
    wait_until(lambda: "next" in mapping.bodies(), "the next message")
    wait_until(lambda: queue.stats().in_flight == 2, "the next message deleted, the batch not")


@BOTH
def test_an_environment_killed_from_outside_mid_batch(
    queue, client, start_mapping, wait_until, tmp_path
):
    mapping = start_mapping()
    gate = tmp_path / "gate"
    queue.send(f"wait-for {gate}")
    (delivery,) = wait_until(mapping.deliveries, "delivered")
    os.kill(delivery["pid"], signal.SIGKILL)
    wait_until(lambda: "signal: killed" in mapping.log(), "noticed")
    gate.touch()
    advance_clock(client, 30)
    wait_until(lambda: len(mapping.deliveries()) == 2, "delivered again")
    wait_until(lambda: queue.stats().in_flight == 0, "deleted")


@BOTH
def test_a_stopped_environment_does_not_stop_the_mapping(queue, start_mapping, wait_until):
    mapping = start_mapping(function={"timeout": 0.5}, mapping={"batch_size": 3})
    queue.send("warm")
    wait_until(mapping.deliveries, "a warm environment")
    wait_until(lambda: queue.stats().in_flight == 0, "idle again")
    (environment,) = mapping.environments()
    os.kill(environment, signal.SIGSTOP)
    queue.send_batch(["x" * 300_000] * 3)  # more than a socket buffer holds
    wait_until(lambda: "timed out" in mapping.log(), "killed at its timeout")
    queue.send("next")
    wait_until(lambda: "next" in mapping.bodies(), "the next message")


def test_dead_lettered_through_the_mapping(queue, client, start_mapping, wait_until):
    mapping = start_mapping(queue={"max_receive_count": 2, "dead_letter_queue": "work-dead"})
    sent = queue.send("raise")
    dead = Queue(client, "work-dead")
    for count in (1, 2):
        wait_until(lambda count=count: len(mapping.bodies()) == count, "delivered")
        advance_clock(client, 30)
    (letter,) = wait_until(dead.peek, "dead-lettered")
    assert letter.id == sent
    assert len(mapping.bodies()) == 2


@BOTH
def test_an_environment_that_uses_too_much_memory_is_killed(
    queue, client, start_mapping, wait_until
):
    mapping = start_mapping(function={"handler": "handlers.fill", "memory_mb": 128})
    queue.send("200")
    wait_until(lambda: "Runtime exited with error: signal: killed" in mapping.log(), "killed")
    (line,) = [line for line in mapping.log().splitlines() if "Runtime.OutOfMemory" in line]
    assert "Memory Size: 128 MB" in line
    assert mapping.deliveries()[0]["request"] in line
    assert queue.stats().in_flight == 1
    queue.send("20")
    wait_until(lambda: "20" in mapping.bodies(), "the next message")
    wait_until(lambda: queue.stats().in_flight == 1, "the next message deleted")
    assert mapping.deliveries()[0]["pid"] != mapping.deliveries()[1]["pid"]
    assert mapping.log().count("OutOfMemory") == 1


@BOTH
def test_memory_of_processes_that_the_function_started_counts(queue, start_mapping, wait_until):
    mapping = start_mapping(
        function={"handler": "handlers.fill_in_a_child", "memory_mb": 256, "timeout": 20}
    )
    queue.send("300")
    wait_until(lambda: "Runtime.OutOfMemory: Memory Size: 256 MB" in mapping.log(), "killed", 20)
    assert queue.stats().in_flight == 1
    queue.send("20")
    wait_until(lambda: "20" in mapping.bodies(), "the next message")
    wait_until(lambda: queue.stats().in_flight == 1, "the next message deleted")
    assert mapping.log().count("OutOfMemory") == 1


@BOTH
def test_what_forked_processes_share_counts_once(queue, start_mapping, wait_until):
    mapping = start_mapping(
        function={"handler": "handlers.fork_with", "memory_mb": 256, "timeout": 20}
    )
    queue.send("100")
    wait_until(lambda: queue.stats().in_flight + queue.stats().ready == 0, "deleted", 20)
    assert "OutOfMemory" not in mapping.log()


@BOTH
def test_a_response_of_more_than_6_mb_fails_the_batch(queue, start_mapping, wait_until):
    mapping = start_mapping(function={"handler": "handlers.large"}, mapping={"batch_size": 1})
    queue.send(str(MAXIMUM_RESPONSE_BYTES + 1))
    words = (
        f"Response payload size ({MAXIMUM_RESPONSE_BYTES + 1} bytes) exceeded maximum allowed "
        "payload size (6291556 bytes)."
    )
    wait_until(lambda: words in mapping.log(), "refused")
    queue.send(str(MAXIMUM_RESPONSE_BYTES))
    wait_until(lambda: len(mapping.bodies()) == 2, "the next message")
    wait_until(lambda: queue.stats().in_flight == 1, "one deleted, the first not")


@BOTH
def test_the_timeout_holds_while_redis_hangs(queue, server, start_mapping, wait_until):
    """A Redis that accepts commands and never answers."""
    mapping = start_mapping(function={"timeout": 0.4})
    queue.send("hang")
    (delivery,) = wait_until(mapping.deliveries, "delivered")
    server.process.send_signal(signal.SIGSTOP)
    try:
        # Wakes the poller, which then waits for Redis.
        os.kill(mapping.process.pid, signal.SIGCHLD)
        wait_until(lambda: not _alive(delivery["pid"]), "killed at the timeout")
        wait_until(lambda: "Task timed out after 0.40 seconds" in mapping.log(), "told")
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert "signal: killed" not in mapping.log()


# Throttling: the function has less concurrency than the mapping takes for granted


def test_reserved_concurrency_below_the_mapping_s_burns_receives(
    queue, client, start_mapping, wait_until, tmp_path
):
    mapping = start_mapping(
        queue={"max_receive_count": 2, "dead_letter_queue": "work-dead"},
        function={"reserved_concurrency": 1, "timeout": 20},
        mapping={"concurrency": 2, "batch_size": 1},
    )
    gate = tmp_path / "gate"
    queue.send(f"wait-for {gate}")
    wait_until(mapping.deliveries, "the only environment is busy")
    healthy = queue.send("healthy")
    for count in (1, 2):
        wait_until(lambda n=count: mapping.log().count("Rate Exceeded") >= n, "throttled")
        advance_clock(client, 30)
    dead = Queue(client, "work-dead")
    wait_until(lambda: healthy in [letter.id for letter in dead.peek()], "dead-lettered")
    assert "healthy" not in mapping.bodies()
    gate.touch()


def test_no_reserved_concurrency_at_all_throttles_everything(queue, start_mapping, wait_until):
    mapping = start_mapping(function={"reserved_concurrency": 0})
    queue.send_batch(["a", "b"])
    told = "2 messages return after their visibility timeout"
    wait_until(lambda: told in mapping.log(), "throttled")
    assert queue.stats().in_flight == 2
    assert mapping.environments() == []


# Slow environments, by a fault switch


@BOTH
def test_a_slow_environment_is_slow_within_the_function_s_timeout(
    queue, client, start_mapping, wait_until
):
    mapping = start_mapping(function={"timeout": 1.5}, mapping={"serial": True})
    set_faults(client, "work", slow=0.6)
    sent = time.monotonic()
    queue.send("a")
    (delivery,) = wait_until(mapping.deliveries, "delivered")
    assert delivery["at"] - sent >= 0.6
    assert delivery["remaining"] <= 900
    wait_until(lambda: queue.stats().in_flight == 0, "deleted")
    set_faults(client, "work", slow=30)
    queue.send("b")
    wait_until(lambda: "Task timed out after 1.50 seconds" in mapping.log(), "too slow")
    assert mapping.bodies() == ["a"]


# FIFO queues: what the 6 MB of an invocation cut off a message group


def _eight_large_messages_of_a_group(queue, wait_until, mapping, gate, verbs):
    """Sent while the group is blocked, so that one receive takes all; `verbs` by number."""
    queue.send(f"wait-for {gate}", group_id="g", deduplication_id="first")
    wait_until(mapping.deliveries, "busy")
    for number in range(8):
        body = verbs.get(number, str(number)).ljust(1024 * 1024 - 100)
        queue.send(body, group_id="g", deduplication_id=str(number))
    gate.touch()


def test_the_rest_of_a_group_waits_for_the_batch_that_it_was_cut_off(
    client, start_mapping, wait_until, tmp_path
):
    queue = Queue(client, "work.fifo")
    mapping = start_mapping(queue={"name": "work.fifo", "fifo": True}, mapping={"concurrency": 2})
    _eight_large_messages_of_a_group(
        queue, wait_until, mapping, tmp_path / "gate", {0: "sleep 0.3"}
    )
    wait_until(lambda: len(mapping.bodies()) == 9, "delivered", 20)
    wait_until(lambda: queue.stats().in_flight == 0, "deleted")
    _, first, second = _batches(mapping)
    assert [body.strip() for body in first + second] == ["sleep 0.3", *"1234567"]
    started = {delivery["body"]: delivery["at"] for delivery in mapping.deliveries()}
    assert started[second[0]] - started[first[0]] >= 0.3, "the rest of the group overtook"


def test_the_rest_of_a_group_returns_behind_its_message_that_failed(
    client, start_mapping, wait_until, tmp_path
):
    queue = Queue(client, "work.fifo")
    mapping = start_mapping(queue={"name": "work.fifo", "fifo": True}, mapping={"concurrency": 2})
    _eight_large_messages_of_a_group(queue, wait_until, mapping, tmp_path / "gate", {4: "fail"})
    wait_until(lambda: len(mapping.bodies()) == 6, "the first five delivered", 20)
    wait_until(lambda: queue.stats().in_flight == 4, "the four before the failure deleted")
    assert len(_batches(mapping)) == 2, "the rest was delivered although its group is blocked"


# The function's path


@BOTH
def test_the_path_comes_before_everything_else(queue, start_mapping, wait_until, tmp_path):
    """Two directories hold a module of the same name, which lies in PYTHONPATH, too."""
    for name in ("overlay", "package"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "probe.py").write_text(
            "import os, pathlib\n"
            "def handler(event, context):\n"
            "    seen = pathlib.Path(os.environ['DELIVERIES'])\n"
            "    seen.write_text('\"' + __file__ + '\"\\n')\n"
        )
    (tmp_path / "overlay" / "probe.py").rename(tmp_path / "overlay" / "other.py")
    path = [str(tmp_path / "overlay"), str(tmp_path / "package")]
    mapping = start_mapping(function={"handler": "probe.handler", "path": path})
    queue.send("a")
    (seen,) = wait_until(mapping.deliveries, "the probe's note")
    assert seen == str(tmp_path / "package" / "probe.py")


# Init failures


@BOTH
def test_a_function_that_cannot_start_burns_receives_and_backs_off(
    queue, client, start_mapping, wait_until
):
    mapping = start_mapping(function={"handler": "broken.work"})
    assert mapping.log().count("init of the function failed") == 1
    queue.send("a")
    wait_until(lambda: queue.stats().in_flight == 1, "claimed for the failed invocation")
    wait_until(lambda: mapping.log().count("init of the function failed") == 2, "a second attempt")
    assert "RuntimeError: the import is broken; next attempt in 0.2 s" in mapping.log()
    logged = [json.loads(x) for x in mapping.log().splitlines() if x.startswith("{")]
    first = next(entry for entry in logged if "errorType" in entry)
    assert first["errorType"] == "RuntimeError"
    assert "broken.py" in first["stackTrace"][-1]
    (mapping.directory / "fixed").touch()
    advance_clock(client, 30)
    (delivery,) = wait_until(mapping.deliveries, "delivered after the repair")
    assert delivery["attributes"]["ApproximateReceiveCount"] == "2"


@BOTH
@pytest.mark.parametrize(
    ("handler", "said"),
    [("nowhere.work", "No module named 'nowhere'"), ("handlers.nothing", "'nothing' missing on")],
)
def test_a_handler_that_is_not_there(queue, start_mapping, handler, said):
    mapping = start_mapping(function={"handler": handler})
    assert said in mapping.log()
    assert mapping.process.poll() is None


@BOTH
def test_an_init_that_hangs_is_killed(queue, start_mapping, wait_until):
    mapping = start_mapping(function={"handler": "slow_init.work", "init_timeout": 0.2})
    assert "init of the function failed: no answer within 0.20 seconds" in mapping.log()
    wait_until(lambda: mapping.environments() == [], "the environment is gone")


# The end of the poller


@BOTH
def test_a_killed_poller_leaves_no_environment_and_loses_nothing(
    queue, client, start_mapping, wait_until, tmp_path
):
    mapping = start_mapping(mapping={"batch_size": 1, "concurrency": 2})
    note, gate = tmp_path / "grandchild", tmp_path / "gate"
    queue.send_batch([f"wait-for {gate}", f"grandchild {note}"])
    wait_until(
        lambda: len(mapping.deliveries()) == 2 and note.exists() and note.read_text(), "busy"
    )
    environments = mapping.environments()
    assert len(environments) == 2
    mapping.kill()
    for pid in [*environments, int(note.read_text())]:
        wait_until(lambda pid=pid: not _alive(pid), f"{pid} died with the poller")
    note.unlink()
    gate.touch()
    mapping.start()
    assert queue.stats().in_flight == 2
    advance_clock(client, 30)
    wait_until(lambda: len(mapping.deliveries()) == 4, "both delivered again")


@BOTH
def test_sigterm_lets_running_batches_end_and_claims_no_more(
    queue, start_mapping, wait_until, tmp_path
):
    mapping = start_mapping(mapping={"batch_size": 1, "concurrency": 2})
    gate = tmp_path / "gate"
    queue.send(f"wait-for {gate}")
    wait_until(mapping.deliveries, "delivered")
    mapping.process.terminate()
    wait_until(lambda: "stopping; 1 batches are running" in mapping.log(), "stopping")
    queue.send("late")
    gate.touch()
    assert mapping.process.wait(5) == 0
    assert mapping.bodies() == [f"wait-for {gate}"]
    stats = queue.stats()
    assert (stats.ready, stats.in_flight) == (1, 0)


@BOTH
def test_sigterm_waits_no_longer_than_the_function_timeout(queue, start_mapping, wait_until):
    mapping = start_mapping(function={"timeout": 0.4})
    queue.send("hang")
    (delivery,) = wait_until(mapping.deliveries, "delivered")
    assert mapping.terminate(5) == 0
    assert "timed out" in mapping.log()
    assert not _alive(delivery["pid"])


def test_a_second_sigterm_ends_at_once(queue, start_mapping, wait_until):
    mapping = start_mapping(function={"timeout": 25})
    queue.send("hang")
    (delivery,) = wait_until(mapping.deliveries, "delivered")
    mapping.process.terminate()
    wait_until(lambda: "stopping" in mapping.log(), "stopping")
    assert mapping.terminate(5) == 0
    assert not _alive(delivery["pid"])


def test_sigterm_gives_back_what_a_window_had_gathered(queue, start_mapping, wait_until):
    mapping = start_mapping(mapping={"batching_window": 300})
    queue.send("a")
    wait_until(lambda: queue.stats().in_flight == 1, "gathered")
    assert mapping.terminate() == 0
    assert queue.stats().ready == 1
    assert mapping.deliveries() == []


# Redis going away


def test_redis_restarts_and_nothing_is_lost(
    durable_server, client, start_mapping, wait_until, tmp_path
):
    gate = tmp_path / "gate"
    with Queue.open(f"redis://127.0.0.1:{durable_server.port}/work") as queue:
        mapping = start_mapping(port=durable_server.port, mapping={"batch_size": 1})
        queue.send(f"wait-for {gate}")
        wait_until(mapping.deliveries, "delivered")
        queue.send_batch(["hidden", "b", "c"])
        durable_server.kill()
        gate.touch()  # its deletion meets no Redis, and must not be forgotten
        wait_until(lambda: "retrying until it is back" in mapping.log(), "told of the outage")
        assert durable_server.start()
        wait_until(lambda: {"b", "c"} <= set(mapping.bodies()), "the rest delivered")
        wait_until(lambda: queue.stats().in_flight == 0, "all deleted, the held deletion too")
        assert queue.stats().ready == 0
        lines = [line for line in mapping.log().splitlines() if "Redis at" in line]
        assert len(lines) == 2, lines
        assert "is back after" in lines[1]
        queue.send("after")
        wait_until(lambda: "after" in mapping.bodies(), "delivered after the outage", 2)


def test_while_redis_is_away_it_is_asked_less_and_less_often(durable_server, start_mapping):
    start_mapping(port=durable_server.port)
    durable_server.kill()
    asked = 0
    with socket.create_server(("127.0.0.1", durable_server.port)) as stranger:
        stranger.settimeout(0.1)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                stranger.accept()[0].close()
                asked += 1
    assert 1 <= asked < 200  # without a pause it is thousands


def test_what_was_done_but_is_no_longer_held_is_told(
    queue, client, start_mapping, wait_until, tmp_path
):
    gate = tmp_path / "gate"
    mapping = start_mapping(mapping={"serial": True})
    queue.send(f"wait-for {gate}")
    wait_until(mapping.deliveries, "delivered")
    advance_clock(client, 3600)
    assert len(queue.receive()) == 1
    gate.touch()
    wait_until(lambda: "1 messages were done but not deleted" in mapping.log(), "told")


def test_a_visibility_timeout_that_a_batch_may_outlast_is_warned_of(queue, start_mapping):
    mapping = start_mapping(mapping={"batching_window": 300})
    assert "longer than the visibility timeout" in mapping.log()
    mapping = start_mapping()
    assert "visibility timeout" not in mapping.log()


@BOTH
def test_the_function_timeout_holds_while_redis_is_away(
    durable_server, client, start_mapping, wait_until
):
    with Queue.open(f"redis://127.0.0.1:{durable_server.port}/work") as queue:
        mapping = start_mapping(port=durable_server.port, function={"timeout": 0.5})
        queue.send("hang")
        (delivery,) = wait_until(mapping.deliveries, "delivered")
        durable_server.kill()
        wait_until(lambda: not _alive(delivery["pid"]), "killed at the timeout", 3)
        assert mapping.terminate() == 0


def test_a_mapping_started_before_its_redis_waits_quietly(
    durable_server, client, start_mapping, wait_until
):
    durable_server.kill()
    pid = os.fork()  # starts the server a little later, while start_mapping waits for readiness
    if pid == 0:
        time.sleep(0.3)
        os.execv(
            durable_server.binary,
            [
                durable_server.binary,
                *("--port", str(durable_server.port), "--bind", "127.0.0.1"),
                *("--save", "", "--logfile", str(durable_server.directory / "log")),
                *("--dir", str(durable_server.directory)),
            ],
        )
    try:
        mapping = start_mapping(port=durable_server.port)
        assert "Redis at" not in mapping.log()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_an_error_from_redis_is_told_once_and_outlived(queue, client, start_mapping, wait_until):
    mapping = start_mapping()
    client.execute("DEL", "work:ready")
    client.execute("SET", "work:ready", "of another type")
    client.execute("RPUSH", "work", "a")
    # (Redis 6.2 says first in which script it was.)
    wait_until(lambda: re.search("refused: .*WRONGTYPE", mapping.log()), "told")
    client.execute("DEL", "work:ready")
    wait_until(lambda: "is back after" in mapping.log(), "outlived")
    client.execute("RPUSH", "work", "b")
    wait_until(lambda: "b" in mapping.bodies(), "delivered")
    assert mapping.log().count("refused") == 1


def test_a_server_out_of_memory_is_outlived_when_the_function_cannot_start_either(
    queue, client, start_mapping, wait_until
):
    mapping = start_mapping(function={"handler": "broken.handler"})
    wait_until(lambda: "init of the function failed" in mapping.log(), "a failed init")
    client.execute("CONFIG", "SET", "maxmemory", "1")
    try:
        wait_until(lambda: "refused" in mapping.log(), "told")
    finally:
        client.execute("CONFIG", "SET", "maxmemory", "0")
    wait_until(lambda: "is back after" in mapping.log(), "outlived")
    assert mapping.process.poll() is None


# Debug mode


def test_debug_runs_in_the_poller_s_own_process_without_a_time_limit(
    queue, start_mapping, wait_until
):
    mapping = start_mapping("--debug", function={"timeout": 0.1})
    queue.send_batch(["sleep 0.3", "log hello"])
    wait_until(lambda: len(mapping.deliveries()) == 2, "delivered")
    wait_until(lambda: queue.stats().in_flight == 0, "deleted")
    assert {delivery["pid"] for delivery in mapping.deliveries()} == {mapping.process.pid}
    assert {delivery["remaining"] for delivery in mapping.deliveries()} == {100}
    assert mapping.environments() == []
    assert "handlers: said hello" in mapping.log()
    queue.send("raise it")
    wait_until(lambda: "[ERROR] ValueError: it" in mapping.log(), "the error")
    mapping.process.send_signal(signal.SIGINT)
    assert mapping.process.wait(5) == 0


def test_a_breakpoint_has_the_terminal(queue, client, start_mapping, tmp_path):
    queue.send("break")
    settings = {
        "redis": {"port": client.port},
        "queue": {"name": "work"},
        "function": {
            "handler": "handlers.stop_here",
            "environment": {"DELIVERIES": str(tmp_path / "deliveries")},
        },
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "deliveries").touch()
    import local_sqs

    paths = [str(Path(local_sqs.__file__).parents[1]), str(Path(__file__).parent)]
    process = subprocess.Popen(
        [sys.executable, "-m", "local_sqs", "--debug", str(tmp_path / "settings.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        output, _ = process.communicate("p 'six times seven is %d' % (6 * answer)\ncontinue\n", 10)
    finally:
        process.kill()
        process.wait()
    assert "six times seven is 42" in output
