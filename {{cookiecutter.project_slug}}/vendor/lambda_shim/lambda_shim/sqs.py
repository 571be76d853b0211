"""An SQS queue over boto3, which is imported at the first call."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# SendMessageBatch's limits.
BATCH_ENTRIES = 10
BATCH_BYTES = 1_048_576


class Entry(NamedTuple):
    """A message to send.

    Attributes:
        body: up to 1 MiB of text.
        group_id: the MessageGroupId, which a FIFO queue demands: messages of one group are
            delivered in order. 1 to 128 letters, digits and punctuation.
        attributes: message attributes, in the shape of the Lambda event: by name, ``stringValue``
            or (in base64) ``binaryValue``, and ``dataType``. At most 10.
        deduplication_id: of a FIFO queue's message; None leaves it to the queue, which then takes
            a hash of the body, and drops what it has seen within five minutes.
    """

    body: str
    group_id: str | None = None
    attributes: Mapping[str, Mapping[str, Any]] | None = None
    deduplication_id: str | None = None


class Refused(NamedTuple):
    """An entry that SendMessageBatch did not take, though it answered with HTTP 200.

    Attributes:
        position: the entry's place in the call.
        sender_fault: True when sending it again can only fail again.
    """

    position: int
    sender_fault: bool
    code: str
    message: str


class SqsQueue:
    """The queue with this URL, as ``https://sqs.<region>.amazonaws.com/<account>/<name>``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client: Any = None

    def _sqs(self) -> Any:
        if self._client is None:
            import boto3

            self._client = boto3.client("sqs")
        return self._client

    def send_entries(self, entries: Sequence[Entry]) -> list[Refused]:
        """Send up to 10 messages of 1 MiB together; returns those that were not taken.

        A FIFO queue deduplicates them by their content (ContentBasedDeduplication).

        Raises botocore's ClientError when the call as a whole fails.
        """
        answer = self._sqs().send_message_batch(
            QueueUrl=self.url,
            Entries=[_request(number, entry) for number, entry in enumerate(entries)],
        )
        return [
            Refused(int(f["Id"]), bool(f["SenderFault"]), f["Code"], f.get("Message", ""))
            for f in answer.get("Failed", [])
        ]

    def change_visibility(self, receipt: str, seconds: float) -> None:
        """Make a message in flight visible again ``seconds`` (0 to 43,200, whole) from now."""
        self._sqs().change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=receipt, VisibilityTimeout=round(seconds)
        )


def _request(number: int, entry: Entry) -> dict[str, Any]:
    request: dict[str, Any] = {"Id": str(number), "MessageBody": entry.body}
    if entry.group_id is not None:
        request["MessageGroupId"] = entry.group_id
    if entry.deduplication_id is not None:
        request["MessageDeduplicationId"] = entry.deduplication_id
    if entry.attributes:
        request["MessageAttributes"] = {
            name: _attribute(value) for name, value in entry.attributes.items()
        }
    return request


def _attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    attribute: dict[str, Any] = {"DataType": value["dataType"]}
    if value.get("stringValue") is not None:
        attribute["StringValue"] = value["stringValue"]
    if value.get("binaryValue") is not None:
        from base64 import b64decode

        attribute["BinaryValue"] = b64decode(value["binaryValue"])
    return attribute


def _parts(arn: str) -> list[str]:
    """Region, account and name of the queue with this ARN. Raises ValueError when it is none."""
    parts = arn.split(":")
    if len(parts) != 6 or parts[2] != "sqs":
        raise ValueError(f"not the ARN of an SQS queue: {arn!r}")
    return parts[3:]


def region_of(arn: str) -> str:
    """The region of the queue with this ARN. Raises ValueError when it is none."""
    return _parts(arn)[0]


def queue_of(arn: str) -> SqsQueue:
    """The queue with this ARN. Raises ValueError when it is none, and botocore's ClientError."""
    region, account, name = _parts(arn)
    import boto3

    sqs = boto3.client("sqs", region_name=region)
    url = sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
    queue = SqsQueue(url)
    queue._client = sqs
    return queue
