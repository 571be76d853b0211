"""User CPU of one handler on 10-record SQS events: ``python -m … HANDLER [PATH …]``.

``HANDLER`` is ``ours`` or a module of ``benchmarks/handlers``; ``PATH`` is put on the path first.
The job is replaced by one that does nothing: decoding and dispatch are what remains.
"""

from __future__ import annotations

import importlib
import resource
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.events import event, identifier
from benchmarks.lab import PACKAGE
from benchmarks.processes import serve
from benchmarks.samples import Measured

RECORDS = 10
METRIC = "user CPU a record"
ENOUGH = 0.3  # seconds of CPU a turn, so that the clock's 1-10 ms ticks do not show

Handler = Callable[[dict[str, object], object], Any]


class LambdaContext:
    """What a handler asks of it."""

    aws_request_id = "8f5d4c3b-6a1e-4b0f-9f57-0d6c1f2a7e55"
    function_name = "worker"
    function_version = "$LATEST"
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:worker"
    memory_limit_in_mb = "512"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def ours() -> Handler:
    """The production handler over the service's own messages."""
    from lambda_shim.batch import SqsHandler

    messages = importlib.import_module(f"{PACKAGE}.core.messages")
    wiring = types.SimpleNamespace(
        ports=None, ledger=None, records=None, queue=None, max_receive_count=5
    )
    return SqsHandler(messages.decode, lambda message, context: None, lambda: wiring)


def peer(module: str) -> Handler:
    """One of the handlers, with a job that does nothing."""
    effects = types.ModuleType("effects")
    effects.greet = lambda identifier, name: None  # type: ignore[attr-defined]
    sys.modules["effects"] = effects
    sys.path.insert(0, str(Path(__file__).parent.parent / "handlers"))
    handler: Handler = importlib.import_module(module).handler
    return handler


def user_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def main(arguments: list[str]) -> None:
    name, *paths = arguments
    sys.path[:0] = paths
    handler = ours() if name == "ours" else peer(name)
    batch = event(*(identifier() for _ in range(RECORDS)))
    context = LambdaContext()
    if handler(batch, context) != {"batchItemFailures": []}:
        raise RuntimeError(f"{name}: the batch failed")
    calls = 100
    while (spent := seconds(handler, batch, context, calls)) < ENOUGH / 4:
        calls *= 2
    calls = max(calls, int(calls * ENOUGH / spent))

    def turn() -> Measured:
        spent = seconds(handler, batch, context, calls)
        return {METRIC: 1e6 * spent / (calls * RECORDS)}

    serve(turn)


def seconds(handler: Handler, batch: dict[str, object], context: object, calls: int) -> float:
    """User CPU of so many calls, in seconds."""
    before = user_seconds()
    for _ in range(calls):
        handler(batch, context)
    return user_seconds() - before


if __name__ == "__main__":
    main(sys.argv[1:])
