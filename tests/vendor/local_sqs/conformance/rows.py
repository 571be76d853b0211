"""The table: situation -> response -> what happens to each message.

Every row is run as it stands here, in every ring; docs/conformance.md is made from it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from .function import WHOLE, named
from .scene import Arrangement, Scene, Send

DOCS = "https://docs.aws.amazon.com"
ERRORS = f"{DOCS}/lambda/latest/dg/services-sqs-errorhandling.html"
SQS_TRIGGER = f"{DOCS}/lambda/latest/dg/services-sqs-configure.html"
SCALING = f"{DOCS}/lambda/latest/dg/services-sqs-scaling.html"
LIMITS = f"{DOCS}/lambda/latest/dg/gettingstarted-limits.html"
EVENT = f"{DOCS}/lambda/latest/dg/with-sqs.html"
BATCHING = f"{DOCS}/lambda/latest/dg/invocation-eventsourcemapping.html"
_SQS = f"{DOCS}/AWSSimpleQueueService/latest/SQSDeveloperGuide"
VISIBILITY = f"{_SQS}/sqs-visibility-timeout.html"
DEAD_LETTERS = f"{_SQS}/sqs-dead-letter-queues.html"
REDRIVE = f"{_SQS}/sqs-configure-dead-letter-queue-redrive.html"
MESSAGES = f"{_SQS}/quotas-messages.html"
METADATA = f"{_SQS}/sqs-message-metadata.html"
DELAY = f"{_SQS}/sqs-message-timers.html"
FIFO = f"{_SQS}/FIFO-queues-understanding-logic.html"
DEDUPLICATION = f"{_SQS}/using-messagededuplicationid-property.html"
BATCH = f"{DOCS}/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html"

DESIGN = "lambda_shim"
UNDOCUMENTED = "AWS does not document it; read here so that no message is lost"


@dataclass(frozen=True)
class Row:
    """One line of the table. `check` raises AssertionError where a ring behaves otherwise."""

    situation: str
    response: str
    outcome: str
    rule: str
    arrangement: Arrangement
    check: Callable[[Scene], None]
    example: str = ""  # the response as JSON, to messages with the ids first, second and third

    @property
    def name(self) -> str:
        return f"{self.situation}: {self.response}" if self.response else self.situation


# Which of three messages, sent together as "first", "second" and "third", return.
NONE, ALL = (), ("first", "second", "third")

_TABLE = [
    # kind, what the function does with the first, second, third message (or its whole response);
    # which of them return; which without ReportBatchItemFailures; the rule
    ("success", ["empty list"], NONE, NONE, ERRORS),
    ("success", ["null list"], NONE, NONE, ERRORS),
    ("success", ["empty object"], NONE, NONE, ERRORS),
    ("success", ["null"], NONE, NONE, ERRORS),
    ("success", ["other object"], NONE, NONE, ERRORS),
    ("partial failure", ["", "fail", ""], ("second",), NONE, ERRORS),
    ("partial failure", ["fail", "", "fail"], ("first", "third"), NONE, ERRORS),
    ("partial failure", ["fail", "fail", "fail"], ALL, NONE, ERRORS),
    ("partial failure", ["identifier twice"], ("first",), NONE, ERRORS),
    ("bad response", ["not JSON"], ALL, NONE, ERRORS),
    ("bad response", ["empty identifier"], ALL, NONE, ERRORS),
    ("bad response", ["null identifier"], ALL, NONE, ERRORS),
    ("bad response", ["missing identifier"], ALL, NONE, ERRORS),
    ("bad response", ["wrong key name"], ALL, NONE, ERRORS),
    ("bad response", ["unknown identifier"], ALL, NONE, ERRORS),
    ("bad response", ["number for an identifier"], ALL, NONE, UNDOCUMENTED),
    ("bad response", ["a string"], ALL, NONE, UNDOCUMENTED),
    ("bad response", ["a list"], ALL, NONE, UNDOCUMENTED),
    ("bad response", ["an object for the list"], ALL, NONE, UNDOCUMENTED),
    ("bad response", ["a string for an element"], ALL, NONE, UNDOCUMENTED),
    ("failed invocation", ["", "raise", ""], ALL, ALL, ERRORS),
    ("failed invocation", ["not serialisable"], ALL, ALL, ERRORS),
    ("failed invocation", ["over 6 MB"], ALL, ALL, LIMITS),
    ("failed invocation", ["", "exit", ""], ALL, ALL, ERRORS),
    ("failed invocation", ["", "crash", ""], ALL, ALL, ERRORS),
    ("failed invocation", ["", "hang", ""], ALL, ALL, LIMITS),
    ("failed invocation", ["", "fill: 300", ""], ALL, ALL, LIMITS),
    ("failed invocation", ["", "fill in a child: 300", ""], ALL, ALL, UNDOCUMENTED),
]

SAYS = {
    "fail": "names the {} message",
    "raise": "raises at the {} message",
    "exit": "sys.exit at the {} message",
    "crash": "the process dies at the {} message",
    "hang": "exceeds the timeout at the {} message, catching BaseException",
    "fill: 300": "uses 300 of 128 MB at the {} message",
    "fill in a child: 300": "starts a process that uses 300 of 128 MB at the {} message",
}


def _response(does: list[str]) -> str:
    if len(does) == 1:
        return does[0]
    if all(does):
        return "names every message"
    at = [name for name, verb in zip(ALL, does, strict=True) if verb]
    verb = next(verb for verb in does if verb)
    return SAYS[verb].format(" and ".join(at))


def _example(does: list[str]) -> str:
    if does[0] in ("not serialisable", "over 6 MB") or not {*does} <= {"", "fail", *WHOLE}:
        return ""
    named_ = [name for name, verb in zip(ALL, does, strict=False) if verb == "fail"]
    return json.dumps(WHOLE[does[0]]([*ALL]) if does[0] in WHOLE else named(*named_))


def _outcome(returning: tuple[str, ...]) -> str:
    if not returning:
        return "all are deleted"
    if returning == ALL:
        return "all return after the visibility timeout"
    return f"{' and '.join(returning)} return{'s' * (len(returning) == 1)}, the rest is deleted"


def _check(does: list[str], returning: tuple[str, ...]) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        verbs = [*does, "", ""][:3]
        ids = scene.send(*(Send(n, [v] if v else []) for n, v in zip(ALL, verbs, strict=True)))
        first = {record["name"]: record for record in scene.one_batch(3)}
        scene.return_to_queue(in_flight=len(returning))
        again = scene.delivered(3 + len(returning))[3:]
        scene.lane.wait_empty()
        assert {record["name"] for record in again} == set(returning)
        for record in again:
            before = first[record["name"]]
            assert record["messageId"] == before["messageId"]
            assert record["receiptHandle"] != before["receiptHandle"]
            assert record["attributes"] == before["attributes"] | {"ApproximateReceiveCount": "2"}
        assert not {letter["messageId"] for letter in scene.lane.dead_letters()} & set(ids)

    return check


def _responses() -> list[Row]:
    rows = []
    for report in (True, False):
        for kind, does, on, off, rule in _TABLE:
            timeout = 2 if "hang" in does else 3
            memory_mb = 128 if any(verb.startswith("fill") for verb in does) else 512
            returning = on if report else off
            rows.append(
                Row(
                    kind if report else f"{kind}, without ReportBatchItemFailures",
                    _response(does),
                    _outcome(returning),
                    rule,
                    Arrangement(
                        report_batch_item_failures=report, timeout=timeout, memory_mb=memory_mb
                    ),
                    _check(does, returning),
                    _example(does),
                )
            )
    return rows


def table() -> list[Row]:
    """All rows, in the order in which they are read and run."""
    from .situations import SITUATIONS

    return [*_responses(), *SITUATIONS]
