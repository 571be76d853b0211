"""Which function runs a dead letter, when the failure queue serves more than one service.

A dead letter rarely names its function, so a file lists where dead letters may come from and which
function is to run them. Nothing else ever runs: what the file does not list is parked.

::

    {
      "own": ["arn:aws:sqs:eu-central-1:123456789012:orders"],
      "functions": [
        {
          "function": "arn:aws:lambda:eu-central-1:123456789012:function:billing",
          "sources": ["arn:aws:sqs:eu-central-1:123456789012:bills", "arn:aws:s3:::scans"],
          "pool": "billing",
          "role": "arn:aws:iam::123456789012:role/billing-overflow",
          "task_definition": "billing-overflow"
        }
      ]
    }

``own`` are the queues of this service. Sources are ARNs of queues, topics, buckets, rules and
functions; a function's own ARN is a source of it without being listed.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import msgspec

from lambda_shim.bodies import fields_of
from lambda_shim.contract import encodable
from lambda_shim.records import NOBODY, NOT_REGISTERED, OWN, DeadLetterRecord, parked, with_reason

log = logging.getLogger("lambda_shim")


class Function(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that dead letters are run with.

    Attributes:
        function: its ARN, with an alias or version or without.
        pool: names the tasks that run it: small letters, digits and hyphens; neither
            ``own`` nor ``nobody``.
        role: ARN of the role that they take on, with the function's permissions, and those to fetch
            its code and to write records.
        task_definition: of those tasks; its architecture is the function's. Empty: the service's
            own, with that role.
        sources: ARNs.
    """

    function: str
    pool: str
    role: str
    task_definition: str = ""
    sources: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    own: tuple[str, ...] = ()
    functions: tuple[Function, ...] = ()


class Target(NamedTuple):
    """What is to be run: a function, and the event it failed at."""

    function: Function
    event: Any


class Registry:
    """The registry, as the dispatcher's ``sources`` and the runner need it.

    Args:
        own: the service's queues, as far as the file lists them.
        functions: that others' dead letters are run with.
        queue: ARN of the service's queue, which stays its own whatever the file says.

    Raises:
        ValueError: two of them are registered for one source, or do not agree about a pool.
    """

    def __init__(
        self, own: tuple[str, ...], functions: tuple[Function, ...], queue: str | None = None
    ) -> None:
        self.own = frozenset(own if queue is None else (*own, queue))
        self.functions = functions
        self._by_source: dict[str, Function] = {}
        for each in functions:
            if not each.pool or each.pool in (OWN, NOBODY) or set(each.pool) - set(_POOL):
                raise ValueError(f"{each.function}: not a name for a pool: {each.pool!r}")
            for source in map(_unqualified, (each.function, *each.sources)):
                if source == queue:
                    # Nothing but the deployed dispatcher knows the queue, and one that did not start
                    # would put no dead letter on record.
                    log.error(
                        "%s is this service's own queue, and stays so: take it out of the sources of %s "
                        "in the registry, and deploy again",
                        source,
                        each.function,
                    )
                elif source in self.own or self._by_source.setdefault(source, each) is not each:
                    raise ValueError(f"{source} is registered twice")
        settings = {(each.pool, each.task_definition, each.role) for each in functions}
        if len(settings) != len({each.pool for each in functions}):
            raise ValueError("a pool has one task definition and one role")

    @property
    def pools(self) -> tuple[str, ...]:
        return (OWN, *sorted({each.pool for each in self.functions}))

    @property
    def task_definitions(self) -> dict[str, str]:
        """By pool, for ``ecs.TaskSettings``; without those that the service's own serves."""
        return {each.pool: each.task_definition for each in self.functions if each.task_definition}

    @property
    def roles(self) -> dict[str, str]:
        """By pool, for ``ecs.TaskSettings``."""
        return {each.pool: each.role for each in self.functions}

    def place(self, record: DeadLetterRecord) -> DeadLetterRecord:
        """The record with its pool; parked when nothing is registered for it."""
        source = record.attributes.get("DeadLetterQueueSourceArn")
        if source in self.own:
            return msgspec.structs.replace(record, pool=OWN)
        if not record.history:  # new: all that is known of the failure is the dead letter
            record = msgspec.structs.replace(record, error=_error_in(record))
        target = self.target(record)
        if target is None:
            found = ", ".join(candidate.source for candidate in candidates(record)) or "no source"
            why = encodable(f"no function is registered for {found}")
            return parked(with_reason(record), NOT_REGISTERED, why, pool=NOBODY)
        return msgspec.structs.replace(record, pool=target.function.pool)

    def target(self, record: DeadLetterRecord) -> Target | None:
        """What to run; None when nothing is registered."""
        for candidate in candidates(record):
            function = self._by_source.get(_unqualified(candidate.source))
            if function is not None:
                return Target(function, candidate.event)
        return None


def _error_in(record: DeadLetterRecord) -> str:
    """What another service's dead letter says of the failure. An on-failure destination says it in the
    body, a rule and a function's DeadLetterConfig in attributes; a queue and a topic say nothing."""
    body = fields_of(record.body) or {}
    names = ("ERROR_CODE", "ERROR_MESSAGE", "ErrorMessage")
    attributes = {name: _attribute(record, name) for name in names}

    def texts(said: Any, *names: str) -> str:
        found = [said.get(name) for name in names] if isinstance(said, dict) else []
        return ": ".join(text for text in found if isinstance(text, str))

    return encodable(
        texts(body.get("responsePayload"), "errorType", "errorMessage")
        or texts(attributes, *names)
        or texts(body.get("requestContext"), "condition")
        or "its function failed or was not called; the dead letter does not tell why"
    )


_POOL = "abcdefghijklmnopqrstuvwxyz0123456789-"


class Candidate(NamedTuple):
    """Where a dead letter may have come from, and the function's event if it has."""

    source: str
    event: Any


def candidates(record: DeadLetterRecord) -> list[Candidate]:
    """Every source that a dead letter tells of, the surest first.

    - A queue's redrive: SQS names the queue; the event is that message alone.
    - A function's on-failure destination: names the function, and holds the event.
    - A rule's dead-letter queue (EventBridge): names rule and target, the body is the event.
    - A subscription's (SNS): the body is the notification.
    - A function's DeadLetterConfig: the body is the event, which may name topic, bucket or rule.
    """
    if (queue := record.attributes.get("DeadLetterQueueSourceArn")) is not None:
        return [Candidate(queue, _queue_event(record, queue))]
    body = fields_of(record.body)
    if body is None:
        return []
    found: list[Candidate] = []
    request = body.get("requestContext")
    if isinstance(request, dict) and "requestPayload" in body:
        if isinstance(arn := request.get("functionArn"), str):
            found.append(Candidate(arn, body["requestPayload"]))
        return found
    for name in ("TARGET_ARN", "RULE_ARN"):
        if isinstance(arn := _attribute(record, name), str):
            found.append(Candidate(arn, body))
    if body.get("Type") == "Notification" and isinstance(topic := body.get("TopicArn"), str):
        found.append(Candidate(topic, _topic_event(body, topic)))
    found += [Candidate(arn, body) for arn in _named_in(body)]
    return found


def _named_in(event: dict[str, Any]) -> list[str]:
    """The ARNs of the first record's topic or bucket, or of the scheduled event's rule."""
    records = event.get("Records")
    if isinstance(records, list) and records and isinstance(records[0], dict):
        first = records[0]
        for keys in (("Sns", "TopicArn"), ("s3", "bucket", "arn")):
            value: Any = first
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, str):
                return [value]
    resources = event.get("resources")
    if "detail-type" in event and isinstance(resources, list):
        return [each for each in resources if isinstance(each, str)]
    return []


def _attribute(record: DeadLetterRecord, name: str) -> str | None:
    attribute = record.message_attributes.get(name)
    value = attribute.get("stringValue") if isinstance(attribute, dict) else None
    return value if isinstance(value, str) else None


def _queue_event(record: DeadLetterRecord, queue: str) -> dict[str, Any]:
    from hashlib import md5

    attributes = {n: v for n, v in record.attributes.items() if n != "DeadLetterQueueSourceArn"}
    return {
        "Records": [
            {
                "messageId": record.message_id,
                "receiptHandle": "",
                "body": record.body,
                "attributes": attributes,
                "messageAttributes": record.message_attributes,
                "md5OfBody": md5(record.body.encode(), usedforsecurity=False).hexdigest(),
                "eventSource": "aws:sqs",
                "eventSourceARN": queue,
                "awsRegion": (queue.split(":") + [""] * 4)[3],
            }
        ]
    }


def _topic_event(notification: dict[str, Any], topic: str) -> dict[str, Any]:
    return {
        "Records": [
            {
                "EventSource": "aws:sns",
                "EventVersion": "1.0",
                "EventSubscriptionArn": topic,
                "Sns": notification,
            }
        ]
    }


def _unqualified(arn: str) -> str:
    """A function's ARN without version or alias; any other ARN as it is."""
    parts = arn.split(":")
    return ":".join(parts[:7]) if parts[2:3] == ["lambda"] and len(parts) == 8 else arn


def load(path: str) -> Registry:
    """Read the registry's file.

    Raises:
        ValueError: it is no registry; the message names the field, or what is listed twice.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        found = msgspec.json.decode(data, type=_File)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        return Registry(found.own, found.functions)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
