"""The context a job gets: remaining time, and effects done once."""

import pytest
from lambda_shim.contract import Context, DeadlineReached, Retry

from .support import MemoryLedger, Order


def context(ledger: MemoryLedger, deadline: float | None = None) -> Context[None]:
    return Context(None, ledger, Order(id="1"), "m1", 2, deadline)


def test_an_effect_is_done_once() -> None:
    ledger = MemoryLedger()
    seen = []
    for _ in range(2):
        with context(ledger).once("mail") as first:
            seen.append(first)
    assert seen == [True, False]
    assert ledger.completed == {"order-1#mail"}


@pytest.mark.parametrize("error", [OSError("down"), DeadlineReached()])
def test_an_effect_that_failed_is_the_next_deliverys(error: BaseException) -> None:
    ledger = MemoryLedger()
    with pytest.raises(type(error)), context(ledger).once("mail"):
        raise error
    with context(ledger).once("mail") as first:
        assert first


def test_an_effect_under_way_elsewhere_comes_back_when_its_claim_ends() -> None:
    ledger = MemoryLedger()
    ledger.claim("order-1#mail", "somebody else", 7)
    with pytest.raises(Retry) as caught, context(ledger).once("mail"):
        pytest.fail("must not be entered")
    assert caught.value.after == 7


def test_two_deliveries_of_the_very_same_message_are_told_apart() -> None:
    ledger = MemoryLedger()
    with context(ledger).once("mail"), pytest.raises(Retry), context(ledger).once("mail"):
        pytest.fail("must not be entered")


def test_a_claim_lasts_as_long_as_the_invocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambda_shim.contract.monotonic", lambda: 100.0)
    ledger = MemoryLedger()
    limited = context(ledger, deadline=112.5)
    assert limited.remaining == 12.5
    with limited.once("mail"):
        pass
    unlimited = context(ledger)
    assert unlimited.remaining is None
    with unlimited.once("letter"):
        pass
    assert ledger.leases == [12.5, Context.UNLIMITED_LEASE]


def test_remaining_time_never_goes_below_zero() -> None:
    assert context(MemoryLedger(), deadline=0.0).remaining == 0.0
