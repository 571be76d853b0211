"""Record stores, the SQS queue and the DynamoDB ledger, against moto's AWS."""

import os
import time
from pathlib import Path

import boto3
import msgspec
import pytest
from lambda_shim.dynamodb_ledger import DynamoDbLedger
from lambda_shim.records import DirectoryStore, S3Store, decode, encode, record_name
from lambda_shim.sqs import Entry, SqsQueue

from .stores import dead_letter


def test_a_record_survives_the_way_out_and_in() -> None:
    record = dead_letter(attributes={"ApproximateReceiveCount": "2"}, traceback="line\nline")
    assert decode(encode(record)) == record


def test_a_broken_record_names_its_field() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$.attempts"):
        decode(encode(dead_letter()).replace(b'"attempts": 2', b'"attempts": "two"'))


def test_the_directory_store_is_readable_and_keeps_one_record_a_message(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path / "dead-letters"))
    store.put(dead_letter(parked_at="2026-11-01T06:00:02.000+00:00"))
    store.put(dead_letter("m0"))
    store.put(dead_letter(parked_at="2026-11-01T06:00:01.000+00:00"))
    assert sorted(os.listdir(store.directory)) == ["m0.json", "m1.json"]
    assert '"error": "Reject: über alles"' in (Path(store.directory) / "m1.json").read_text("utf-8")
    assert [record.message_id for record in store.list()] == ["m0", "m1"]


@pytest.mark.parametrize("bad", ["../../etc/passwd", "/tmp/x", "", "a\0b"])
def test_no_message_id_climbs_out_of_the_store(bad: str) -> None:
    name = record_name(bad)
    assert "/" not in name
    assert "\0" not in name
    assert name != ".json"


@pytest.mark.usefixtures("aws")
def test_the_s3_store() -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(
        Bucket="records", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    stored = S3Store("records", "dead/").put(dead_letter())
    body = s3.get_object(Bucket="records", Key="dead/m1.json")["Body"].read()
    assert decode(body) == stored


@pytest.mark.usefixtures("aws")
def test_the_sqs_queue_sends_and_changes_visibility() -> None:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName="orders")["QueueUrl"]
    queue = SqsQueue(url)
    assert queue.send_entries([Entry("one"), Entry("two")]) == []
    received = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert sorted(message["Body"] for message in received) == ["one", "two"]
    queue.change_visibility(received[0]["ReceiptHandle"], 0.2)
    again = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert [message["MessageId"] for message in again] == [received[0]["MessageId"]]


@pytest.mark.usefixtures("aws")
def test_entries_carry_their_group_to_a_fifo_queue() -> None:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(
        QueueName="orders.fifo",
        Attributes={"FifoQueue": "true", "ContentBasedDeduplication": "true"},
    )["QueueUrl"]
    assert SqsQueue(url).send_entries([Entry("one", "a"), Entry("two", "b")]) == []
    received = sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["MessageGroupId"]
    )["Messages"]
    groups = {message["Body"]: message["Attributes"]["MessageGroupId"] for message in received}
    assert groups == {"one": "a", "two": "b"}


@pytest.fixture
def ledger(aws: None) -> DynamoDbLedger:
    boto3.client("dynamodb").create_table(
        TableName="ledger",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    return DynamoDbLedger("ledger")


def test_a_claim_holds_off_others_until_completed(ledger: DynamoDbLedger) -> None:
    assert ledger.claim("k", "a", 60) == ("claimed", 0.0)
    state, seconds = ledger.claim("k", "b", 60)
    assert state == "held"
    assert 50 < seconds <= 60
    assert not ledger.complete("k", "b")
    assert ledger.complete("k", "a")
    assert ledger.claim("k", "b", 60) == ("completed", 0.0)
    assert ledger.claim("k", "a", 60) == ("completed", 0.0)


def test_a_released_claim_is_free(ledger: DynamoDbLedger) -> None:
    ledger.claim("k", "a", 60)
    assert not ledger.release("k", "b")
    assert ledger.release("k", "a")
    assert ledger.claim("k", "b", 60) == ("claimed", 0.0)


def test_a_claim_that_ran_out_is_taken_over_and_its_holder_fenced(ledger: DynamoDbLedger) -> None:
    ledger.claim("k", "a", 0.01)
    time.sleep(0.02)
    assert ledger.claim("k", "b", 60) == ("claimed", 0.0)
    assert not ledger.complete("k", "a")
    assert not ledger.release("k", "a")
    assert ledger.complete("k", "b")


def test_a_claim_is_renewed_by_its_holder(ledger: DynamoDbLedger) -> None:
    ledger.claim("k", "a", 1)
    assert ledger.claim("k", "a", 60) == ("claimed", 0.0)
    assert ledger.claim("k", "b", 60)[1] > 50


def test_a_completed_effect_is_never_released(ledger: DynamoDbLedger) -> None:
    ledger.claim("k", "a", 60)
    ledger.complete("k", "a")
    assert not ledger.release("k", "a")
    assert ledger.claim("k", "b", 60) == ("completed", 0.0)
