"""What a function's response does to its batch.

https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html, "Success and failure
conditions": a batch succeeds as a whole when the response is null or empty, or its list of failures is;
it fails as a whole when the response is no valid JSON, or an identifier is empty, null, under another
key, or of no message of the batch. AWS says nothing of a response that is JSON but no object, nor of a
`batchItemFailures` that is no list: both are read as invalid here, which loses no message.
"""

from collections.abc import Collection

import msgspec

_decode = msgspec.json.Decoder().decode


class Verdict(msgspec.Struct, frozen=True):
    """`failed`: the ids that return to the queue. `reason`: why the whole batch does, or empty."""

    failed: frozenset[str]
    reason: str = ""


SUCCESS = Verdict(frozenset())


def judge(payload: bytes, batch: Collection[str], *, report_batch_item_failures: bool) -> Verdict:
    """The verdict on a batch of message ids whose function answered `payload` without an error.

    Without ReportBatchItemFailures the content of the response does not matter.
    """
    if not report_batch_item_failures or payload in (b"", b"null", b"{}"):
        return SUCCESS

    def whole(reason: str) -> Verdict:
        return Verdict(frozenset(batch), reason)

    try:
        response = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return whole("the response is not valid JSON")
    if response is None:
        return SUCCESS
    if not isinstance(response, dict):
        return whole("the response is not an object")
    failures = response.get("batchItemFailures")
    if failures is None:
        return SUCCESS
    if not isinstance(failures, list):
        return whole("batchItemFailures is not a list")
    failed = set()
    for failure in failures:
        if not isinstance(failure, dict) or "itemIdentifier" not in failure:
            return whole("an element of batchItemFailures has no itemIdentifier")
        identifier = failure["itemIdentifier"]
        if not identifier:
            return whole("an itemIdentifier is empty or null")
        if not isinstance(identifier, str) or identifier not in batch:
            return whole(f"itemIdentifier {identifier!r} is not in the batch")
        failed.add(identifier)
    return Verdict(frozenset(failed))
