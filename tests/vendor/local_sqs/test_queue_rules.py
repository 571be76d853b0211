"""The queue's part of SQS's rules, one rule a test; FIFO's are in test_fifo.py, redrive's in test_redrive.py.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
"""

import json
from binascii import a2b_base64, b2a_base64

import boto3
import pytest
from local_sqs import Entry, MessageAttribute, Queue, RedisError, Refused, advance_clock
from local_sqs.event import event, queue_arn
from moto import mock_aws

MIB = 1024 * 1024
DAY = 86_400


def _binary(value: bytes) -> str:
    return b2a_base64(value, newline=False).decode()


KINDS = {
    "text": MessageAttribute("String", "Zoë\n"),
    "text.custom": MessageAttribute("String.uuid", "0f"),
    "number": MessageAttribute("Number", "-12.5"),
    "number.custom": MessageAttribute("Number.int", "7"),
    "bytes": MessageAttribute("Binary", None, _binary(bytes(range(256)))),
    "bytes.custom": MessageAttribute("Binary.png", None, _binary(b"\x89PNG")),
    "one-byte": MessageAttribute("Binary", None, _binary(b"\0")),
    "A": MessageAttribute("String", "capitals come first"),
    "_": MessageAttribute("String", " "),
    "z" * 256: MessageAttribute("String." + "t" * 249, "the longest name and type"),
}


# Message attributes


@pytest.mark.parametrize("name", KINDS)
def test_md5_of_a_message_attribute_of_each_type_is_what_sqs_computes(queue, monkeypatch, name):
    _compare_with_moto(queue, monkeypatch, {name: KINDS[name]})


def test_md5_of_ten_message_attributes_is_what_sqs_computes(queue, monkeypatch):
    assert len(KINDS) == 10
    _compare_with_moto(queue, monkeypatch, KINDS)


def _compare_with_moto(queue, monkeypatch, attributes):
    """moto computes MD5OfMessageAttributes on its own from what boto3 has sent over its protocol."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        sqs = boto3.client("sqs", region_name="us-east-1")
        url = sqs.create_queue(QueueName="q")["QueueUrl"]
        answer = sqs.send_message(
            QueueUrl=url,
            MessageBody="Grüße",
            MessageAttributes={
                name: {"DataType": value.data_type, "StringValue": value.string_value}
                if value.string_value is not None
                else {"DataType": value.data_type, "BinaryValue": a2b_base64(value.binary_value)}
                for name, value in attributes.items()
            },
        )
    queue.send("Grüße", attributes=attributes)
    (record,) = event(queue.receive(), queue_arn("work"))["Records"]
    assert record["md5OfMessageAttributes"] == answer["MD5OfMessageAttributes"]
    assert record["md5OfBody"] == answer["MD5OfMessageBody"]
    assert {
        name: (value["dataType"], value.get("stringValue"), value.get("binaryValue"))
        for name, value in record["messageAttributes"].items()
    } == {
        name: (value.data_type, value.string_value, value.binary_value)
        for name, value in attributes.items()
    }


def test_a_message_has_at_most_ten_attributes(queue):
    queue.send("a", attributes={f"k{number}": "v" for number in range(10)})
    with pytest.raises(Refused, match="11 attributes; 10 at most"):
        queue.send("a", attributes={f"k{number}": "v" for number in range(11)})


@pytest.mark.parametrize(
    "attribute",
    [MessageAttribute("String", "v", "AAAA"), MessageAttribute("Binary", "v", "AAAA")],
)
def test_an_attribute_with_two_values_is_refused(queue, attribute):
    with pytest.raises(Refused, match="has two values") as refusal:
        queue.send("a", attributes={"k": attribute})
    assert refusal.value.code == "InvalidParameterValue"


@pytest.mark.parametrize(
    "name",
    ["", "k" * 257, "with space", "ü", ".k", "k.", "a..b", "AWS.k", "amazon.k", "k/k"],
)
def test_an_attribute_name_that_sqs_refuses(queue, name):
    with pytest.raises(Refused, match="a name has") as refusal:
        queue.send("a", attributes={name: "v"})
    assert refusal.value.code == "InvalidParameterValue"


@pytest.mark.parametrize("number", ["", "x", "1" * 39, "1e127", "-1e129", "nan", "inf", "1 000"])
def test_a_number_that_sqs_refuses(queue, number):
    with pytest.raises(Refused):
        queue.send("a", attributes={"k": MessageAttribute("Number", number)})


@pytest.mark.parametrize("number", ["0", "-0.5", "1" * 38, "1e126", "1" + "0" * 60, "+3"])
def test_a_number_that_sqs_takes(queue, number):
    queue.send("a", attributes={"k": MessageAttribute("Number", number)})


# Sizes


def test_a_message_is_at_most_one_mib_and_its_attributes_count(queue):
    counted = len("k") + len("String") + len("value")
    queue.send("a" * (MIB - counted), attributes={"k": "value"})
    with pytest.raises(Refused, match="1,048,576 at most") as refusal:
        queue.send("a" * (MIB - counted + 1), attributes={"k": "value"})
    assert refusal.value.code == "InvalidParameterValue"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_binary_attribute_counts_with_its_bytes_not_with_its_base64(queue, size):
    counted = len("k") + len("Binary") + size
    attributes = {"k": MessageAttribute("Binary", None, _binary(bytes(size)))}
    queue.send("a" * (MIB - counted), attributes=attributes)
    with pytest.raises(Refused):
        queue.send("a" * (MIB - counted + 1), attributes=attributes)


def test_a_message_counts_in_bytes_of_utf_8(queue):
    queue.send("é" * (MIB // 2))
    with pytest.raises(Refused):
        queue.send("é" * (MIB // 2) + "a")


def test_a_batch_is_at_most_one_mib_together_and_attributes_count(queue):
    share = MIB // 8
    counted = len("k") + len("String") + len("v")
    entries = [Entry("a" * share)] * 7
    last = "a" * (share - counted)
    ids, failed = queue.send_batch([*entries, Entry(last, attributes={"k": "v"})])
    assert all(ids)
    assert failed == []
    with pytest.raises(Refused) as refusal:
        queue.send_batch([*entries, Entry(last + "a", attributes={"k": "v"})])
    assert refusal.value.code == "BatchRequestTooLong"
    assert queue.stats().ready == 8


def test_a_batch_has_one_to_ten_entries(queue):
    ids, _ = queue.send_batch(["a"] * 10)
    assert len({*ids}) == 10
    for entries, code in (([], "EmptyBatchRequest"), (["a"] * 11, "TooManyEntriesInBatchRequest")):
        with pytest.raises(Refused) as refusal:
            queue.send_batch(entries)
        assert refusal.value.code == code


@pytest.mark.parametrize("character", ["\0", "\x0b", "\x1f", "\ud800", "\ufffe", "\uffff"])
def test_a_character_that_xml_does_not_know_is_refused(queue, character):
    with pytest.raises(Refused) as refusal:
        queue.send(f"a{character}")
    assert refusal.value.code == "InvalidMessageContents"
    with pytest.raises(Refused):
        queue.send("a", attributes={"k": f"a{character}"})


@pytest.mark.parametrize(
    "character", ["\t", "\n", "\r", " ", "\x7f", "\ud7ff", "\ue000", "\U0010ffff"]
)
def test_every_other_character_passes_unchanged(queue, character):
    queue.send(character, attributes={"k": character})
    (message,) = queue.receive()
    assert message.body == character
    assert message.attributes["k"].string_value == character


# Times


def test_a_delay_is_at_most_900_seconds(queue, client):
    queue.send("a", delay=900)
    with pytest.raises(Refused):
        queue.send("a", delay=901)
    advance_clock(client, 899)
    assert queue.receive() == []
    advance_clock(client, 1)
    assert len(queue.receive()) == 1


def test_a_delay_is_not_a_receive(queue, client):
    queue.send("a", delay=60)
    advance_clock(client, 60)
    (message,) = queue.receive()
    assert message.receive_count == 1
    assert message.first_receive_timestamp - message.sent_timestamp >= 60_000


@pytest.mark.parametrize(
    ("retention", "allowed"), [(59, False), (60, True), (14 * DAY, True), (14 * DAY + 1, False)]
)
def test_retention_is_60_seconds_to_14_days(queue, retention, allowed):
    if allowed:
        queue.create(retention=retention)
    else:
        with pytest.raises(ValueError, match="retention must be between 60 and"):
            queue.create(retention=retention)


def test_a_message_expires_by_its_enqueue_time_however_often_it_returned(queue, client):
    queue.create(retention=120, visibility_timeout=30)
    queue.send("a")
    for _ in range(3):
        assert len(queue.receive()) == 1
        advance_clock(client, 35)
    assert len(queue.receive()) == 1
    advance_clock(client, 35)
    assert queue.receive() == []
    assert queue.stats().ready == queue.stats().in_flight == 0


def test_a_standard_dead_letter_expires_by_the_enqueue_time_in_its_first_queue(queue, client):
    dead = Queue(client, "work-dead")
    dead.create(retention=300)
    queue.create(visibility_timeout=100, max_receive_count=1, dead_letter_queue="work-dead")
    queue.send("a")
    queue.receive()
    advance_clock(client, 200)
    assert queue.receive() == []
    (letter,) = dead.receive(visibility_timeout=0)
    assert letter.receive_count == 2
    advance_clock(client, 100)
    assert dead.receive() == []


def test_a_visibility_timeout_is_at_most_12_hours(queue, client):
    queue.send("a")
    (message,) = queue.receive(visibility_timeout=43_200)
    advance_clock(client, 43_199)
    assert queue.receive() == []
    for call in (
        lambda: queue.receive(visibility_timeout=43_201),
        lambda: queue.change_visibility(message.receipt, 43_201),
        lambda: queue.create(visibility_timeout=43_201),
    ):
        with pytest.raises(ValueError, match="43200"):
            call()


def test_a_receive_count_starts_at_1_and_both_timestamps_stay(queue, client):
    queue.send("a")
    seen = []
    for _ in range(3):
        (message,) = queue.receive()
        seen.append(message)
        advance_clock(client, 30)
    assert [message.receive_count for message in seen] == [1, 2, 3]
    assert len({message.sent_timestamp for message in seen}) == 1
    assert len({message.first_receive_timestamp for message in seen}) == 1
    assert len({message.receipt for message in seen}) == 3


def test_dead_lettered_with_the_same_id_after_exactly_max_receive_count_deliveries(queue, client):
    dead = Queue(client, "work-dead")
    sent = queue.send("a")
    deliveries = 0
    while queue.receive():
        deliveries += 1
        assert dead.stats().ready == 0
        advance_clock(client, 30)
    assert deliveries == 3
    (letter,) = dead.receive()
    assert letter.id == sent


# Nothing is lost


@pytest.mark.parametrize("name", ["work", "work.fifo"])
def test_a_look_that_is_repeated_after_a_lost_answer_loses_nothing(client, name):
    queue = Queue(client, name)
    for body in ("one", "two"):
        envelope = json.dumps({"$message": {"body": body, "group_id": body}})
        client.execute("RPUSH", name, envelope)
        # The same call both times, as after a connection lost before the answer.
        client.run(queue._scripts.receive, name, 10, "the-seed", "")
    assert queue.stats().in_flight == 2
    advance_clock(client, 30)
    assert sorted(message.body for message in queue.receive()) == ["one", "two"]


@pytest.mark.parametrize("name", ["work", "work.fifo"])
def test_a_redrive_that_is_repeated_after_a_lost_answer_loses_nothing(client, name):
    queue, dead = Queue(client, name), Queue(client, f"dead-{name}")
    queue.create(fifo=queue.fifo, max_receive_count=1, dead_letter_queue=dead.name)
    client.execute("RPUSH", dead.name, "one", "two")
    for _ in range(2):
        client.run(queue._scripts.redrive, dead.name, "the-seed", 1, name)
    assert [message.body for message in queue.peek()] == ["one", "two"]
    assert dead.peek() == []


def test_a_server_out_of_memory_refuses_and_loses_nothing(durable_server):
    with Queue.open(f"redis://127.0.0.1:{durable_server.port}/work") as queue:
        queue.create(max_receive_count=1, dead_letter_queue="work-dead")
        queue.send_batch(["sent", "taken"])
        (taken,) = queue.receive(1, visibility_timeout=0)
        queue.client.execute("RPUSH", "work", "pushed")
        queue.client.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
        queue.client.execute("CONFIG", "SET", "maxmemory", "1")
        for call in (queue.receive, queue.stats, lambda: queue.send("more")):
            with pytest.raises(RedisError, match=r"OOM|maxmemory"):
                call()
        queue.client.execute("CONFIG", "SET", "maxmemory", "0")
        bodies = [message.body for message in queue.receive()]
        letters = [message.body for message in Queue(queue.client, "work-dead").receive()]
        assert sorted(bodies) == ["pushed", "taken"]
        assert (letters, taken.body) == (["sent"], "sent")
