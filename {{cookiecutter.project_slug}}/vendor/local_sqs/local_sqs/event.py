"""The event that Lambda's SQS event source mapping hands to a function.

https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html (example event); md5OfMessageAttributes as in
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .message import Message, MessageAttribute

try:  # hashlib loads OpenSSL, for one function that the interpreter has built in
    from _md5 import md5  # type: ignore[import-not-found]
except ImportError:
    from hashlib import md5

REGION = "us-east-1"
ACCOUNT = "000000000000"

MAXIMUM_PAYLOAD_BYTES = 6 * 1024 * 1024
"""What one invocation can carry (Lambda quotas: 6 MB, synchronous)."""

_encode = msgspec.json.Encoder().encode


def queue_arn(name: str, region: str = REGION, account: str = ACCOUNT) -> str:
    return f"arn:aws:sqs:{region}:{account}:{name}"


def record(message: Message, arn: str, region: str = REGION) -> dict[str, Any]:
    """One element of `Records` for a message of the queue `arn`."""
    account = arn.split(":")[4]
    attributes = {
        "ApproximateReceiveCount": str(message.receive_count),
        "SentTimestamp": str(message.sent_timestamp),
        "SenderId": account,
        "ApproximateFirstReceiveTimestamp": str(message.first_receive_timestamp),
    }
    if message.group_id is not None:
        attributes["MessageGroupId"] = message.group_id
    if message.deduplication_id is not None:
        attributes["MessageDeduplicationId"] = message.deduplication_id
    if message.trace_header is not None:
        attributes["AWSTraceHeader"] = message.trace_header
    if message.sequence_number is not None:
        attributes["SequenceNumber"] = message.sequence_number
    if message.dead_letter_source is not None:
        source = queue_arn(message.dead_letter_source, region, account)
        attributes["DeadLetterQueueSourceArn"] = source
    result: dict[str, Any] = {
        "messageId": message.id,
        "receiptHandle": message.receipt,
        "body": message.body,
        "attributes": attributes,
        "messageAttributes": {
            name: _record_attribute(attribute) for name, attribute in message.attributes.items()
        },
        "md5OfBody": md5(message.body.encode("utf-8", "surrogatepass")).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": region,
    }
    if message.attributes:
        result["md5OfMessageAttributes"] = md5_of_attributes(message.attributes)
    return result


def event(messages: Iterable[Message], arn: str, region: str = REGION) -> dict[str, Any]:
    """The whole event for a batch."""
    return {"Records": [record(message, arn, region) for message in messages]}


def encode_record(message: Message, arn: str, region: str = REGION) -> bytes:
    """`record` as JSON."""
    return _encode(record(message, arn, region))


def join_records(records: Iterable[bytes]) -> bytes:
    """The event as JSON from records encoded before."""
    return b'{"Records":[' + b",".join(records) + b"]}"


def _record_attribute(attribute: MessageAttribute) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if attribute.string_value is not None:
        result["stringValue"] = attribute.string_value
    if attribute.binary_value is not None:
        result["binaryValue"] = attribute.binary_value
    result["stringListValues"] = []
    result["binaryListValues"] = []
    result["dataType"] = attribute.data_type
    return result


def md5_of_attributes(attributes: Mapping[str, MessageAttribute]) -> str:
    """MD5 over the attributes in order of their names: of each the name, the type, a byte for the
    transport type (1 text, 2 binary) and the value, each preceded by its length in four bytes."""
    digest = md5()
    for name in sorted(attributes):
        attribute = attributes[name]
        for text in (name, attribute.data_type):
            _update(digest, text.encode())
        if attribute.binary_value is not None:
            from binascii import a2b_base64

            digest.update(b"\x02")
            _update(digest, a2b_base64(attribute.binary_value))
        else:
            digest.update(b"\x01")
            _update(digest, (attribute.string_value or "").encode())
    return str(digest.hexdigest())


def _update(digest: Any, value: bytes) -> None:
    digest.update(len(value).to_bytes(4, "big"))
    digest.update(value)
