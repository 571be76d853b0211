"""The clock that every queue and ledger of one Redis server reads."""

from .client import Client, Script

_ADVANCE = Script("advance_clock")
_READ = Script("read_clock", "clock")


def advance_clock(client: Client, seconds: float) -> float:
    """Let time pass, for tests: raises the clock by `seconds` and wakes who waits for a deadline.

    Visibility timeouts, delays, retention and leases follow this clock; the time limit of a function
    does not. Gives the clock's offset from the server's own time in seconds. Raises ValueError unless
    `seconds` is positive: time does not run backwards.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    offset: int = client.run(_ADVANCE, "local_sqs:clock", round(seconds * 1000))
    return offset / 1000


def read_clock(client: Client) -> float:
    """The clock in seconds since the epoch."""
    milliseconds: int = client.run(_READ, "local_sqs:clock")
    return milliseconds / 1000
