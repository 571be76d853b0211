"""The ledger: at most one holder, and completed stays completed."""

import pytest
from local_sqs import RedisLedger, advance_clock


@pytest.fixture
def ledger(client):
    return RedisLedger(client, "ledger")


def test_one_token_holds_a_key(ledger):
    assert ledger.claim("k", "a", 10) == ("claimed", 0.0)
    state, left = ledger.claim("k", "b", 10)
    assert state == "held"
    assert 9 < left <= 10
    assert ledger.claim("other", "b", 10) == ("claimed", 0.0)


def test_a_token_claims_its_own_again_and_renews_the_lease(ledger, client):
    ledger.claim("k", "a", 10)
    advance_clock(client, 6)
    assert ledger.claim("k", "a", 10) == ("claimed", 0.0)
    advance_clock(client, 6)
    assert ledger.claim("k", "b", 10)[0] == "held"


def test_completed_is_completed_for_everybody(ledger):
    ledger.claim("k", "a", 10)
    assert ledger.complete("k", "a")
    assert ledger.complete("k", "a")
    assert ledger.claim("k", "a", 10) == ("completed", 0.0)
    assert ledger.claim("k", "b", 10) == ("completed", 0.0)
    assert not ledger.release("k", "a")
    assert ledger.claim("k", "b", 10) == ("completed", 0.0)


def test_a_lease_that_ran_out_passes_to_the_next_and_the_first_cannot_complete(ledger, client):
    ledger.claim("k", "a", 10)
    advance_clock(client, 10)
    assert ledger.claim("k", "b", 10) == ("claimed", 0.0)
    assert not ledger.complete("k", "a")
    assert not ledger.release("k", "a")
    assert ledger.claim("k", "c", 10)[0] == "held"
    assert ledger.complete("k", "b")
    assert not ledger.complete("k", "a")


def test_a_lease_that_ran_out_unnoticed_still_completes(ledger, client):
    ledger.claim("k", "a", 10)
    advance_clock(client, 20)
    assert ledger.complete("k", "a")
    assert ledger.claim("k", "b", 10) == ("completed", 0.0)


def test_release_lets_the_next_claim_at_once(ledger):
    ledger.claim("k", "a", 10)
    assert not ledger.release("k", "b")
    assert ledger.release("k", "a")
    assert ledger.claim("k", "b", 10) == ("claimed", 0.0)


def test_completion_is_remembered_for_as_long_as_asked(client):
    ledger = RedisLedger(client, "ledger", remember=100)
    ledger.claim("k", "a", 10)
    ledger.complete("k", "a")
    advance_clock(client, 99)
    assert ledger.claim("k", "b", 10)[0] == "completed"
    assert 0 < client.execute("PTTL", "ledger:k") <= 100_000
    advance_clock(client, 1)
    assert ledger.claim("k", "b", 10) == ("claimed", 0.0)


def test_fourteen_days_by_default(ledger, client):
    ledger.claim("k", "a", 10)
    ledger.complete("k", "a")
    advance_clock(client, 14 * 86_400 - 10)
    assert ledger.claim("k", "b", 10)[0] == "completed"


def test_open_takes_the_prefix_from_the_address(server, client):
    ledger = RedisLedger.open(f"redis://127.0.0.1:{server.port}/statements:ledger")
    assert ledger.claim("k", "a", 1) == ("claimed", 0.0)
    assert client.execute("EXISTS", "statements:ledger:k") == 1
    ledger.close()
    with pytest.raises(ValueError, match="prefix"):
        RedisLedger.open("redis://127.0.0.1:1")
