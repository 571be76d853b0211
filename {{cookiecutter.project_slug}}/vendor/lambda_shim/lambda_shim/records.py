"""Dead-letter records: what was parked, why, and everything needed to send it again."""

from os import environ
from typing import Any, Protocol

import msgspec

# Why a message was parked.
MALFORMED = "malformed"
UNKNOWN_TYPE = "unknown_type"
REJECTED = "rejected"
RETRIES_EXHAUSTED = "retries_exhausted"
NEEDS_MORE_TIME = "needs_more_time"
DEADLINE = "deadline"


class DeadLetterRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One parked message, as it lies in the record store.

    Attributes:
        message_id: SQS's id when it was parked; also the record's key, so that parking the same
            delivery twice leaves one record.
        reason: one of this module's constants.
        error: one line for a person; ``traceback`` is the whole of it, where there is one.
        business_id: None where the message could not be decoded.
        body: the message as it was sent.
        attributes: SQS's own (receive count, timestamps in ms since 1970, group id, …).
        message_attributes: the sender's, in the shape of the Lambda event.
        attempts: deliveries so far, this one included.
        source: ARN of the queue it came from.
        function: name and version of the function that parked it.
        request_id: of the invocation that parked it, to find its log.
        parked_at: ISO 8601, UTC.
    """

    message_id: str
    reason: str
    error: str
    body: str
    attempts: int
    source: str
    function: str
    request_id: str
    parked_at: str
    business_id: str | None = None
    traceback: str | None = None
    attributes: dict[str, str] = {}
    message_attributes: dict[str, Any] = {}


class RecordStore(Protocol):
    """Where dead-letter records lie. ``put`` either stored the record durably or raised."""

    def put(self, record: DeadLetterRecord) -> None: ...


def encode(record: DeadLetterRecord) -> bytes:
    """Indented JSON: a record is first of all read by a person."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def decode(data: bytes) -> DeadLetterRecord:
    """The record that ``encode`` wrote. Raises msgspec.ValidationError naming the field."""
    return msgspec.json.decode(data, type=DeadLetterRecord)


def record_name(message_id: str) -> str:
    """The record's file or object name. Ids are SQS's UUIDs; anything else is made harmless."""
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in message_id)
    return f"{safe or 'unnamed'}.json"


class DirectoryStore:
    """Records as files in a directory: ``ls`` lists them, any editor reads them."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def put(self, record: DeadLetterRecord) -> None:
        """Write the record whole or not at all. Raises OSError when it cannot."""
        import os

        os.makedirs(self.directory, exist_ok=True)
        path = os.path.join(self.directory, record_name(record.message_id))
        partial = f"{path}.{os.getpid()}.partial"
        with open(partial, "wb") as file:
            file.write(encode(record))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def list(self) -> list[DeadLetterRecord]:
        """All records, the oldest first."""
        from pathlib import Path

        directory = Path(self.directory)
        records = [decode(path.read_bytes()) for path in directory.glob("*.json")]
        return sorted(records, key=lambda record: record.parked_at)


class S3Store:
    """Records as objects of an S3 bucket, below a prefix."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._client: Any = None

    def put(self, record: DeadLetterRecord) -> None:
        """Raises botocore's ClientError when S3 refuses."""
        if self._client is None:
            import boto3

            self._client = boto3.client("s3")
        self._client.put_object(
            Bucket=self.bucket,
            Key=self.prefix + record_name(record.message_id),
            Body=encode(record),
            ContentType="application/json",
        )


def function_identity(lambda_context: Any) -> tuple[str, str]:
    """``(name:version, request id)`` of the running invocation, for records and metrics."""
    name = getattr(lambda_context, "function_name", None) or environ.get(
        "AWS_LAMBDA_FUNCTION_NAME", "local"
    )
    version = getattr(lambda_context, "function_version", None) or "$LATEST"
    return f"{name}:{version}", getattr(lambda_context, "aws_request_id", None) or ""
