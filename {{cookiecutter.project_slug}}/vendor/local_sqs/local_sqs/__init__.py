"""A Redis queue with the semantics of SQS, and the Lambda event source mapping that reads it."""

from collections.abc import Callable

from . import lean_import  # noqa: F401  before whatever imports msgspec
from .client import Client, ConnectionLost, RedisError
from .clock import advance_clock, read_clock
from .faults import clear_faults, set_faults
from .ledger import RedisLedger
from .limits import Refused
from .message import Entry, Failed, Message, MessageAttribute, Stats
from .queue import Queue
from .settings import Settings, SettingsError, load_settings

__all__ = [
    "Client",
    "ConnectionLost",
    "Entry",
    "Failed",
    "Message",
    "MessageAttribute",
    "Queue",
    "RedisError",
    "RedisLedger",
    "Refused",
    "Settings",
    "SettingsError",
    "Stats",
    "advance_clock",
    "clear_faults",
    "load_settings",
    "read_clock",
    "run",
    "set_faults",
]


def run(
    settings: Settings, *, debug: bool = False, on_ready: Callable[[], object] | None = None
) -> None:
    """Poll until SIGTERM or SIGINT: see `local_sqs.mapping.run`."""
    from .mapping import run  # a client of the queue needs none of it

    run(settings, debug=debug, on_ready=on_ready)
