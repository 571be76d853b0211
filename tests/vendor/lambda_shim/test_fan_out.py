"""Sending many messages within SQS's limits."""

from collections.abc import Sequence
from datetime import date

import pytest
from lambda_shim.fan_out import FanOutError, chunks, scheduled_day, send_all
from lambda_shim.sqs import BATCH_BYTES, Entry, Refused


class Outbox:
    """Takes everything, but for what ``refuse`` says of a body at its n-th sight."""

    def __init__(self, refuse: dict[str, list[bool]] | None = None) -> None:
        self.calls: list[list[str]] = []
        self.taken: list[str] = []
        self.refuse = refuse or {}

    def send_entries(self, entries: Sequence[Entry]) -> list[Refused]:
        bodies = [entry.body for entry in entries]
        self.calls.append(bodies)
        refused = []
        for position, body in enumerate(bodies):
            if self.refuse.get(body):
                refused.append(Refused(position, self.refuse[body].pop(0), "Code", "why"))
            else:
                self.taken.append(body)
        return refused


def entries(numbers: range) -> list[Entry]:
    return [Entry(str(number)) for number in numbers]


def test_chunks_hold_ten_at_most() -> None:
    assert [len(chunk) for chunk in chunks(entries(range(25)))] == [10, 10, 5]


def test_chunks_hold_one_mebibyte_of_utf8_at_most() -> None:
    third = "ü" * (BATCH_BYTES // 6)
    assert [len(chunk) for chunk in chunks([Entry(third)] * 7)] == [3, 3, 1]


def test_a_body_beyond_the_limit_is_named() -> None:
    with pytest.raises(ValueError, match="1,048,577 bytes is over SQS's limit"):
        list(chunks([Entry("x" * (BATCH_BYTES + 1))]))


def test_only_what_was_not_taken_is_sent_again() -> None:
    outbox = Outbox({"3": [False, False]})
    slept: list[float] = []
    assert send_all(outbox, entries(range(12)), slept.append) == 12
    assert outbox.calls[1:3] == [["3"], ["3"]]
    assert sorted(outbox.taken, key=int) == [str(number) for number in range(12)]
    assert slept == [0.1, 0.2]


def test_the_senders_own_fault_is_not_tried_again() -> None:
    outbox = Outbox({"3": [True]})
    with pytest.raises(FanOutError, match="Code: why"):
        send_all(outbox, entries(range(12)), lambda _: None)
    assert len(outbox.calls) == 1


def test_it_gives_up_after_five_tries() -> None:
    outbox = Outbox({"3": [False] * 9})
    with pytest.raises(FanOutError, match="1 messages not sent after 5 tries"):
        send_all(outbox, entries(range(5)), lambda _: None)
    assert len(outbox.calls) == 5


def test_nothing_is_held_in_memory() -> None:
    outbox = Outbox()

    def endless() -> object:
        for number in range(100):
            # All but the chunk being gathered has been sent already.
            assert number - len(outbox.taken) <= 10
            yield Entry(str(number))

    assert send_all(outbox, endless()) == 100  # type: ignore[arg-type]


def test_the_scheduled_day() -> None:
    assert scheduled_day({"scheduled_for": "2026-11-01T06:00:00Z"}) == date(2026, 11, 1)


@pytest.mark.parametrize("event", [{}, {"scheduled_for": "soon"}, [], {"scheduled_for": None}])
def test_an_event_without_a_time_says_what_it_should_be(event: object) -> None:
    with pytest.raises(ValueError, match="a schedule event is"):
        scheduled_day(event)
