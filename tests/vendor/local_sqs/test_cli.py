"""The queues at the command line."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from local_sqs import Queue, cli

from .conftest import ONE, VENDOR, Server, binary

EXAMPLE = '{"type": "ready made"}'
Run = Callable[..., int]


@pytest.fixture
def place(server: Server, queue: Queue) -> cli.Place:
    dead = f"{queue.name}-dead"
    queue.create(visibility_timeout=30, max_receive_count=1, dead_letter_queue=dead)
    return cli.Place(f"redis://127.0.0.1:{server.port}", queue.name, dead, EXAMPLE)


@pytest.fixture
def run(place: cli.Place) -> Run:
    def run(*arguments: str) -> int:
        return cli.main(arguments, prog="orders", locate=lambda _: place)

    return run


def test_queues_counts_each_kind(
    run: Run, queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    for body in ("taken", "ready"):
        queue.send(body)
    queue.receive(1)
    queue.send("later", delay=60)
    assert run("queues", "--json") == 0
    work, dead = json.loads(capsys.readouterr().out)
    age = work.pop("oldest_age_seconds")
    assert 0 <= age < 60
    assert work == {"queue": queue.name, "ready": 1, "in_flight": 1, "delayed": 1, "dead": 0}
    assert dead["queue"] == f"{queue.name}-dead"


def test_queues_is_a_table_for_people(
    run: Run, queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    queue.send("one")
    queue.receive(1, visibility_timeout=0)
    assert queue.receive(1) == []  # its one permitted delivery is used up: dead-lettered
    assert run("queues") == 0
    head, work, dead = capsys.readouterr().out.splitlines()
    assert head.split() == ["QUEUE", "READY", "IN", "FLIGHT", "DELAYED", "DEAD", "OLDEST"]
    assert work.split() == [queue.name, "0", "0", "0", "1"]
    assert dead.split()[:4] == [f"{queue.name}-dead", "1", "0", "0"]


def test_queues_watches_until_interrupted(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("local_sqs.cli.time.sleep", sleep)
    assert run("queues", "--watch", "--interval", "0.5") == 130
    assert naps == [0.5, 0.5, 0.5]
    assert capsys.readouterr().out.count("QUEUE") == 3


WATCH = """
import sys
from local_sqs import cli
place = cli.Place("redis://127.0.0.1:" + sys.argv[1], "orders", "orders-dead", "")
command = ["queues", "--watch", "--interval", "0.05", *sys.argv[2:]]
sys.exit(cli.main(command, prog="orders", locate=lambda _: place))
"""


class Watch:
    """`queues --watch` in a process of its own, before a terminal."""

    def __init__(self, port: int, *options: str) -> None:
        self.terminal, slave = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCH, str(port), *options],
            env=os.environ | {"PYTHONPATH": str(VENDOR)},
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        os.set_blocking(self.terminal, False)

    def shows(self, text: str) -> Callable[[], bool]:
        """A condition: the text is written from now on."""
        written = ""

        def shown() -> bool:
            nonlocal written
            with contextlib.suppress(BlockingIOError):
                written += os.read(self.terminal, 65536).decode()
            return text in written

        with contextlib.suppress(BlockingIOError):
            while os.read(self.terminal, 65536):
                pass
        return shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    running = Server(binary(ONE), tmp_path)
    yield running
    running.kill()


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "JSON"])
@pytest.mark.parametrize("outage", ["hangs", "is restarted"])
def test_a_watch_outlives_a_server_that(
    outage: str, options: Sequence[str], own_server: Server, wait_until: Callable[..., object]
) -> None:
    watch = Watch(own_server.port, *options)
    try:
        wait_until(watch.shows("orders-dead"), "the queues", 30)
        if outage == "hangs":
            assert own_server.process is not None
            own_server.process.send_signal(signal.SIGSTOP)
        else:
            own_server.kill()
        wait_until(watch.shows("looking again until it is back"), "that it is away", 30)
        if outage == "hangs":
            assert own_server.process is not None
            own_server.process.send_signal(signal.SIGCONT)
        else:
            wait_until(own_server.start, "the server is back", 30)
        wait_until(watch.shows("orders-dead"), "the queues again", 30)
        watch.process.send_signal(signal.SIGINT)
        assert watch.process.wait(30) == 130
    finally:
        watch.close()


def test_ctrl_c_ends_a_watch_while_the_server_hangs(
    own_server: Server, wait_until: Callable[..., object]
) -> None:
    watch = Watch(own_server.port)
    try:
        wait_until(watch.shows("orders-dead"), "the queues", 30)
        assert own_server.process is not None
        own_server.process.send_signal(signal.SIGSTOP)
        wait_until(watch.shows("looking again until it is back"), "that it is away", 30)
        watch.process.send_signal(signal.SIGINT)
        assert watch.process.wait(30) == 130
    finally:
        watch.close()


def test_send_pushes_the_ready_made_message(run: Run, queue: Queue) -> None:
    assert run("send") == 0
    assert [message.body for message in queue.receive()] == [EXAMPLE]


def test_send_understands_the_envelope_as_redis_cli_would(run: Run, queue: Queue) -> None:
    assert run("send", '{"$message": {"body": "inside", "group_id": "g"}}') == 0
    (message,) = queue.receive()
    assert (message.body, message.group_id) == ("inside", "g")


def test_send_takes_attributes_and_a_delay(run: Run, queue: Queue) -> None:
    assert run("send", "body", "--attribute", "trace=a=b", "--delay", "60") == 0
    (message,) = queue.peek()
    assert message.attributes["trace"].string_value == "a=b"
    assert queue.stats().delayed == 1


def test_send_reads_standard_input(run: Run, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines\n"))
    assert run("send", "-") == 0
    assert [message.body for message in queue.receive()] == ["two\nlines"]


def test_what_sqs_refuses_is_refused_in_one_sentence(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("send", "body", "--delay", "901") == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("body", ["", "a\0", "x" * 1_048_577])
def test_a_bare_body_that_sqs_refuses_is_not_pushed(
    run: Run, queue: Queue, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    assert run("send", body) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert queue.client.execute("LLEN", queue.name) == 0


def test_a_long_body_does_not_flood_the_terminal(
    run: Run, queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("send", "x" * 1_048_576) == 0
    assert len(capsys.readouterr().out) < 300
    assert len(queue.receive()[0].body) == 1_048_576


def test_peek_shows_messages_and_receives_none(
    run: Run, queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    queue.send("bold \x9b1m", group_id="g", attributes={"a": "b"})
    assert run("peek") == 0
    text = capsys.readouterr().out
    assert "bold \\x9b1m" in text  # C1's control sequences, which SQS takes
    assert "\x9b" not in text
    assert "group g" in text
    assert run("peek", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["body"] == "bold \x9b1m"
    assert shown["attributes"] == {"a": {"dataType": "String", "stringValue": "b"}}
    assert (shown["receive_count"], queue.stats().ready) == (0, 1)


def test_peek_says_that_there_is_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("peek", "--dead") == 0
    assert "holds nothing" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("YES", 0), ("n", 2), ("", 2)])
def test_purge_asks_first(
    answer: str, left: int, run: Run, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.send("one")
    queue.send("two")
    asked: list[str] = []

    def reply(question: str) -> str:
        asked.append(question)
        return answer

    monkeypatch.setattr("builtins.input", reply)
    assert run("purge") == (0 if left == 0 else 1)
    assert asked == [f"Delete all 2 messages of {queue.name} for good? [y/N] "]
    assert queue.stats().ready == left


def test_purge_without_a_terminal_deletes_nothing(
    run: Run, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.send("one")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run("purge") == 1
    assert queue.stats().ready == 1
    assert run("purge", "--yes") == 0
    assert queue.stats().ready == 0


def test_no_server_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = cli.Place("redis://127.0.0.1:9", "orders", "orders-dead", EXAMPLE)
    assert cli.main(["queues"], prog="orders", locate=lambda _: nowhere) == 1
    assert capsys.readouterr().err.startswith("Redis does not answer at redis://127.0.0.1:9: ")


def test_no_group_is_said_by_whoever_looked_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    def locate(group: str | None) -> cli.Place:
        raise cli.NotFound(f"no group {group}")

    assert cli.main(["queues", "--process-group", "abc"], prog="orders", locate=locate) == 1
    assert capsys.readouterr().err == "no group abc\n"
