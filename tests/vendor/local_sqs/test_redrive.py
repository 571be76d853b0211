"""Redrive against the rules of SQS's StartMessageMoveTask."""

import time

import pytest
from local_sqs import Queue, Refused, advance_clock


@pytest.fixture
def dead(client):
    return Queue(client, "work-dead")


def _dead_letter(queue, *bodies):
    """Send messages and let them run out of their three receives; gives their ids."""
    ids = [queue.send(body, group_id="g") for body in bodies]
    for _ in range(4):
        queue.receive(100 if not queue.fifo else 10)
        advance_clock(queue.client, 30)
    return ids


def test_a_redriven_message_is_a_new_one_with_the_same_content(queue, dead, client):
    sent = queue.send("a", attributes={"k": "v"}, group_id="g")
    for _ in range(4):
        queue.receive()
        advance_clock(client, 30)
    (letter,) = dead.peek()
    assert letter.id == sent
    advance_clock(client, 100)
    assert dead.redrive() == 1
    (message,) = queue.receive()
    assert message.id != sent
    assert message.sent_timestamp >= letter.sent_timestamp + 100_000
    assert message.receive_count == 1
    assert message.first_receive_timestamp >= message.sent_timestamp
    assert (message.body, message.attributes, message.group_id) == ("a", letter.attributes, "g")
    assert message.dead_letter_source is None
    assert dead.peek() == []
    assert queue.delete(message.receipt)


def test_it_can_be_dead_lettered_again(queue, dead):
    _dead_letter(queue, "a")
    assert dead.redrive() == 1
    for _ in range(4):
        queue.receive()
        advance_clock(queue.client, 30)
    (letter,) = dead.receive()
    assert (letter.body, letter.dead_letter_source) == ("a", "work")


def test_each_message_returns_to_its_own_source(queue, dead, client):
    other = Queue(client, "other")
    other.create(max_receive_count=3, dead_letter_queue="work-dead")
    _dead_letter(queue, "from work")
    _dead_letter(other, "from other")
    assert dead.redrive() == 2
    assert [message.body for message in queue.receive()] == ["from work"]
    assert [message.body for message in other.receive()] == ["from other"]


def test_a_destination_takes_them_all(queue, dead, client):
    _dead_letter(queue, "a", "b")
    elsewhere = Queue(client, "elsewhere")
    elsewhere.create()
    assert dead.redrive("elsewhere") == 2
    assert [message.body for message in elsewhere.receive()] == ["a", "b"]
    assert queue.receive() == []


def test_a_message_sent_to_the_dead_letter_queue_itself_stays_without_a_destination(queue, dead):
    dead.send("direct")
    _dead_letter(queue, "a")
    assert dead.redrive() == 1
    assert [message.body for message in dead.peek()] == ["direct"]
    assert dead.redrive("work") == 1
    assert [message.body for message in queue.receive()] == ["a", "direct"]


def test_what_is_in_flight_or_delayed_stays(queue, dead):
    _dead_letter(queue, "a", "b")
    dead.send("later", delay=900)
    (held,) = dead.receive(1)
    assert dead.redrive("work") == 1
    assert dead.stats().in_flight == dead.stats().delayed == 1
    assert dead.delete(held.receipt)


def test_no_more_than_asked_for(queue, dead):
    _dead_letter(queue, *"abcde")
    assert dead.redrive(max_messages=2) == 2
    assert [message.body for message in queue.receive()] == ["a", "b"]
    assert dead.stats().ready == 3
    assert dead.redrive(max_messages=0) == 0


def test_a_rate_is_kept(queue, dead):
    _dead_letter(queue, *"abcde")
    started = time.monotonic()
    assert dead.redrive(rate=20) == 5
    assert time.monotonic() - started >= 0.2
    for wrong in (0, 501):
        with pytest.raises(ValueError, match="rate"):
            dead.redrive(rate=wrong)


def test_one_at_a_time(queue, dead, client):
    _dead_letter(queue, "a")
    client.execute("SET", f"{dead.name}:redrive", "another", "PX", 60_000)
    with pytest.raises(Refused, match="being redriven already"):
        dead.redrive()
    client.execute("DEL", f"{dead.name}:redrive")
    assert dead.redrive() == 1
    _dead_letter(queue)
    assert dead.redrive() == 1


def test_what_is_dead_lettered_meanwhile_stays(queue, dead, monkeypatch):
    """Else a redrive would go round in circles with messages that fail again at once."""
    _dead_letter(queue, *"abc")
    monkeypatch.setattr(time, "sleep", lambda _: dead.send("meanwhile"))
    assert dead.redrive("work", rate=10) == 3
    assert {message.body for message in dead.peek()} == {"meanwhile"}


def test_more_than_one_step_of_messages(queue, dead):
    for number in range(0, 1200, 10):
        dead.send_batch([str(number + place) for place in range(10)])
    assert dead.redrive("work") == 1200
    assert [message.body for message in queue.receive(2000)] == [*map(str, range(1200))]
    assert dead.stats().ready == 0


def test_only_a_dead_letter_queue_can_be_redriven(queue, dead, client):
    with pytest.raises(Refused, match="not the dead-letter queue of any queue") as refusal:
        queue.redrive()
    assert refusal.value.code == "InvalidParameterValue"
    queue.create(max_receive_count=3, dead_letter_queue="another-dead")
    with pytest.raises(Refused):  # it was one before
        dead.redrive()


def test_a_waiting_receiver_of_the_source_wakes(server, queue, dead, client, wait_until):
    import threading

    from local_sqs import Client

    _dead_letter(queue, "a")
    got = []

    def receive():
        with Queue(Client(port=server.port), "work") as waiting:
            got.extend(waiting.receive(wait=20))

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    wait_until(
        lambda: "blocked_clients:1\r" in client.execute("INFO", "clients").decode(), "a waiter"
    )
    dead.redrive()
    thread.join(10)
    assert [message.body for message in got] == ["a"]


def test_a_fifo_queue_keeps_group_order_and_deduplication_id(client):
    queue = Queue(client, "work.fifo")
    queue.create(
        fifo=True,
        content_based_deduplication=True,
        max_receive_count=3,
        dead_letter_queue="dead.fifo",
    )
    dead = Queue(client, "dead.fifo")
    ids = _dead_letter(queue, "1", "2", "3")
    letters = dead.peek()
    assert [letter.body for letter in letters] == ["1", "2", "3"]
    assert dead.redrive(max_messages=2) == 2
    assert dead.redrive() == 1
    messages = queue.receive()
    assert [(message.body, message.group_id) for message in messages] == [
        ("1", "g"),
        ("2", "g"),
        ("3", "g"),
    ]
    assert {message.id for message in messages}.isdisjoint(ids)
    assert messages[0].deduplication_id == letters[0].deduplication_id
    with pytest.raises(ValueError, match="FIFO"):
        dead.redrive("work")
    with pytest.raises(ValueError, match="FIFO"):
        Queue(client, "work-dead").redrive("work.fifo")


def test_a_fifo_message_is_not_moved_past_one_of_its_group_that_stays(client):
    queue = Queue(client, "work.fifo")
    queue.create(
        fifo=True,
        content_based_deduplication=True,
        max_receive_count=3,
        dead_letter_queue="dead.fifo",
    )
    dead = Queue(client, "dead.fifo")
    dead.send("direct", group_id="g", deduplication_id="direct")
    _dead_letter(queue, "1")
    assert dead.redrive() == 0
    assert [letter.body for letter in dead.peek()] == ["direct", "1"]
    (held, _) = dead.receive()
    assert dead.redrive("work.fifo") == 0  # the group is in flight
    assert dead.change_visibility(held.receipt, 0)
