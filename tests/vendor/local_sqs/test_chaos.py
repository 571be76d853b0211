"""Nothing is lost, and nothing done twice unnoticed, whoever is killed.

Environments, pollers and, in a test of its own, Redis are killed -9 at random while messages flow. At the
end each message is done or dead-lettered and the queue is empty. An effect may be done twice only if the
first time its process died after the effect and before the ledger knew: the window that a ledger leaves.
Of a FIFO queue, the effects of a group come in order.

The seed decides on what is sent, on victims and on pauses; who is where when a process is killed is the
machine's. Run K of a test (`[…K…]` in its name) has the seed N + K with `--chaos-seed N`, which pytest prints at
its start, and a run that fails again: `pytest '<the test's name>' --chaos-seed N` takes that run up again.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest
from local_sqs import Entry, Queue

GROUPS = 7
NOTHING = {"environment": 0, "poller": 0, "redis": 0}


class Chaos:
    """One run: a sender, a mapping, and a killer."""

    def __init__(
        self,
        server,
        start_mapping,
        wait_until,
        tmp_path,
        seed,
        replay,
        *,
        messages,
        pause,
        suffix="",
    ):
        self.server, self.messages, self.pause = server, messages, pause
        self.wait_until = wait_until
        self.chance = random.Random(seed)
        self.seed, self.replay = seed, replay
        self.effects_path = tmp_path / "effects"
        self.kills = dict(NOTHING)
        url = f"redis://127.0.0.1:{server.port}"
        self.fifo = suffix == ".fifo"
        self.queue = Queue.open(f"{url}/work{suffix}", retry_for=30)
        self.dead = Queue.open(f"{url}/work-dead{suffix}", retry_for=30)
        self.mapping = start_mapping(
            port=server.port,
            queue={
                "name": self.queue.name,
                "visibility_timeout": 1.0,
                "max_receive_count": 50,
                "dead_letter_queue": self.dead.name,
                "fifo": self.fifo,
            },
            function={
                "handler": "handlers.effect",
                "timeout": 1.0,
                "environment": {"LEDGER": f"{url}/ledger", "EFFECTS": str(self.effects_path)},
            },
            mapping={"concurrency": 4, "batch_size": 10},
        )
        print(replay)

    def run(self, victims: dict[str, int], seconds: float) -> None:
        """`victims`: how likely each is the next."""
        sender = threading.Thread(target=self._send, args=(self.seed,))
        sender.start()
        deadline = time.monotonic() + seconds
        names, weights = list(victims), list(victims.values())
        while sender.is_alive() or self._unfinished():
            assert time.monotonic() < deadline, (
                f"{self.replay}: {self.queue.stats()} after {self.kills}"
            )
            time.sleep(self.chance.uniform(0.4, 1.6) * self.pause)
            self._kill(self.chance.choices(names, weights)[0])
        sender.join()
        self._assert_poller_lives()
        self._check()

    def _assert_poller_lives(self) -> None:
        log = self.mapping.log()
        ended = self.mapping.process.poll() is not None
        assert not ended, f"{self.replay}: the poller ended by itself\n{log[-2000:]}"

    def _send(self, seed: int) -> None:
        chance = random.Random(seed)
        url = f"redis://127.0.0.1:{self.server.port}/{self.queue.name}"
        with Queue.open(url, retry_for=30) as queue:
            for start in range(0, self.messages, 10):
                numbers = range(start, min(start + 10, self.messages))
                queue.send_batch([self._entry(n, chance.uniform(0, 0.005)) for n in numbers])

    def _entry(self, number: int, seconds: float) -> Entry:
        body = f"{number} {seconds:.4f}"
        if not self.fifo:
            return Entry(body)
        return Entry(body, group_id=f"{number % GROUPS}", deduplication_id=f"{number}")

    def _unfinished(self) -> int:
        stats = self.queue.stats()
        return stats.ready + stats.in_flight + stats.delayed

    def _kill(self, victim: str) -> None:
        if victim == "environment":
            environments = self.mapping.environments()
            if not environments:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(environments), signal.SIGKILL)
        elif victim == "poller":
            self._assert_poller_lives()
            self.mapping.kill()
            self.mapping.start()
        else:
            self.server.kill()
            self.wait_until(self.server.start, "Redis is back")
        self.kills[victim] += 1

    def _check(self) -> None:
        notes = [line.split() for line in self.effects_path.read_text().splitlines()]
        effects = Counter(number for what, number, _ in notes if what == "effect")
        parked = {message.body.split()[0] for message in self.dead.peek(self.messages)}
        twice = sum(effects.values()) - len(effects)
        print(
            f"seed {self.seed}: {self.kills}; {twice} effects done again; {len(parked)} dead-lettered"
        )
        wanted = {str(number) for number in range(self.messages)}
        assert effects.keys() | parked == wanted, f"{self.replay}: vanished"
        known: set[str] = set()
        for what, number, request in notes:
            assert number not in known, (
                f"{self.replay}: {what} of {number} by {request} after its completion"
            )
            if what == "completed":
                known.add(number)
        if self.fifo:
            for group in range(GROUPS):
                first = [n for n in map(int, effects) if n % GROUPS == group]
                assert first == sorted(first), f"{self.replay}: out of order"
        told = self.mapping.log().count("retrying until it is back")
        assert told <= self.kills["redis"] + self.kills["poller"], "one line an outage and poller"


@pytest.fixture
def chaos(start_mapping, wait_until, tmp_path, request):
    base: int = request.config.getoption("--chaos-seed")
    seed = base + request.node.callspec.params.get("run", 0)
    replay = f"'{request.node.nodeid}' --chaos-seed {base}"
    runs: list[Chaos] = []

    def start(server: Any, **options: Any) -> Chaos:
        runs.append(Chaos(server, start_mapping, wait_until, tmp_path, seed, replay, **options))
        return runs[-1]

    yield start
    for run in runs:
        run.queue.close()
        run.dead.close()


WORKERS = {"environment": 85, "poller": 15}
ALL = {"environment": 75, "poller": 12, "redis": 13}
RUNTIME = pytest.mark.parametrize("environments", ["runtime"])
BOTH = pytest.mark.parametrize("environments", ["fork", "runtime"])
FIFTY = pytest.mark.parametrize("run", range(50))
PATIENCE = 900  # seconds: a run takes 20 to 60 on an idle machine
REDIS = pytest.mark.parametrize("server", ["redis"], indirect=True)


def test_a_few_hundred_messages_under_kill_9(server, chaos):
    chaos(server, messages=300, pause=0.05).run(WORKERS, 180)


@RUNTIME
def test_a_few_messages_under_kill_9_in_the_production_runtime(server, chaos):
    chaos(server, messages=100, pause=0.1).run(WORKERS, 180)


@REDIS
def test_a_few_hundred_messages_with_redis_killed_too(durable_server, chaos):
    chaos(durable_server, messages=200, pause=0.05).run(ALL, 180)


@REDIS
def test_a_fifo_queue_keeps_its_order_whatever_is_killed(durable_server, chaos):
    chaos(durable_server, messages=100, pause=0.2, suffix=".fifo").run(ALL, 180)


@pytest.mark.stress
@REDIS
@BOTH
@FIFTY
def test_three_thousand_messages_under_kill_9(server, chaos, run):
    chaos(server, messages=3000, pause=0.05).run(WORKERS, PATIENCE)


@pytest.mark.stress
@REDIS
@BOTH
@FIFTY
def test_three_thousand_messages_with_redis_killed_too(durable_server, chaos, run):
    chaos(durable_server, messages=3000, pause=0.05).run(ALL, PATIENCE)


@pytest.mark.stress
@REDIS
@BOTH
@FIFTY
def test_five_hundred_fifo_messages_with_redis_killed_too(durable_server, chaos, run):
    chaos(durable_server, messages=500, pause=0.05, suffix=".fifo").run(ALL, PATIENCE)
