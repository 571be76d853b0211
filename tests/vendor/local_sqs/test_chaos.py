"""Nothing is lost, whoever is killed.

Environments and pollers are killed -9 at random while messages flow. At the end each message is done or
dead-lettered, and the queue is empty. The seed is printed and can be given as CHAOS_SEED.
"""

import contextlib
import os
import random
import signal
import time

import pytest
from local_sqs import Queue


def _chaos(queue, mapping, wait_until, messages, seed, seconds):
    chance = random.Random(seed)
    print(f"CHAOS_SEED={seed}")
    for start in range(0, messages, 10):
        queue.send_batch(
            [f"sleep 0.00{number % 10}" + f" #{number}" for number in range(start, start + 10)]
        )
    dead = Queue(queue.client, "work-dead")
    kills = {"environment": 0, "poller": 0}
    deadline = time.monotonic() + seconds

    def unfinished():
        stats = queue.stats()
        return stats.ready + stats.in_flight

    while unfinished():
        assert time.monotonic() < deadline, f"seed {seed}: {queue.stats()} after {kills}"
        time.sleep(chance.uniform(0.02, 0.08))
        if chance.random() < 0.15:
            kills["poller"] += 1
            mapping.kill()
            mapping.start()
        elif environments := mapping.environments():
            kills["environment"] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(environments), signal.SIGKILL)
    print(kills)
    done = {body.partition("#")[2] for body in mapping.bodies()}
    parked = {message.body.partition("#")[2] for message in dead.peek(messages)}
    assert done | parked == {str(number) for number in range(messages)}
    assert kills["environment"] > 3
    return done, parked


def _seed():
    return int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**9))


def _start(start_mapping):
    return start_mapping(
        queue={
            "visibility_timeout": 0.4,
            "max_receive_count": 50,
            "dead_letter_queue": "work-dead",
        },
        function={"handler": "handlers.nap", "timeout": 0.4},
        mapping={"concurrency": 4, "batch_size": 5},
    )


def test_a_few_hundred_messages_under_kill_9(queue, start_mapping, wait_until):
    mapping = _start(start_mapping)
    _chaos(queue, mapping, wait_until, 300, _seed(), 30)


@pytest.mark.stress
@pytest.mark.parametrize("run", range(10))
def test_three_thousand_messages_under_kill_9(queue, start_mapping, wait_until, run):
    mapping = _start(start_mapping)
    _chaos(queue, mapping, wait_until, 3000, _seed() + run, 120)
