"""What a row is given, whatever the ring."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol


@dataclass(frozen=True)
class Arrangement:
    """A work queue with its dead-letter queue, a function and the mapping between them. Seconds."""

    visibility_timeout: int = 10
    max_receive_count: int = 5
    retention: int = 345_600
    delay: int = 0
    fifo: bool = False
    fifo_dead_letters: bool | None = None  # None: as the work queue
    content_based_deduplication: bool = False
    batch_size: int = 10
    batching_window: int = 0
    concurrency: int = 2
    report_batch_item_failures: bool = True
    timeout: int = 3
    memory_mb: int = 512
    reserved_concurrency: int | None = None  # a number: without MaximumConcurrency
    handler: str = "function.handler"

    @property
    def shim(self) -> bool:
        """Whether the function is made with lambda_shim."""
        return self.handler.startswith("shim.")


class Refused(Exception):
    """The queue refuses a message; `code` is SQS's, without namespaces."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class PartlyRefused(Exception):
    """Of a batch, the entries with these indices were refused, with SQS's codes."""

    def __init__(self, ids: list[str], codes: dict[int, str]) -> None:
        super().__init__(codes)
        self.ids, self.codes = ids, codes


class Split(Exception):
    """Messages that the row wants in one batch came in several, as they may: send others."""


@dataclass(frozen=True)
class Send:
    """A message: its name in the row, what the function does with it, and options of SendMessage."""

    name: str
    do: Sequence[str] = ()
    delay: int | None = None
    attributes: dict[str, dict[str, str]] | None = None
    group: str | None = None
    deduplication_id: str | None = None
    bytes: int = 0  # the body is filled up to so many
    ending: str = ""  # of the body, after its JSON

    @property
    def body(self) -> str:
        script = {"name": self.name, "do": list(self.do), "fill": ""}
        script["fill"] = "x" * max(0, self.bytes - len(json.dumps(script)))
        return json.dumps(script) + self.ending


class Lane(Protocol):
    """An arrangement that exists. Rows of the same arrangement share it, one after the other."""

    arrangement: Arrangement
    virtual_time: bool  # whether `pass_time` moves a clock, and nothing happens meanwhile

    def send(self, messages: Sequence[Send]) -> list[str]:
        """Send in one call, SendMessage for one message; the ids. Raises Refused, PartlyRefused."""
        ...

    def refusal(self, arrangement: Arrangement) -> str:
        """What is said when another arrangement is to be made; empty when it can be."""
        ...

    def batches(self) -> list[dict[str, Any]]:
        """What the function has noted since the lane exists."""
        ...

    def dead_letters(self) -> list[dict[str, Any]]:
        """Of each message of the dead-letter queue: messageId, body, attributes."""
        ...

    def redrive(self) -> None:
        """Move all dead letters back."""
        ...

    def settle(self, in_flight: int) -> None:
        """Wait until the mapping has deleted what it will and so many messages are in flight."""
        ...

    def wait_empty(self) -> None:
        """Wait until the work queue holds nothing."""
        ...

    def pass_time(self, seconds: float) -> None:
        """Let the queue's clock advance."""
        ...

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """The condition's first true value. Raises AssertionError after a deadline."""
        ...


class Scene:
    """A row's own messages in a lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.arrangement = lane.arrangement
        self.ids: dict[str, str] = {}  # message id -> name
        self._least_gap = 0.0  # seconds between two deliveries of a message, in real time
        self._tag = os.urandom(4).hex()  # rows share a lane: their deduplication ids must differ

    def send(self, *messages: Send) -> list[str]:
        try:
            ids = self.lane.send([self._tagged(message) for message in messages])
        except PartlyRefused as some:
            names = [m.name for index, m in enumerate(messages) if index not in some.codes]
            self.ids |= dict(zip(some.ids, names, strict=True))
            raise
        self.ids |= dict(zip(ids, (message.name for message in messages), strict=True))
        return ids

    def _tagged(self, message: Send) -> Send:
        if message.deduplication_id is None:
            return message
        return replace(message, deduplication_id=f"{message.deduplication_id}-{self._tag}")

    def batches(self) -> list[dict[str, Any]]:
        return [
            batch
            for batch in self.lane.batches()
            if any(record["messageId"] in self.ids for record in batch["records"])
        ]

    def deliveries(self, name: str | None = None) -> list[dict[str, Any]]:
        """Records as they were delivered, in order; `at`, `request` and `remaining` are the batch's."""
        return [
            record | {key: batch[key] for key in ("at", "request", "remaining")}
            for batch in self.batches()
            for record in batch["records"]
            if record["messageId"] in self.ids and name in (None, record["name"])
        ]

    def names(self) -> list[str]:
        return [record["name"] for record in self.deliveries()]

    def delivered(self, number: int) -> list[dict[str, Any]]:
        """Wait for so many deliveries in all; more are an error."""
        self.lane.wait(lambda: len(self.deliveries()) >= number, f"{number} deliveries")
        found = self.deliveries()
        assert len(found) == number, f"{number} deliveries expected: {self.names()}"
        last: dict[str, float] = {}
        for record in found:
            gap = record["at"] - last.get(record["messageId"], 0.0)
            assert gap >= self._least_gap, f"{record['name']} came again after {gap:.1f} s"
            last[record["messageId"]] = record["at"]
        return found

    def one_batch(self, number: int) -> list[dict[str, Any]]:
        found = self.delivered(number)
        if len({record["request"] for record in found}) > 1:
            raise Split
        return found

    def return_to_queue(self, in_flight: int) -> None:
        """Let the visibility timeout pass, and see that nothing comes before."""
        self.hide(self.arrangement.visibility_timeout, in_flight)

    def hide(self, seconds: float, in_flight: int) -> None:
        """Let so much time pass, and see that what is hidden so long does not come before."""
        before = self.deliveries()
        since = max((record["at"] for record in before), default=time.time())
        self.lane.settle(in_flight)
        if self.lane.virtual_time:
            # Real time passes, too: what is left of the hidden time but for a margin.
            margin = min(3.0, seconds / 2)
            moved = max(0.001, seconds - margin - (time.time() - since))
            self.lane.pass_time(moved)
            seen = len(self.deliveries())
            if moved + time.time() - since < seconds - margin / 2:  # else nothing can be said
                assert seen == len(before), f"returned before {seconds} s"
            self.lane.pass_time(seconds - moved + 0.5)
        else:  # what has been noted is seen late: the notes' own times decide, in `delivered`
            self._least_gap = seconds - 1
            self.lane.pass_time(seconds + 1)

    def dead_letter(self, identifier: str) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            letters = self.lane.dead_letters()
            return next((x for x in letters if x["messageId"] == identifier), None)

        found: dict[str, Any] = self.lane.wait(find, f"{identifier} is in the dead-letter queue")
        return found
