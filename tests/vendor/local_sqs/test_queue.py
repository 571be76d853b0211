"""The queue against SQS's rules."""

import json
import threading
import time

import pytest
from local_sqs import (
    Client,
    ConnectionLost,
    Entry,
    MessageAttribute,
    Queue,
    Refused,
    advance_clock,
    read_clock,
)
from local_sqs.event import event, queue_arn


@pytest.fixture
def dead(client):
    return Queue(client, "work-dead")


def _leftovers(client, name):
    """The keys of a queue that hold messages, or what is left of them."""
    kinds = ("body", "state", "details", "ready", "delayed", "in_flight")
    return [kind for kind in kinds if client.execute("EXISTS", f"{name}:{kind}")]


def test_a_message_is_received_as_it_was_sent(queue):
    before = read_clock(queue.client)
    sent = queue.send("Grüße\n", attributes={"trace": "1"}, group_id="g")
    (message,) = queue.receive()
    after = read_clock(queue.client)
    assert message.id == sent
    assert message.body == "Grüße\n"
    assert message.receive_count == 1
    assert (
        before <= message.sent_timestamp / 1000 <= message.first_receive_timestamp / 1000 <= after
    )
    assert message.attributes == {"trace": MessageAttribute("String", "1")}
    assert (message.group_id, message.deduplication_id) == ("g", None)


def test_ids_are_uuids_however_a_message_was_sent(queue, client):
    queue.send("a")
    queue.send_batch(["b"])
    client.execute("RPUSH", "work", "c")
    import uuid

    messages = queue.receive()
    assert [message.body for message in messages] == ["a", "b", "c"]
    for message in messages:
        parsed = uuid.UUID(message.id)
        assert (str(parsed), parsed.version) == (message.id, 4)
    assert len({message.id for message in messages}) == 3


def test_a_received_message_is_hidden_until_its_visibility_timeout_ends(queue, client):
    queue.send("a")
    (first,) = queue.receive()
    advance_clock(client, 29)
    assert queue.receive() == []
    advance_clock(client, 1)
    (second,) = queue.receive()
    assert second.id == first.id
    assert second.receive_count == 2
    assert second.sent_timestamp == first.sent_timestamp
    assert second.first_receive_timestamp == first.first_receive_timestamp


def test_a_receive_may_set_its_own_visibility_timeout(queue, client):
    queue.send("a")
    queue.receive(visibility_timeout=100)
    advance_clock(client, 99)
    assert queue.receive() == []
    advance_clock(client, 1)
    assert len(queue.receive(visibility_timeout=0)) == 1
    assert len(queue.receive()) == 1


def test_only_the_newest_receipt_handle_deletes(queue, client):
    queue.send("a")
    (first,) = queue.receive()
    advance_clock(client, 30)
    (second,) = queue.receive()
    assert not queue.delete(first.receipt)
    assert queue.stats().in_flight == 1
    assert queue.delete(second.receipt)
    assert not queue.delete(second.receipt)
    assert queue.stats().in_flight == 0


def test_a_handle_deletes_after_its_timeout_while_nobody_else_received(queue, client):
    queue.send("a")
    (message,) = queue.receive()
    advance_clock(client, 60)
    assert queue.stats().ready == 1
    assert queue.delete(message.receipt)
    assert queue.receive() == []


@pytest.mark.parametrize("receipt", ["", "nonsense", "a.b", "work.0"])
def test_an_unknown_receipt_handle_changes_nothing(queue, receipt):
    queue.send("a")
    assert not queue.delete(receipt)
    assert not queue.change_visibility(receipt, 5)
    assert len(queue.receive()) == 1


def test_delete_batch_answers_for_each(queue):
    queue.send_batch(["a", "b"])
    first, second = queue.receive()
    assert queue.delete_batch([first.receipt, "x.y", second.receipt]) == [True, False, True]
    assert queue.delete_batch([]) == []


def test_change_visibility_moves_the_deadline_from_now(queue, client):
    queue.send("a")
    (message,) = queue.receive()
    advance_clock(client, 20)
    assert queue.change_visibility(message.receipt, 50)
    advance_clock(client, 49)
    assert queue.receive() == []
    advance_clock(client, 1)
    (again,) = queue.receive()
    assert again.receive_count == 2
    assert queue.change_visibility(again.receipt, 0)
    assert len(queue.receive()) == 1


def test_change_visibility_is_refused_when_not_in_flight_or_not_ours(queue, client):
    queue.send("a")
    (message,) = queue.receive()
    advance_clock(client, 30)
    assert not queue.change_visibility(message.receipt, 5)  # SQS: MessageNotInflight
    (again,) = queue.receive()
    assert not queue.change_visibility(message.receipt, 5)
    assert queue.change_visibility(again.receipt, 43_200)
    with pytest.raises(ValueError, match="between 0 and 43200"):
        queue.change_visibility(again.receipt, 43_201)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_dead_lettered_after_exactly_max_receive_count_deliveries(queue, client, dead, most):
    queue.create(max_receive_count=most, dead_letter_queue="work-dead")
    sent = queue.send("a", attributes={"k": "v"}, group_id="g")
    for count in range(1, most + 1):
        (message,) = queue.receive()
        assert message.receive_count == count
        assert dead.stats().ready == 0
        advance_clock(client, 30)
    assert queue.receive() == []
    assert queue.stats().ready == 0
    (letter,) = dead.receive()
    assert letter.id == sent
    assert letter.sent_timestamp == message.sent_timestamp
    assert (letter.body, letter.attributes, letter.group_id) == ("a", message.attributes, "g")
    assert letter.dead_letter_source == "work"
    assert letter.receive_count == most + 1
    assert not queue.delete(message.receipt)


def test_without_a_dead_letter_queue_a_message_returns_for_ever(client):
    queue = Queue(client, "plain")
    queue.send("a")
    for count in range(1, 20):
        (message,) = queue.receive()
        assert message.receive_count == count
        advance_clock(client, 30)


def test_a_dead_letter_queue_keeps_messages_for_fourteen_days_from_enqueueing(queue, client, dead):
    queue.create(max_receive_count=1, dead_letter_queue="work-dead")
    queue.send("a")
    queue.receive()
    advance_clock(client, 3 * 86_400)
    assert queue.receive() == []
    advance_clock(client, 11 * 86_400 - 60)
    assert len(dead.peek()) == 1
    advance_clock(client, 60)
    assert dead.peek() == []
    assert _leftovers(client, "work") + _leftovers(client, "work-dead") == []


def test_retention_drops_a_message_in_whatever_state_it_is(queue, client):
    queue.create(retention=60, visibility_timeout=43_200)
    queue.send_batch(["ready", "in flight", Entry("delayed", delay=900)])
    queue.receive(1)
    advance_clock(client, 59)
    assert client.execute("HLEN", "work:state") == 3
    advance_clock(client, 1)
    stats = queue.stats()
    assert (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 0)
    assert _leftovers(client, "work") == []


def test_a_delayed_message_becomes_visible_after_its_delay(queue, client):
    queue.send("a", delay=900)
    assert queue.stats().delayed == 1
    advance_clock(client, 899)
    assert queue.receive() == []
    advance_clock(client, 1)
    assert len(queue.receive()) == 1


def test_the_queue_s_own_delay_holds_unless_a_message_names_another(queue, client):
    queue.create(delay=10)
    queue.send("queue's")
    queue.send("none", delay=0)
    client.execute("RPUSH", "work", "pushed")
    assert [message.body for message in queue.receive()] == ["none"]
    advance_clock(client, 10)
    assert {message.body for message in queue.receive()} == {"queue's", "pushed"}


# The inbox and the envelope


def test_anything_pushed_by_hand_is_a_message(queue, client):
    bodies = ["plain", '{"type": "statement"}', "[]", "7", '"$message"', " ", "{", '{"$message": ']
    client.execute("RPUSH", "work", *bodies)
    received = queue.receive()
    assert [message.body for message in received] == bodies
    assert all(message.receive_count == 1 for message in received)


def test_bytes_that_are_not_text_reach_the_receiver(queue, client):
    client.execute("RPUSH", "work", b"\xff\x00{")
    (message,) = queue.receive()
    assert message.body == "\\xff\x00{"
    assert queue.delete(message.receipt)


def test_an_empty_element_is_a_wake_up_and_no_message(queue, client):
    client.execute("RPUSH", "work", "", "a", "")
    assert [message.body for message in queue.receive()] == ["a"]
    assert queue.stats().ready == 0


def test_an_envelope_adds_what_a_bare_body_cannot_say(queue, client):
    envelope = {
        "body": '{"type": "statement"}',
        "attributes": {
            "name": {"dataType": "String", "stringValue": "Zoë"},
            "bytes": {"dataType": "Binary.png", "binaryValue": "AAECAw=="},
        },
        "group_id": "g",
        "delay": 1.5,
    }
    client.execute("RPUSH", "work", json.dumps({"$message": envelope}, indent=1))
    assert queue.receive() == []
    assert queue.stats().delayed == 1
    advance_clock(client, 1.5)
    (message,) = queue.receive()
    assert message.body == '{"type": "statement"}'
    assert message.attributes == {
        "name": MessageAttribute("String", "Zoë"),
        "bytes": MessageAttribute("Binary.png", None, "AAECAw=="),
    }
    assert message.group_id == "g"


@pytest.mark.parametrize(
    "envelope",
    [
        '{"$message": null}',
        '{"$message": "text"}',
        '{"$message": []}',
        '{"$message": {}}',
        '{"$message": {"body": ""}}',
        '{"$message": {"body": 7}}',
        '{"$message": {"body": "a"}, "more": 1}',
        '{"$message": {"body": "a", "unknown": 1}}',
        '{"$message": {"body": "a", "delay": -1}}',
        '{"$message": {"body": "a", "delay": 901}}',
        '{"$message": {"body": "a", "delay": "1"}}',
        '{"$message": {"body": "a", "group_id": 1}}',
        '{"$message": {"body": "a", "group_id": "g g"}}',
        '{"$message": {"body": "a", "deduplication_id": "d"}}',
        '{"$message": {"body": "a", "attributes": []}, "x": 1}',
        '{"$message": {"body": "a", "attributes": {"k": "v"}}}',
        '{"$message": {"body": "a", "attributes": {"k": {"dataType": "Text", "stringValue": "v"}}}}',
        '{"$message": {"body": "a", "attributes": {"k": {"dataType": "String"}}}}',
        '{"$message": {"body": "a", "attributes": {"k": {"dataType": "Binary", "binaryValue": "?"}}}}',
        '{"$message": {"body": "a"}',
        '{"$message": ' + "[" * 2000 + "]" * 2000 + "}",
    ],
)
def test_a_malformed_envelope_is_a_plain_body(queue, client, envelope):
    client.execute("RPUSH", "work", envelope)
    (message,) = queue.receive()
    assert message.body == envelope
    assert message.attributes == {}


def _with_attributes(attributes):
    return json.dumps({"$message": {"body": "a", "attributes": attributes}})


@pytest.mark.parametrize("name", ["work", "work.fifo"])
@pytest.mark.parametrize(
    "envelope",
    [
        *(
            _with_attributes({"k": attribute})
            for attribute in (
                {"dataType": "String", "stringValue": "v", "binaryValue": 5},
                {"dataType": "String", "stringValue": "v", "binaryValue": "AAAA"},
                {"dataType": "Binary", "binaryValue": "AAAA", "stringValue": 7},
                {"dataType": "Binary", "binaryValue": "AAAA", "stringValue": "v"},
                {"dataType": "Binary", "binaryValue": "A==="},
                {"dataType": "Binary", "binaryValue": "=AAA"},
                {"dataType": "Binary", "binaryValue": ""},
                {"dataType": "String", "stringValue": ""},
                {"dataType": "String", "stringValue": "\u0000"},
                {"dataType": "String", "stringValue": "\ufffe"},
                {"dataType": "String-x", "stringValue": "v"},
                {"dataType": "String." + "x" * 250, "stringValue": "v"},
                {"dataType": "String", "stringValue": "v", "more": 1},
                {"dataType": "Number", "stringValue": "x"},
                {"dataType": "Number", "stringValue": "."},
                {"dataType": "Number", "stringValue": "0x10"},
                {"dataType": "Number", "stringValue": "1" * 39},
                {"dataType": "Number", "stringValue": "1e127"},
                {"dataType": "Number", "stringValue": "-1e129"},
                {"dataType": "Number", "stringValue": "nan"},
            )
        ),
        *(
            _with_attributes({name: {"dataType": "String", "stringValue": "v"}})
            for name in ("", "k" * 257, "a b", "\u00fc", ".k", "k.", "a..b", "AWS.k", "amazon.k")
        ),
        _with_attributes(
            {f"k{number}": {"dataType": "String", "stringValue": "v"} for number in range(11)}
        ),
        _with_attributes({"k": {"dataType": "String", "stringValue": "v", "more": 0.5}}).replace(
            "0.5", "1e400"
        ),
        '{"$message": {"body": "a\\u0000"}}',
    ],
)
def test_an_envelope_with_what_send_refuses_is_a_plain_body(client, name, envelope):
    queue = Queue(client, name)
    client.execute("RPUSH", name, envelope, "next")
    first, second = queue.receive()
    assert (first.body, first.attributes, second.body) == (envelope, {}, "next")
    event([first], queue_arn(name))


@pytest.mark.parametrize("name", ["work", "work.fifo"])
def test_an_envelope_of_more_than_one_mib_with_its_attributes_is_a_plain_body(client, name):
    attributes = {
        "text": {"dataType": "String", "stringValue": "é"},
        "bytes": {"dataType": "Binary", "binaryValue": "AAECAw=="},
    }
    counted = len("text" + "String") + 2 + len("bytes" + "Binary") + 4

    def envelope(size):
        message = {"body": "a" * (size - counted), "attributes": attributes}
        return json.dumps({"$message": message})

    client.execute("RPUSH", name, envelope(1_048_576), envelope(1_048_577))
    most, more = Queue(client, name).receive()
    assert (most.body[:2], len(most.attributes)) == ("aa", 2)
    assert (more.body, more.attributes) == (envelope(1_048_577), {})


TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


@pytest.mark.parametrize("name", ["work", "work.fifo"])
@pytest.mark.parametrize("text", [TRACE, TRACE[:40], TRACE[:41]])
def test_a_trace_header_travels_along_as_aws_trace_header(client, name, text):
    queue = Queue(client, name)
    client.execute("RPUSH", name, json.dumps({"$message": {"body": "a", "trace_header": text}}))
    queue.send("b", trace_header=text, group_id="g", deduplication_id="1" if queue.fifo else None)
    messages = queue.receive()
    assert {message.body for message in messages} == {"a", "b"}
    for record in event(messages, queue_arn(name))["Records"]:
        assert record["attributes"]["AWSTraceHeader"] == text
        assert record["messageAttributes"] == {}


def test_a_trace_header_counts_neither_as_size_nor_as_an_attribute(queue):
    queue.send("a" * 1_048_576, trace_header=TRACE)
    queue.send("a", trace_header=TRACE, attributes={f"k{number}": "v" for number in range(10)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "trace",
        "Root=1",
        "Root=2" + TRACE[6:],
        TRACE[:39],
        TRACE + "é",
        TRACE + "\n",
        TRACE + ";x",
    ],
)
def test_a_trace_header_that_is_none_is_refused_and_in_an_envelope_makes_a_body(
    queue, client, text
):
    with pytest.raises(Refused, match="AWSTraceHeader"):
        queue.send("a", trace_header=text)
    envelope = json.dumps({"$message": {"body": "a", "trace_header": text}})
    client.execute("RPUSH", "work", envelope)
    (message,) = queue.receive()
    assert message.body == envelope


@pytest.mark.parametrize("name", ["work", "work.fifo"])
def test_an_envelope_with_what_send_takes_is_taken(client, name):
    attributes = {
        "Name_1-a.b": ("String.custom", "a\tb\u00fc\U0001f600", None),
        "awsome": ("String", "\ufffd", None),
        "longest": ("String." + "x" * 249, "v", None),
        "k" * 256: ("Number", "-12.50", None),
        "number": ("Number.int", "1" * 38, None),
        "zeros": ("Number", "1" + "0" * 60, None),
        "largest": ("Number", "1e126", None),
        "sign": ("Number", "+3", None),
        "bytes": ("Binary", None, "AA=="),
        "more": ("Binary.png", None, "+/8="),
    }
    envelope = _with_attributes(
        {
            name: {"dataType": kind, "stringValue": text, "binaryValue": binary}
            for name, (kind, text, binary) in attributes.items()
        }
    )
    queue = Queue(client, name)
    client.execute("RPUSH", name, envelope)
    (message,) = queue.receive()
    assert message.body == "a"
    assert message.attributes == {
        name: MessageAttribute(*values) for name, values in attributes.items()
    }


@pytest.mark.parametrize(
    "details",
    [
        '{"attributes":{"k":{"dataType":"String","stringValue":"v","binaryValue":5}},"group_id":"g"}',
        '{"attributes":{"k":{"dataType":"Binary","binaryValue":"?"}},"group_id":"g"}',
        '{"attributes":{"k":{"dataType":"String","stringValue":"v","binaryValue":"A"}},"group_id":"g"}',
        '{"attributes":7,"group_id":"g"}',
    ],
)
def test_a_stored_message_whose_attributes_are_spoilt_is_received_without_them(
    queue, client, details
):
    sent = queue.send("a")
    client.execute("HSET", "work:details", sent, details)
    (shown,) = queue.peek()
    (message,) = queue.receive()
    assert (message.id, message.body, message.attributes) == (sent, "a", {})
    assert message.group_id == shown.group_id == "g"
    event([message], queue_arn("work"))
    assert queue.delete(message.receipt)


@pytest.mark.parametrize(
    "details", ["{", "[]", '{"group_id":7}', "[" * 5000, '{"group_id":"\\ud800"}']
)
def test_a_stored_message_whose_details_are_spoilt_is_received_without_them(queue, client, details):
    sent = queue.send("a")
    client.execute("HSET", "work:details", sent, details)
    (message,) = queue.receive()
    assert (message.id, message.body, message.attributes) == (sent, "a", {})
    assert message.group_id is None


@pytest.mark.parametrize("details", ["{", "[]", "7", "null"])
@pytest.mark.parametrize("suffix", ["", ".fifo"])
def test_a_stored_message_whose_details_are_spoilt_is_dead_lettered_and_moved_back(
    client, details, suffix
):
    queue, dead = Queue(client, "work" + suffix), Queue(client, "work-dead" + suffix)
    queue.create(max_receive_count=1, dead_letter_queue=dead.name, fifo=bool(suffix))
    sent = queue.send("a", group_id="g", deduplication_id="d" if suffix else None)
    client.execute("HSET", f"{queue.name}:details", sent, details)
    assert len(queue.receive()) == 1
    advance_clock(client, 30)
    assert queue.receive() == []
    (letter,) = dead.peek()
    assert (letter.id, letter.dead_letter_source) == (sent, queue.name)
    client.execute("HSET", f"{dead.name}:details", sent, details)
    assert dead.redrive(destination=queue.name) == 1
    assert [message.body for message in queue.receive()] == ["a"]


# What SQS refuses


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (Entry(""), "MissingParameter"),
        (Entry("a\x00b"), "InvalidMessageContents"),
        (Entry("\ud800"), "InvalidMessageContents"),
        (Entry("a" * (1024 * 1024 + 1)), "InvalidParameterValue"),
        (Entry("é" * (512 * 1024 + 1)), "InvalidParameterValue"),
        (Entry("a", delay=901), "InvalidParameterValue"),
        (Entry("a", delay=-1), "InvalidParameterValue"),
        (Entry("a", attributes={str(n): "v" for n in range(11)}), "InvalidParameterValue"),
        (Entry("a", attributes={"k": ""}), "InvalidParameterValue"),
        (Entry("a", attributes={"k": MessageAttribute("Text", "v")}), "InvalidParameterValue"),
        (
            Entry("a", attributes={"k": MessageAttribute("Binary", None, "?")}),
            "InvalidParameterValue",
        ),
    ],
)
def test_a_message_that_sqs_refuses(queue, entry, code):
    with pytest.raises(Refused) as refusal:
        queue.send(entry.body, delay=entry.delay, attributes=entry.attributes)
    assert refusal.value.code == code
    if len(entry.body) < 1000:  # in a batch the others are still sent
        ids, failed = queue.send_batch(["good", entry])
        assert [bool(identifier) for identifier in ids] == [True, False]
        assert [(failure.index, failure.code) for failure in failed] == [(1, code)]
        assert [message.body for message in queue.receive()] == ["good"]


def test_the_largest_message_passes(queue):
    queue.send("é" * (512 * 1024))
    (message,) = queue.receive()
    assert len(message.body) == 512 * 1024


def test_batches_that_sqs_refuses_as_a_whole(queue):
    with pytest.raises(Refused, match="11 entries"):
        queue.send_batch(["a"] * 11)
    with pytest.raises(Refused, match="no entries"):
        queue.send_batch([])
    with pytest.raises(Refused, match="batch of"):
        queue.send_batch(["a" * 200_000] * 6)
    assert queue.stats().ready == 0


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"visibility_timeout": 43_201}, "visibility_timeout"),
        ({"retention": 59}, "retention"),
        ({"delay": 901}, "delay"),
        ({"max_receive_count": 3}, "need each other"),
        ({"dead_letter_queue": "d"}, "need each other"),
        ({"max_receive_count": 0, "dead_letter_queue": "d"}, "max_receive_count"),
        ({"max_receive_count": 1, "dead_letter_queue": "work"}, "its own"),
    ],
)
def test_attributes_that_sqs_refuses(queue, attributes, text):
    with pytest.raises(ValueError, match=text):
        queue.create(**attributes)


# Looking and clearing


def test_stats_count_each_message_once(queue, client):
    queue.send_batch(["a", "b", "c", Entry("later", delay=60)])
    client.execute("RPUSH", "work", "d")
    queue.receive(2)
    advance_clock(client, 10)
    stats = queue.stats()
    assert (stats.ready, stats.in_flight, stats.delayed) == (2, 2, 1)
    assert 10 <= stats.oldest_age_seconds < 40


def test_peek_changes_nothing(queue, client):
    client.execute("RPUSH", "work", "a", "b")
    assert [message.body for message in queue.peek(1)] == ["a"]
    first, second = queue.peek()
    assert (first.body, first.receive_count, first.receipt) == ("a", 0, "")
    assert second.body == "b"
    assert [message.receive_count for message in queue.receive()] == [1, 1]
    assert queue.peek() == []


def test_purge_removes_everything_but_the_attributes(queue, client):
    queue.send_batch(["a", "b", Entry("later", delay=60)])
    queue.receive(1)
    client.execute("RPUSH", "work", "c")
    assert queue.purge() == 4
    assert client.execute("KEYS", "work:*") == [b"work:attributes"]


def test_more_than_a_thousand_messages_at_once(queue, client):
    client.execute("RPUSH", "work", *map(str, range(2500)))
    received = queue.receive(10_000)
    assert [message.body for message in received] == [str(number) for number in range(2500)]
    assert all(queue.delete_batch(message.receipt for message in received))
    assert client.execute("KEYS", "work:*") == [b"work:attributes"]


def test_messages_keep_their_order_however_many_are_adopted_at_once(queue, client):
    client.execute("RPUSH", "work", *map(str, range(2500)))
    assert queue.stats().ready == 2500
    queue.send("last")
    bodies = [message.body for _ in range(251) for message in queue.receive()]
    assert bodies == [*map(str, range(2500)), "last"]


def test_a_body_deleted_by_hand_does_not_stop_the_queue(queue, client):
    gone = queue.send("a")
    queue.send("b")
    client.execute("HDEL", "work:body", gone)
    assert [message.body for message in queue.receive()] == ["b"]


# Waiting


def _in_a_thread(action):
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def _blocked(client, wait_until, number=1):
    """Wait until somebody blocks in Redis."""
    line = f"blocked_clients:{number}\r"
    wait_until(lambda: line in client.execute("INFO", "clients").decode(), "a blocked client")


@pytest.mark.parametrize(
    "how", ["push", "send", "change_visibility", "advance_clock", "dead-letter"]
)
def test_a_waiting_receiver_wakes_at_once(server, queue, client, dead, wait_until, how):
    got = []
    queue.create(visibility_timeout=1000, max_receive_count=1, dead_letter_queue="work-dead")
    if how != "dead-letter":
        queue.create(visibility_timeout=1000)
    receipt = ""
    if how not in ("push", "send"):
        queue.send("a")
        receipt = queue.receive()[0].receipt
    name = "work-dead" if how == "dead-letter" else "work"

    def receive():
        with Queue(Client(port=server.port), name) as waiting:
            got.append((waiting.receive(wait=20), time.monotonic()))

    thread = _in_a_thread(receive)
    _blocked(client, wait_until)
    started = time.monotonic()
    if how == "push":
        client.execute("RPUSH", "work", "a")
    elif how == "send":
        queue.send("a")
    elif how == "change_visibility":
        assert queue.change_visibility(receipt, 0)
    elif how == "advance_clock":
        advance_clock(client, 1000)
    else:
        advance_clock(client, 1000)
        queue.receive()
    thread.join(10)
    ((messages, at),) = got
    assert [message.body for message in messages] == ["a"]
    assert at - started < 10


def test_a_waiting_receiver_wakes_at_the_next_deadline(queue):
    started = time.monotonic()
    queue.send("a", delay=0.15)
    assert len(queue.receive(wait=60)) == 1
    assert 0.14 < time.monotonic() - started < 30


def test_a_waiting_receiver_learns_of_deadlines_that_others_made(server, queue, client, wait_until):
    queue.create(visibility_timeout=0.2)
    got = []

    def receive():
        with Queue(Client(port=server.port), "work") as waiting:
            got.append(waiting.receive(wait=20))

    thread = _in_a_thread(receive)
    _blocked(client, wait_until)
    # Somebody took a message in the instant between the waiter's look and its wait: it sees no push.
    now = round(read_clock(client) * 1000)
    client.execute("HSET", "work:body", "an-id", "a")
    client.execute("HSET", "work:state", "an-id", now)
    client.execute("ZADD", "work:in_flight", (now + 200) * 1000, "an-id")
    thread.join(10)
    assert [message.body for message in got[0]] == ["a"]


def test_an_empty_wait_ends_in_time(queue):
    started = time.monotonic()
    assert queue.receive(wait=0.1) == []
    assert time.monotonic() - started >= 0.1


def test_two_receivers_share_without_overlap(server, queue, client, wait_until):
    taken: list[str] = []

    def receive():
        with Queue(Client(port=server.port), "work") as mine:
            while len(taken) < 200:
                for message in mine.receive(3, wait=0.05):
                    taken.append(message.body)
                    mine.delete(message.receipt)

    threads = [_in_a_thread(receive) for _ in range(4)]
    for start in range(0, 200, 10):
        queue.send_batch([str(number) for number in range(start, start + 10)])
    for thread in threads:
        thread.join(10)
    assert sorted(map(int, taken)) == list(range(200))


# The client


def test_scripts_survive_a_flushed_script_cache(queue, client):
    queue.send("a")
    client.execute("SCRIPT", "FLUSH")
    assert len(queue.receive()) == 1


@pytest.mark.parametrize("number", [0, 10_001])
def test_a_receive_takes_one_to_ten_thousand(queue, number):
    with pytest.raises(ValueError, match="max_messages"):
        queue.receive(number)


def test_a_server_that_is_away_is_waited_for_and_then_reported(durable_server):
    queue = Queue.open(f"redis://127.0.0.1:{durable_server.port}/work", retry_for=20)
    queue.send("a")
    durable_server.kill()
    got = []
    thread = _in_a_thread(lambda: got.append(queue.send("b")))
    assert durable_server.start()
    thread.join(10)
    assert len(got) == 1
    assert [message.body for message in queue.peek()] == ["a", "b"]
    durable_server.kill()
    queue.client.retry_for = 0.05
    with pytest.raises(ConnectionLost, match=f"Redis at 127.0.0.1:{durable_server.port}"):
        queue.send("c")
    queue.close()


def test_an_answer_that_takes_its_time_is_waited_for(client):
    assert client.execute("BLPOP", "nothing", 0.05) is None
    assert client.execute("PING") == b"PONG"


def test_an_answer_that_does_not_come_is_reported(server):
    with Client(port=server.port, retry_for=0, timeout=0.05) as impatient:
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match=r"no answer within 0\.05 s"):
            impatient.execute("BLPOP", "nothing", 20)
        assert 0.05 <= time.monotonic() - started < 10
        assert impatient.execute("PING") == b"PONG"


def test_open_takes_the_name_from_the_address(server, queue):
    queue.send("a")
    with Queue.open(f"redis://127.0.0.1:{server.port}/work") as other:
        assert other.stats().ready == 1
    for wrong in ("redis://127.0.0.1:1", "http://127.0.0.1:1/work", "work"):
        with pytest.raises(ValueError, match="expected redis://"):
            Queue.open(wrong)


def test_a_forked_process_gets_a_connection_of_its_own(queue):
    import os

    queue.send("a")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if queue.stats().ready == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert queue.stats().ready == 1


def test_a_send_that_is_repeated_enqueues_once(queue):
    for _ in range(2):  # as after a connection lost before the answer
        queue.client.run(queue._scripts.send, "work", "an-id", "body", "")
    assert queue.stats().ready == 1


def test_the_clock_moves_forward_only(client):
    before = read_clock(client)
    advance_clock(client, 2.5)
    assert 2.5 <= read_clock(client) - before < 30
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            advance_clock(client, wrong)
