"""An SQS queue over boto3, which is imported at the first call."""

from collections.abc import Sequence
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
    """

    body: str
    group_id: str | None = None


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
            Entries=[
                {"Id": str(number), "MessageBody": entry.body}
                | ({} if entry.group_id is None else {"MessageGroupId": entry.group_id})
                for number, entry in enumerate(entries)
            ],
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
