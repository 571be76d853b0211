"""The event against AWS's own form."""

import boto3
import pytest
from local_sqs import MessageAttribute, advance_clock
from local_sqs.event import event, md5_of_attributes, queue_arn
from moto import mock_aws

ATTRIBUTES = {
    "text": MessageAttribute("String", "Zoë"),
    "number": MessageAttribute("Number", "-12.5"),
    "custom": MessageAttribute("Number.float", "1"),
    "bytes": MessageAttribute("Binary", None, "AAECAwQ="),
}


def test_a_record_has_exactly_the_fields_of_aws(queue, client):
    queue.send("Hi", attributes={"k": "v"})
    first, *_ = queue.receive()
    advance_clock(client, 30)
    (message,) = queue.receive()
    arn = queue_arn("work")
    assert event([message], arn) == {
        "Records": [
            {
                "messageId": message.id,
                "receiptHandle": message.receipt,
                "body": "Hi",
                "attributes": {
                    "ApproximateReceiveCount": "2",
                    "SentTimestamp": str(first.sent_timestamp),
                    "SenderId": "000000000000",
                    "ApproximateFirstReceiveTimestamp": str(first.first_receive_timestamp),
                },
                "messageAttributes": {
                    "k": {
                        "stringValue": "v",
                        "stringListValues": [],
                        "binaryListValues": [],
                        "dataType": "String",
                    }
                },
                "md5OfBody": "c1a5298f939e87e8f962a5edfc206918",
                "md5OfMessageAttributes": md5_of_attributes(message.attributes),
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:work",
                "awsRegion": "us-east-1",
            }
        ]
    }


def test_a_record_without_attributes_has_no_md5_of_them(queue):
    queue.send("Hi")
    (record,) = event(queue.receive(), queue_arn("work", "eu-west-1"), "eu-west-1")["Records"]
    assert record["messageAttributes"] == {}
    assert "md5OfMessageAttributes" not in record
    assert record["awsRegion"] == "eu-west-1"
    assert record["eventSourceARN"] == "arn:aws:sqs:eu-west-1:000000000000:work"


def test_a_group_and_a_dead_letter_show_in_the_attributes(queue, client):
    from local_sqs import Queue

    queue.send("Hi", group_id="g")
    for _ in range(4):
        queue.receive()
        advance_clock(client, 30)
    messages = Queue(client, "work-dead").receive()
    (record,) = event(messages, queue_arn("work-dead"))["Records"]
    assert record["attributes"]["MessageGroupId"] == "g"
    assert record["attributes"]["DeadLetterQueueSourceArn"] == queue_arn("work")


@pytest.mark.parametrize(
    "names", [["text"], ["number"], ["bytes"], ["custom", "bytes"], [*ATTRIBUTES]]
)
def test_md5_of_attributes_is_what_sqs_computes(monkeypatch, names):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    from binascii import a2b_base64

    attributes = {name: ATTRIBUTES[name] for name in names}
    with mock_aws():
        sqs = boto3.client("sqs", region_name="us-east-1")
        url = sqs.create_queue(QueueName="q")["QueueUrl"]
        answer = sqs.send_message(
            QueueUrl=url,
            MessageBody="Hi",
            MessageAttributes={
                name: {"DataType": value.data_type}
                | (
                    {"BinaryValue": a2b_base64(value.binary_value)}
                    if value.binary_value
                    else {"StringValue": value.string_value}
                )
                for name, value in attributes.items()
            },
        )
    assert md5_of_attributes(attributes) == answer["MD5OfMessageAttributes"]
