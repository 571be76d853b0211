"""The faults that tests can switch on, and that nothing happens without them."""

import os
import signal

import pytest
from local_sqs import Queue, RedisLedger, advance_clock, clear_faults, set_faults


def _bodies(messages):
    return [message.body for message in messages]


def test_faults_are_off_by_default(queue, client):
    queue.send_batch(["a", "b", "c"])
    received = queue.look(10)
    assert _bodies(received.messages) == ["a", "b", "c"]
    assert received.slow == 0
    assert all(queue.delete_batch(message.receipt for message in received.messages))
    assert client.execute("KEYS", "work:*") == [b"work:attributes"]


def test_duplicate_delivers_again_while_the_first_delivery_is_in_flight(queue, client):
    set_faults(client, "work", duplicate=1)
    queue.send_batch(["a", "b"])
    first, other = queue.receive()
    (again,) = queue.receive()
    assert (again.id, again.body, again.receive_count) == (first.id, "a", 2)
    assert queue.delete(first.receipt)  # SQS says so, too
    assert queue.delete(again.receipt)
    assert queue.delete(other.receipt)
    assert queue.stats().in_flight == queue.stats().ready == 0


def test_duplicate_delivers_again_after_the_deletion(queue, client):
    set_faults(client, "work", duplicate=1)
    sent = queue.send("a")
    (first,) = queue.receive()
    assert queue.delete(first.receipt)
    (again,) = queue.receive()
    assert (again.id, again.receive_count) == (sent, 2)
    assert queue.delete(again.receipt)
    advance_clock(client, 60)
    assert queue.receive() == []
    assert queue.delete(first.receipt) is False


def test_duplicate_as_a_count_ends_and_as_a_probability_goes_on(queue, client):
    set_faults(client, "work", duplicate=2)
    queue.send_batch([str(number) for number in range(10)])
    for message in queue.receive():
        queue.delete(message.receipt)
    assert _bodies(queue.receive()) == ["0", "1"]
    queue.purge()
    set_faults(client, "work", duplicate=0.5)
    again = 0
    for _ in range(20):
        queue.send_batch([str(number) for number in range(10)])
        queue.delete_batch(message.receipt for message in queue.receive())
        repeated = queue.receive(100)
        again += len(repeated)
        assert all(queue.delete_batch(message.receipt for message in repeated))
    assert 40 < again < 160  # of 200; outside with a probability below 1e-16
    assert queue.stats().ready == queue.stats().in_flight == 0


@pytest.mark.parametrize("probability", [0.00001, 0.5, 1.0])
def test_a_probability_however_small_is_kept_as_one(queue, client, probability):
    set_faults(client, "work", duplicate=probability)
    kept = client.execute("HGET", "work:faults", "duplicate").decode()
    whole, point, digits = kept.partition(".")  # faults.lua takes it for a count without a point
    assert point
    assert (whole + digits).isdecimal()
    assert float(kept) == probability


def test_duplicated_and_not_deleted_a_message_is_still_dead_lettered(queue, client):
    set_faults(client, "work", duplicate=1.0)
    queue.send("a")
    for count in range(1, 4):
        (message,) = queue.receive()
        assert message.receive_count == count
        if count > 1:
            advance_clock(client, 30)
    assert queue.receive() == []
    assert _bodies(Queue(client, "work-dead").receive()) == ["a"]


def test_shuffle_delivers_in_another_order_and_loses_nothing(queue, client):
    set_faults(client, "work", shuffle=True)
    sent = [str(number) for number in range(100)]
    for start in range(0, 100, 10):
        queue.send_batch(sent[start : start + 10])
    seen = [body for _ in range(10) for body in _bodies(queue.receive())]
    assert seen != sent
    assert sorted(seen) == sorted(sent)
    set_faults(client, "work", shuffle=False)
    queue.purge()
    queue.send_batch(sent[:10])
    assert _bodies(queue.receive()) == sent[:10]


@pytest.mark.parametrize("name", ["work", "work.fifo"])
def test_a_lost_delete_answers_that_all_is_well_and_deletes_nothing(client, name):
    queue = Queue(client, name)
    queue.create(fifo=queue.fifo, content_based_deduplication=queue.fifo)
    set_faults(client, name, lose_delete=1)
    group = "g" if queue.fifo else None
    queue.send("a", group_id=group)
    queue.send("b", group_id=group)
    first, second = queue.receive()
    assert queue.delete_batch(["x.y", first.receipt, second.receipt]) == [False, True, True]
    assert queue.receive() == []
    advance_clock(client, 30)
    (again,) = queue.receive()
    assert (again.id, again.receive_count) == (first.id, 2)
    assert queue.delete(again.receipt)
    advance_clock(client, 30)
    assert queue.receive() == []


@pytest.mark.parametrize("name", ["work", "work.fifo"])
def test_slow_comes_with_each_look(client, name):
    queue = Queue(client, name)
    set_faults(client, name, slow=0.25)
    assert queue.look(1).slow == 0.25
    set_faults(client, name, slow=0)
    assert queue.look(1).slow == 0


def _dies(action):
    """Whether `action` kills the process (a forked one) that runs it."""
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_a_crash_before_the_effect_leaves_the_claim_and_no_more(client):
    ledger = RedisLedger(client, "ledger")
    set_faults(client, "work", crash_before_effect=1)
    assert _dies(lambda: ledger.claim("k", "a", 10))
    assert ledger.claim("k", "b", 10)[0] == "held"
    advance_clock(client, 10)
    assert ledger.claim("k", "b", 10) == ("claimed", 0.0)  # it happens once


def test_a_crash_after_the_effect_leaves_it_uncompleted(client):
    ledger = RedisLedger(client, "ledger")
    set_faults(client, "work", crash_after_effect=1)
    assert ledger.claim("k", "a", 10) == ("claimed", 0.0)
    assert _dies(lambda: ledger.complete("k", "a"))
    advance_clock(client, 10)
    assert ledger.claim("k", "b", 10) == ("claimed", 0.0)
    assert ledger.complete("k", "b")


def test_who_holds_nothing_does_not_crash(client):
    ledger = RedisLedger(client, "ledger")
    ledger.claim("k", "a", 10)
    set_faults(client, "work", crash_before_effect=1, crash_after_effect=1)
    assert ledger.claim("k", "b", 10)[0] == "held"
    assert not ledger.complete("k", "b")
    clear_faults(client, "work")
    assert ledger.complete("k", "a")


def test_clear_faults_ends_them_all(queue, client):
    set_faults(client, "work", duplicate=5, shuffle=True, lose_delete=5, slow=1)
    clear_faults(client, "work")
    queue.send_batch(["a", "b"])
    received = queue.look(10)
    assert (_bodies(received.messages), received.slow) == (["a", "b"], 0)
    assert all(queue.delete_batch(message.receipt for message in received.messages))
    advance_clock(client, 60)
    assert queue.receive() == []
    assert client.execute("KEYS", "work:*") == [b"work:attributes"]
    assert client.execute("EXISTS", "local_sqs:crashes") == 0


def test_a_fault_is_a_switch_of_its_own(queue, client):
    set_faults(client, "work", duplicate=1, slow=0.5)
    set_faults(client, "work", duplicate=0)
    assert queue.look(1).slow == 0.5
    set_faults(client, "work", slow=0)
    assert client.execute("HEXISTS", "work:attributes", "faults") == 0


@pytest.mark.parametrize("faults", [{"duplicate": 1}, {"shuffle": True}])
def test_a_fifo_queue_has_neither_duplicates_nor_disorder(client, faults):
    with pytest.raises(ValueError, match="FIFO"):
        set_faults(client, "work.fifo", **faults)


def test_a_negative_fault_is_refused(client):
    with pytest.raises(ValueError, match="slow"):
        set_faults(client, "work", slow=-1)
