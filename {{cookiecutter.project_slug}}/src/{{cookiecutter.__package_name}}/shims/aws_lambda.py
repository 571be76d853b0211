"""What Lambda calls: ``worker`` for the queue, ``schedule`` for the clock.

The local event source mapping calls the very same handlers.
"""

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from lambda_shim.batch import SqsHandler

from ..core import jobs, messages

if TYPE_CHECKING:
    from ..adapters.wiring import Wiring


@cache
def wire() -> "Wiring":
    """Settings and adapters, once for each execution environment."""
    from ..adapters.wiring import Wiring, load_settings

    return Wiring(load_settings(os.environ))


worker = SqsHandler(messages.decode, jobs.handle, wire)


def schedule(event: dict[str, Any], context: object) -> dict[str, int]:
    """Turn one tick of the schedule into messages.

    Args:
        event: ``{"scheduled_for": "2026-11-01T06:00:00Z"}``, as EventBridge Scheduler sends it.
        context: Lambda's; not used.

    Returns:
        ``{"sent": <number of messages>}``.

    Raises:
        ValueError: the event has no such time.
        FanOutError: not everything could be sent; Lambda tries the whole tick again, twice, and then
            keeps it in the schedule's dead-letter queue.
    """
    from lambda_shim.fan_out import scheduled_day, send_all
    from lambda_shim.sqs import Entry

    wiring = wire()
    planned = jobs.plan(scheduled_day(event), wiring.ports)
    entries = (Entry(messages.encode(message){% if cookiecutter.queue_type == 'fifo' %}, message.group_id{% endif %}) for message in planned)
    return {"sent": send_all(wiring.queue, entries)}
