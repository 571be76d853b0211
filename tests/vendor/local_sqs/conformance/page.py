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
production runtime client): `pytest tests/vendor/local_sqs/test_conformance.py`.

The same rows run against AWS itself, in a throw-away stack of an account of yours:

    python -m tests.vendor.local_sqs.conformance --aws --region eu-central-1

It says first what it will create and what that costs (cents), asks, and deletes everything at the end.

{status}

This page is made from the table (`python -m tests.vendor.local_sqs.conformance --write`).
"""

NEVER = """\
**Nobody has run it against AWS yet: every row below rests on AWS's documentation alone**, or, where the
source says so, on a reading of what AWS does not document."""


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
    return "\n".join(lines) + "\n"


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
