"""The rings `local` and `runtime`: the rows over local_sqs, its queue and its mapping."""

import contextlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lambda_shim
from local_sqs import (
    Client,
    Entry,
    MessageAttribute,
    Queue,
    SettingsError,
    advance_clock,
    limits,
)
from local_sqs.event import record
from local_sqs.settings import parse_settings

from tests.vendor.local_sqs.conftest import Mapping, wait_until

from .scene import Arrangement, PartlyRefused, Refused, Send

LAMBDA_SHIM = str(Path(lambda_shim.__file__).parents[1])


class LocalLane:
    """See scene.Lane."""

    virtual_time = True

    def __init__(
        self, client: Client, directory: Path, name: str, arrangement: Arrangement, ring: str
    ) -> None:
        self.arrangement = arrangement
        self.client = client
        self.ring = ring
        self.name = name
        directory.mkdir()
        settings = self._settings(arrangement)
        self.queue = Queue(client, settings["queue"]["name"])
        self.dead = Queue(client, settings["queue"]["dead_letter_queue"])
        self.mapping = Mapping(directory, settings)

    def _settings(self, arrangement: Arrangement) -> dict[str, Any]:
        def suffix(fifo: bool | None) -> str:
            return ".fifo" if fifo else ""

        dead = arrangement.fifo_dead_letters
        name = f"{self.name}{suffix(arrangement.fifo)}"
        return {
            "redis": {"port": self.client.port},
            "queue": {
                "name": name,
                "visibility_timeout": arrangement.visibility_timeout,
                "max_receive_count": arrangement.max_receive_count,
                "dead_letter_queue": (
                    f"{self.name}-dead{suffix(arrangement.fifo if dead is None else dead)}"
                ),
                "retention": arrangement.retention,
                "delay": arrangement.delay,
                "fifo": arrangement.fifo,
                "content_based_deduplication": arrangement.content_based_deduplication,
            },
            "mapping": {
                "batch_size": arrangement.batch_size,
                "batching_window": arrangement.batching_window,
                "concurrency": arrangement.concurrency,
                "report_batch_item_failures": arrangement.report_batch_item_failures,
            },
            "function": {
                "handler": f"conformance.{arrangement.handler}",
                "path": [LAMBDA_SHIM] if arrangement.shim else [],
                "timeout": arrangement.timeout,
                "memory_mb": arrangement.memory_mb,
                "reserved_concurrency": arrangement.reserved_concurrency,
                "environment": {
                    "WORK_QUEUE_URL": f"redis://{self.client.address}/{name}",
                    "MAX_RECEIVE_COUNT": str(arrangement.max_receive_count),
                },
                "environments": {"local": "fork", "runtime": "runtime"}[self.ring],
            },
        }

    def refusal(self, arrangement: Arrangement) -> str:
        try:
            parse_settings(json.dumps(self._settings(arrangement)))
        except SettingsError as error:
            return str(error)
        return ""

    def send(self, messages: Sequence[Send]) -> list[str]:
        entries = [
            Entry(
                message.body,
                message.delay,
                {
                    name: MessageAttribute(
                        value["DataType"], value.get("StringValue"), value.get("BinaryValue")
                    )
                    for name, value in (message.attributes or {}).items()
                },
                message.group,
                message.deduplication_id,
            )
            for message in messages
        ]
        try:
            if len(entries) == 1:
                return [self._send(entries[0])]
            ids, failed = self.queue.send_batch(entries)
        except limits.Refused as refusal:
            raise Refused(refusal.code) from refusal
        sent = [identifier for identifier in ids if identifier is not None]
        if failed:
            raise PartlyRefused(sent, {refused.index: refused.code for refused in failed})
        return sent

    def _send(self, entry: Entry) -> str:
        return self.queue.send(
            entry.body,
            delay=entry.delay,
            attributes=entry.attributes,
            group_id=entry.group_id,
            deduplication_id=entry.deduplication_id,
        )

    def batches(self) -> list[dict[str, Any]]:
        return self.mapping.deliveries()

    def dead_letters(self) -> list[dict[str, Any]]:
        return [record(letter, "arn:aws:sqs:::") for letter in self.dead.peek(1000)]

    def redrive(self) -> None:
        self.dead.redrive()

    def settle(self, in_flight: int) -> None:
        def settled() -> bool:
            stats = self.queue.stats()
            return stats.in_flight == in_flight and stats.ready == 0

        # In a FIFO queue, what waits behind a blocked group is ready as well.
        ready = self.arrangement.fifo
        wait_until(
            lambda: self.queue.stats().in_flight == in_flight if ready else settled(),
            f"{in_flight} messages in flight, the others deleted",
        )

    def wait_empty(self) -> None:
        def empty() -> bool:
            stats = self.queue.stats()
            return stats.ready + stats.in_flight + stats.delayed == 0

        wait_until(empty, f"the queue is empty: {self.queue.stats()}")

    def pass_time(self, seconds: float) -> None:
        advance_clock(self.client, seconds)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_until(condition, f"{what}\n{self.mapping.log()}")

    def close(self) -> None:
        if self.mapping.process.poll() is None:
            self.mapping.kill()


class LocalRing:
    """Lanes over one Redis server, each made when a row first asks for it."""

    def __init__(self, client: Client, directory: Path, name: str) -> None:
        self.name = name
        self._client, self._directory = client, directory
        self._lanes: dict[Arrangement, LocalLane] = {}
        self._numbers = itertools.count()

    def lane(self, arrangement: Arrangement) -> LocalLane:
        if arrangement not in self._lanes:
            name = f"{self.name}-{next(self._numbers)}"
            self._lanes[arrangement] = LocalLane(
                self._client, self._directory / name, name, arrangement, self.name
            )
        return self._lanes[arrangement]

    def discard(self, arrangement: Arrangement) -> None:
        """After a failure: the next row shall not meet what this one left."""
        if lane := self._lanes.pop(arrangement, None):
            lane.close()

    def close(self) -> None:
        with contextlib.suppress(KeyError):
            while self._lanes:
                self._lanes.popitem()[1].close()
