"""FIFO queues against SQS's rules."""

import hashlib
import json
import threading

import pytest
from local_sqs import Client, Entry, Queue, Refused, advance_clock
from local_sqs.event import event, queue_arn

FIVE_MINUTES = 300


@pytest.fixture
def fifo(client):
    """Deduplicates by content; a dead-letter queue after three receives; visibility timeout 30 s."""
    queue = Queue(client, "work.fifo")
    queue.create(
        fifo=True,
        content_based_deduplication=True,
        max_receive_count=3,
        dead_letter_queue="dead.fifo",
    )
    return queue


@pytest.fixture
def dead(client):
    return Queue(client, "dead.fifo")


def _send(queue, *bodies):
    """Send bodies of the form `<group><number>`."""
    ids, failed = queue.send_batch([Entry(body, group_id=body[0]) for body in bodies])
    assert failed == []
    return ids


def _bodies(messages):
    return [message.body for message in messages]


def _leftovers(client, name):
    """The keys of an empty queue that should not be there."""
    kept = {"attributes", "sources", "sequence", "duplicates", "duplicates_end"}
    keys = [key.decode() for key in client.execute("KEYS", f"{name}:*")]
    return [key for key in keys if key.rpartition(":")[2] not in kept]


# Order and groups


def test_a_group_is_received_in_the_order_in_which_it_was_sent(fifo, client):
    _send(fifo, *(f"a{number}" for number in range(10)))
    fifo.send("a10", group_id="a")
    client.execute("RPUSH", "work.fifo", '{"$message": {"body": "a11", "group_id": "a"}}')
    seen = []
    while messages := fifo.receive(5):
        seen += _bodies(messages)
        assert all(fifo.delete_batch(message.receipt for message in messages))
    assert seen == [f"a{number}" for number in range(12)]
    assert _leftovers(client, "work.fifo") == []


def test_a_group_is_blocked_while_one_of_its_messages_is_in_flight(fifo):
    _send(fifo, "a1", "a2", "a3", "b1")
    (first,) = fifo.receive(1)
    assert first.body == "a1"
    assert _bodies(fifo.receive()) == ["b1"]
    assert fifo.receive() == []
    assert fifo.delete(first.receipt)
    second, third = fifo.receive()
    assert (second.body, third.body) == ("a2", "a3")
    _send(fifo, "a4")
    assert fifo.delete(second.receipt)
    assert fifo.receive() == []  # a3 is still in flight
    assert fifo.delete(third.receipt)
    assert _bodies(fifo.receive()) == ["a4"]


def test_a_failed_message_blocks_the_rest_of_its_group_until_its_visibility_timeout(fifo, client):
    _send(fifo, "a1", "a2")
    fifo.receive(1)
    advance_clock(client, 29)
    assert fifo.receive() == []
    advance_clock(client, 1)
    again = fifo.receive()
    assert _bodies(again) == ["a1", "a2"]
    assert [message.receive_count for message in again] == [2, 1]


def test_change_visibility_decides_when_the_group_goes_on(fifo, client):
    _send(fifo, "a1", "a2")
    (first,) = fifo.receive(1)
    assert fifo.change_visibility(first.receipt, 100)
    advance_clock(client, 99)
    assert fifo.receive() == []
    assert fifo.change_visibility(first.receipt, 0)
    assert _bodies(fifo.receive()) == ["a1", "a2"]


def test_a_group_waits_for_all_its_messages_that_are_in_flight(fifo, client):
    _send(fifo, "a1", "a2", "a3")
    first, second = fifo.receive(2)
    assert fifo.change_visibility(first.receipt, 0)
    assert fifo.receive() == []  # a1 is back, a2 is not
    assert fifo.delete(second.receipt)
    assert _bodies(fifo.receive()) == ["a1", "a3"]


def test_a_batch_comes_from_as_few_groups_as_possible(fifo):
    _send(fifo, "a1", "b1", "a2", "b2", "c1", "a3")
    assert _bodies(fifo.receive(3)) == ["a1", "a2", "a3"]
    assert _bodies(fifo.receive(3)) == ["b1", "b2", "c1"]


def test_several_groups_in_one_batch_each_in_order(fifo):
    _send(fifo, "b1", "a1", "b2", "a2", "c1")
    received = _bodies(fifo.receive(10))
    assert received == ["b1", "b2", "a1", "a2", "c1"]


def test_the_group_that_waits_longest_is_served_first(fifo):
    _send(fifo, "a1", "a2", "b1")
    (first,) = fifo.receive(1)
    fifo.delete(first.receipt)
    assert _bodies(fifo.receive(1)) == ["b1"]
    assert _bodies(fifo.receive(1)) == ["a2"]


def test_groups_whose_names_are_alike_are_different_groups(fifo):
    names = ["a", "a!", "aa", "a-1", "A", "~"]
    for name in names:
        fifo.send(name, group_id=name)
    for name in names:
        assert _bodies(fifo.receive(1)) == [name]


def test_a_receive_takes_at_most_ten(fifo):
    with pytest.raises(ValueError, match="max_messages must be between 1 and 10"):
        fifo.receive(11)


def test_two_receivers_never_share_a_group(server, fifo):
    numbers = range(60)
    for start in range(0, 60, 10):
        _send(fifo, *(f"{'abc'[number % 3]}{number}" for number in numbers[start : start + 10]))
    lock = threading.Lock()
    busy: set[str] = set()
    seen: list[str] = []
    clashes: list[str] = []

    def work():
        with Queue(Client(port=server.port), "work.fifo") as mine:
            while messages := mine.receive(2, wait=0.2):
                groups = {str(message.group_id) for message in messages}
                with lock:
                    clashes.extend(groups & busy)
                    busy.update(groups)
                with lock:
                    seen.extend(_bodies(messages))
                    busy.difference_update(groups)
                mine.delete_batch(message.receipt for message in messages)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert clashes == []
    for place, group in enumerate("abc"):
        mine = [int(body[1:]) for body in seen if body[0] == group]
        assert mine == list(range(place, 60, 3))


def test_the_queue_s_delay_holds_for_each_message_and_keeps_the_order(fifo, client):
    fifo.create(fifo=True, content_based_deduplication=True, delay=10)
    _send(fifo, "a1")
    advance_clock(client, 5)
    _send(fifo, "a2")
    stats = fifo.stats()
    assert (stats.ready, stats.delayed) == (0, 2)
    assert fifo.receive() == []
    advance_clock(client, 5)
    (first,) = fifo.receive()
    assert first.body == "a1"
    assert fifo.delete(first.receipt)
    assert fifo.receive() == []  # a2 is still delayed
    advance_clock(client, 5)
    assert _bodies(fifo.receive()) == ["a2"]


# Deduplication


def test_a_duplicate_is_accepted_with_the_original_s_id_and_not_enqueued(client):
    queue = Queue(client, "work.fifo")
    queue.create(fifo=True)
    first = queue.send("one", group_id="a", deduplication_id="d")
    assert queue.send("another", group_id="b", deduplication_id="d") == first
    (message,) = queue.receive()
    assert (message.id, message.body, message.group_id) == (first, "one", "a")
    assert message.deduplication_id == "d"


def test_duplicates_within_one_batch(client):
    queue = Queue(client, "work.fifo")
    queue.create(fifo=True)
    entries = [Entry(body, group_id="a", deduplication_id="d") for body in ("one", "two")]
    (first, second), failed = queue.send_batch(entries)
    assert (first, failed) == (second, [])
    assert queue.stats().ready == 1


def test_deduplication_lasts_five_minutes_from_the_original(fifo, client):
    first = fifo.send("a", group_id="a")
    advance_clock(client, FIVE_MINUTES - 10)
    assert fifo.send("a", group_id="a") == first  # and this does not make it longer
    advance_clock(client, 10)
    assert fifo.send("a", group_id="a") != first
    assert fifo.stats().ready == 2


def test_deduplication_ends_after_five_minutes_for_however_many_messages(fifo, client):
    client.execute("RPUSH", "work.fifo", *map(str, range(3000)))
    assert fifo.stats().ready == 3000
    advance_clock(client, FIVE_MINUTES)
    again = [Entry(str(number), group_id="again") for number in range(0, 3000, 300)]
    ids, failed = fifo.send_batch(again)
    assert (len(set(ids)), failed) == (10, [])
    assert fifo.stats().ready == 3010


def test_deduplication_outlives_the_message(fifo):
    first = fifo.send("a", group_id="a")
    (message,) = fifo.receive()
    assert fifo.delete(message.receipt)
    assert fifo.send("a", group_id="a") == first
    assert fifo.receive() == []


def test_content_based_deduplication_is_by_the_sha_256_of_the_body_alone(fifo):
    first = fifo.send("Grüße", group_id="a", attributes={"k": "v"})
    assert fifo.send("Grüße", group_id="b", attributes={"k": "w"}) == first
    (message,) = fifo.receive()
    assert message.deduplication_id == hashlib.sha256("Grüße".encode()).hexdigest()


def test_an_id_given_overrides_content_based_deduplication(fifo):
    first = fifo.send("a", group_id="a")
    assert fifo.send("a", group_id="a", deduplication_id="other") != first
    assert fifo.stats().ready == 2


def test_a_send_that_is_repeated_after_a_lost_answer_enqueues_once(fifo):
    arguments = ("an-id", "body", "a", "d", "", '{"group_id": "a", "deduplication_id": "d"}')
    for _ in range(2):
        ((identifier, _number),) = fifo.client.run(fifo._scripts.send, "work.fifo", "", *arguments)
        assert identifier == b"an-id"
    assert fifo.stats().ready == 1


# Pushed messages


def test_a_bare_body_belongs_to_the_default_group_in_order(fifo, client):
    client.execute("RPUSH", "work.fifo", "one", "two")
    first, second = fifo.receive()
    assert (first.body, second.body) == ("one", "two")
    assert first.group_id == second.group_id == "default"


@pytest.mark.parametrize("size", [1, 55, 56, 64, 5000])
def test_a_pushed_body_is_deduplicated_by_content_as_a_sent_one(fifo, client, size):
    body = "ü" * size
    sent = fifo.send(body, group_id="a")
    client.execute("RPUSH", "work.fifo", body, body)
    (message,) = fifo.receive()
    assert message.id == sent
    assert fifo.stats().ready == 0


def test_without_content_based_deduplication_each_pushed_body_is_a_message(client):
    queue = Queue(client, "work.fifo")
    queue.create(fifo=True)
    client.execute("RPUSH", "work.fifo", "same", "same")
    first, second = queue.receive()
    assert first.deduplication_id == first.id != second.id


def test_an_envelope_names_group_and_deduplication_id(fifo, client):
    envelope = {"body": "text", "group_id": "a", "deduplication_id": "d", "attributes": {}}
    for _ in range(2):
        client.execute("RPUSH", "work.fifo", json.dumps({"$message": envelope}))
    (message,) = fifo.receive()
    assert (message.body, message.group_id, message.deduplication_id) == ("text", "a", "d")


@pytest.mark.parametrize(
    "envelope",
    [
        '{"$message": {"body": "a", "group_id": "with space"}}',
        '{"$message": {"body": "a", "group_id": ""}}',
        '{"$message": {"body": "a", "group_id": "%s"}}' % ("g" * 129),
        '{"$message": {"body": "a", "group_id": "a", "delay": 1}}',
    ],
)
def test_an_envelope_that_sqs_would_refuse_is_a_plain_body(fifo, client, envelope):
    client.execute("RPUSH", "work.fifo", envelope)
    (message,) = fifo.receive()
    assert (message.body, message.group_id) == (envelope, "default")


# What SQS refuses


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (Entry("a"), "MissingParameter"),
        (Entry("a", group_id=""), "InvalidParameterValue"),
        (Entry("a", group_id="g" * 129), "InvalidParameterValue"),
        (Entry("a", group_id="with space"), "InvalidParameterValue"),
        (Entry("a", group_id="ü"), "InvalidParameterValue"),
        (Entry("a", group_id="a", deduplication_id=""), "InvalidParameterValue"),
        (Entry("a", group_id="a", deduplication_id="d" * 129), "InvalidParameterValue"),
        (Entry("a", group_id="a", delay=1), "InvalidParameterValue"),
    ],
)
def test_a_message_that_a_fifo_queue_refuses(fifo, entry, code):
    with pytest.raises(Refused) as refusal:
        fifo.send(
            entry.body,
            delay=entry.delay,
            group_id=entry.group_id,
            deduplication_id=entry.deduplication_id,
        )
    assert refusal.value.code == code
    ids, failed = fifo.send_batch([entry, Entry("good", group_id="a")])
    assert [bool(identifier) for identifier in ids] == [False, True]
    assert [(failure.index, failure.code) for failure in failed] == [(0, code)]


def test_a_message_without_any_deduplication_id_is_refused(client):
    queue = Queue(client, "work.fifo")
    queue.create(fifo=True)
    with pytest.raises(Refused, match="ContentBasedDeduplication") as refusal:
        queue.send("a", group_id="a")
    assert refusal.value.code == "InvalidParameterValue"
    entries = [Entry("a", group_id="a"), Entry("b", group_id="a", deduplication_id="d"), Entry("c")]
    ids, failed = queue.send_batch(entries)
    assert [bool(identifier) for identifier in ids] == [False, True, False]
    assert [failure.index for failure in failed] == [0, 2]
    assert _bodies(queue.receive()) == ["b"]


def test_a_delay_of_zero_and_the_longest_ids_pass(fifo):
    longest = "".join(map(chr, range(33, 127))).ljust(128, "x")
    fifo.send("a", group_id=longest, deduplication_id=longest, delay=0)
    (message,) = fifo.receive()
    assert message.group_id == message.deduplication_id == longest


def test_a_standard_queue_knows_no_deduplication_id(queue):
    with pytest.raises(Refused) as refusal:
        queue.send("a", deduplication_id="d")
    assert refusal.value.code == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("work", {"fifo": True}),
        ("work.fifo", {}),
        ("work", {"content_based_deduplication": True}),
        ("work.fifo", {"fifo": True, "max_receive_count": 1, "dead_letter_queue": "dead"}),
        ("work", {"max_receive_count": 1, "dead_letter_queue": "dead.fifo"}),
    ],
)
def test_fifo_queues_and_no_others_have_the_suffix_and_a_fifo_dead_letter_queue(
    client, name, attributes
):
    with pytest.raises(ValueError, match=r"FIFO|\.fifo"):
        Queue(client, name).create(**attributes)


# Receipts


def test_a_handle_expires_with_the_visibility_timeout(fifo, client):
    _send(fifo, "a1")
    (message,) = fifo.receive()
    advance_clock(client, 30)
    assert not fifo.delete(message.receipt)  # "The receipt handle has expired"
    assert not fifo.change_visibility(message.receipt, 10)
    (again,) = fifo.receive()
    assert not fifo.delete(message.receipt)
    assert fifo.delete(again.receipt)
    assert not fifo.delete(again.receipt)
    assert fifo.delete_batch(["", "x.y"]) == [False, False]


# Dead letters


def test_a_dead_letter_keeps_id_group_and_attributes_and_lets_the_rest_overtake_it(
    fifo, client, dead
):
    sent = fifo.send("a1", group_id="a", attributes={"k": "v"})
    _send(fifo, "a2")
    for _ in range(3):
        (first,) = fifo.receive(1)
        assert first.body == "a1"
        advance_clock(client, 30)
    assert _bodies(fifo.receive()) == ["a2"]
    (letter,) = dead.receive()
    assert (letter.id, letter.body, letter.group_id) == (sent, "a1", "a")
    assert letter.attributes == first.attributes
    assert letter.deduplication_id == first.deduplication_id
    assert letter.dead_letter_source == "work.fifo"
    assert letter.receive_count == 4
    assert letter.sequence_number is not None


def test_dead_letters_of_a_group_keep_their_order(fifo, client, dead):
    _send(fifo, "a1", "a2", "b1")
    for _ in range(3):
        fifo.receive()
        advance_clock(client, 30)
    assert fifo.receive() == []
    assert _bodies(dead.receive()) == ["a1", "a2", "b1"]
    assert _leftovers(client, "work.fifo") == []


def test_a_fifo_dead_letter_gets_a_new_enqueue_time(fifo, client, dead):
    _send(fifo, "a1")
    for _ in range(3):
        (message,) = fifo.receive()
        advance_clock(client, 86_400)
    assert fifo.receive() == []
    (letter,) = dead.peek()
    assert letter.sent_timestamp >= message.sent_timestamp + 3 * 86_400_000
    advance_clock(client, 14 * 86_400 - 60)
    assert len(dead.peek()) == 1
    advance_clock(client, 60)
    assert dead.peek() == []
    assert _leftovers(client, "dead.fifo") == []


# Retention, looking and clearing


def test_retention_drops_a_message_in_whatever_state_and_frees_its_group(fifo, client):
    fifo.create(
        fifo=True, content_based_deduplication=True, retention=60, visibility_timeout=43_200
    )
    _send(fifo, "a1", "b1")
    assert _bodies(fifo.receive(1)) == ["a1"]
    advance_clock(client, 30)
    _send(fifo, "a2")
    advance_clock(client, 30)
    assert _bodies(fifo.receive()) == ["a2"]
    advance_clock(client, 30)
    assert fifo.stats().in_flight == 0
    assert _leftovers(client, "work.fifo") == []


def test_stats_count_each_message_once_and_a_blocked_one_as_ready(fifo, client):
    _send(fifo, "a1", "a2", "b1")
    client.execute("RPUSH", "work.fifo", "pushed")
    fifo.receive(1)
    advance_clock(client, 10)
    stats = fifo.stats()
    assert (stats.ready, stats.in_flight, stats.delayed) == (3, 1, 0)
    assert 10 <= stats.oldest_age_seconds < 40


def test_peek_shows_all_groups_in_the_order_of_sending_and_changes_nothing(fifo):
    _send(fifo, "b1", "a1", "b2")
    assert _bodies(fifo.peek(2)) == ["b1", "a1"]
    assert [message.receive_count for message in fifo.receive()] == [1, 1, 1]
    _send(fifo, "b3")
    assert _bodies(fifo.peek()) == ["b3"]


def test_purge_removes_everything_but_the_attributes(fifo, client):
    first, *_ = _send(fifo, "a1", "a2", "b1")
    fifo.receive(1)
    client.execute("RPUSH", "work.fifo", "pushed")
    assert fifo.purge() == 4
    assert _leftovers(client, "work.fifo") == []
    (again,) = _send(fifo, "a1")
    assert again != first
    assert _bodies(fifo.receive()) == ["a1"]


def test_a_body_deleted_by_hand_does_not_stop_its_group(fifo, client):
    first, _ = _send(fifo, "a1", "a2")
    client.execute("HDEL", "work.fifo:body", first)
    assert _bodies(fifo.receive()) == ["a2"]


def test_more_pushed_messages_than_one_look_adopts(fifo, client):
    client.execute("RPUSH", "work.fifo", *map(str, range(1500)))
    assert fifo.stats().ready == 1500
    seen = []
    while messages := fifo.receive():
        seen += _bodies(messages)
        fifo.delete_batch(message.receipt for message in messages)
    assert seen == [*map(str, range(1500))]


@pytest.mark.parametrize("pushed", [1, 2500])
def test_what_was_pushed_is_not_overtaken_by_what_is_sent_later(fifo, client, pushed):
    client.execute("RPUSH", "work.fifo", *map(str, range(pushed)))
    fifo.send("sent", group_id="default")
    client.execute("RPUSH", "work.fifo", "pushed last")
    seen = []
    while messages := fifo.receive():
        seen += _bodies(messages)
        fifo.delete_batch(message.receipt for message in messages)
    assert seen == [*map(str, range(pushed)), "sent", "pushed last"]


def test_a_send_is_a_duplicate_of_what_was_pushed_before(fifo, client):
    client.execute("RPUSH", "work.fifo", "same")
    sent = fifo.send("same", group_id="another")
    (message,) = fifo.receive()
    assert (message.id, message.group_id) == (sent, "default")


@pytest.mark.parametrize("look", ["receive", "peek", "stats"])
def test_nothing_past_its_retention_is_shown_or_counted_however_much_expires(fifo, client, look):
    fifo.create(fifo=True, content_based_deduplication=True, retention=60)
    client.execute("RPUSH", "work.fifo", *map(str, range(2500)))
    assert fifo.stats().ready == 2500
    advance_clock(client, 60)
    if look == "stats":
        stats = fifo.stats()
        assert (stats.ready, stats.oldest_age_seconds) == (0, 0)
    else:
        assert getattr(fifo, look)() == []
    assert _leftovers(client, "work.fifo") == []


def test_all_flights_return_however_many_end_at_once(fifo, client):
    bodies = [f"{number}" for number in range(1500)]
    envelopes = [json.dumps({"$message": {"body": body, "group_id": body}}) for body in bodies]
    client.execute("RPUSH", "work.fifo", *envelopes)
    while fifo.receive():
        pass
    assert fifo.stats().in_flight == 1500
    advance_clock(client, 30)
    stats = fifo.stats()
    assert (stats.ready, stats.in_flight) == (1500, 0)


@pytest.mark.parametrize("how", ["send", "push", "delete", "change_visibility", "advance_clock"])
def test_a_waiting_receiver_wakes_at_once(server, fifo, client, wait_until, how):
    fifo.create(fifo=True, content_based_deduplication=True, visibility_timeout=1000)
    receipt = ""
    if how not in ("send", "push"):
        _send(fifo, "a1", "a2")
        receipt = fifo.receive(1)[0].receipt
    got = []

    def receive():
        with Queue(Client(port=server.port), "work.fifo") as waiting:
            got.append(waiting.receive(1, wait=20))

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    wait_until(
        lambda: "blocked_clients:1\r" in client.execute("INFO", "clients").decode(), "a waiter"
    )
    if how == "send":
        _send(fifo, "a1")
    elif how == "push":
        client.execute("RPUSH", "work.fifo", "a1")
    elif how == "delete":
        assert fifo.delete(receipt)
    elif how == "change_visibility":
        assert fifo.change_visibility(receipt, 0)
    else:
        advance_clock(client, 1000)
    thread.join(10)
    assert _bodies(got[0]) == ["a2" if how == "delete" else "a1"]


# Sequence numbers and the event


def test_sequence_numbers_have_twenty_digits_and_increase(fifo):
    _send(fifo, "a1", "b1")
    fifo.purge()
    _send(fifo, "a2")
    _send(fifo, "a3")
    numbers = [message.sequence_number for message in fifo.receive()]
    assert all(len(number) == 20 and number.isdecimal() for number in numbers)
    assert int(numbers[0]) < int(numbers[1])
    assert int(numbers[0]) > 10**19 + 2


def test_the_event_has_group_deduplication_id_and_sequence_number(fifo):
    fifo.send("Hi", group_id="a", deduplication_id="d")
    (message,) = fifo.receive()
    (record,) = event([message], queue_arn("work.fifo"))["Records"]
    assert record["attributes"] == {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": str(message.sent_timestamp),
        "SenderId": "000000000000",
        "ApproximateFirstReceiveTimestamp": str(message.first_receive_timestamp),
        "MessageGroupId": "a",
        "MessageDeduplicationId": "d",
        "SequenceNumber": message.sequence_number,
    }
    assert "messageAttributes" in record
    assert record["messageAttributes"] == {}
