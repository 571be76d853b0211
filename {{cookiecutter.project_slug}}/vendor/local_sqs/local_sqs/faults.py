"""Faults that tests switch on while everything runs; none is on by default.

What SQS and Lambda may do on any day, and a service must survive, is made to happen here on demand.
"""

from .client import Client, Script

_SET = Script("set_faults", "queue", "faults")
_CRASHES = "local_sqs:crashes"


def set_faults(
    client: Client,
    queue: str,
    *,
    duplicate: float | None = None,
    shuffle: bool | None = None,
    lose_delete: int | None = None,
    slow: float | None = None,
    crash_before_effect: int | None = None,
    crash_after_effect: int | None = None,
) -> None:
    """Switch faults of a queue on; 0 or False switches one off, None leaves it as it is.

    duplicate: deliver so many messages (an int), or each with this probability (a float), a second time,
        while the first delivery is in flight or after its deletion; standard queues only.
    shuffle: deliver in random order; standard queues only.
    lose_delete: so many deletions answer that all is well and delete nothing.
    slow: seconds that an environment takes before each invocation; the mapping sees to it.
    crash_before_effect: so many times a process that has just claimed a key in a ledger kills itself.
    crash_after_effect: so many times a process that is about to complete a key kills itself.

    The crashes are the ledger's, which knows no queue: they hold for every `RedisLedger` of the server.
    Raises ValueError for a fault that a FIFO queue cannot have, and for a negative value.
    """
    given = {
        "duplicate": duplicate,
        "shuffle": None if shuffle is None else int(shuffle),
        "lose_delete": lose_delete,
        "slow": None if slow is None else round(slow * 1000),
        "before_effect": crash_before_effect,
        "after_effect": crash_after_effect,
    }
    if queue.endswith(".fifo") and (duplicate or shuffle):
        raise ValueError("a FIFO queue delivers once and in order: no duplicate, no shuffle")
    for name, value in given.items():
        if value is not None and value < 0:
            raise ValueError(f"{name} must not be negative, got {value!r}")
    of_the_queue: list[str | int | float] = []
    for name, value in given.items():
        if value is not None and name.endswith("_effect"):
            if value:
                client.execute("HSET", _CRASHES, name, value)
            else:
                client.execute("HDEL", _CRASHES, name)
        elif value is not None:
            of_the_queue += (name, _stored(value))
    if of_the_queue:
        client.run(_SET, queue, *of_the_queue)


def _stored(value: float) -> str | int:
    """A fault as `lua/faults.lua` reads it: it knows a probability by the decimal point, which 1e-05 lacks."""
    if not value:
        return ""
    return f"{value:.12f}" if isinstance(value, float) else value


def clear_faults(client: Client, queue: str) -> None:
    """Switch off every fault of a queue, and the ledger's crashes."""
    client.run(_SET, queue)
    client.execute("DEL", _CRASHES)
