"""The story that docs/operate.md tells, with what its commands print."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..baking import ROOT, BakedProject, described

PATIENCE = 90.0  # seconds


def told() -> list[str]:
    """What the page says is printed, in its order."""
    text = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in blocks if not language]


def same(text: str) -> list[str]:
    """A text's lines, without what differs from run to run."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "TIME", text)
    text = re.sub(r"\b\d+s\b", "AGE", text)
    text = re.sub(r"\S+/groups/\w+/", "GROUP/", text)
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def eventually(look: Callable[[], str], sign: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while sign not in (text := look()):
        assert time.monotonic() < deadline, f"in vain for {sign!r}:\n{text}"
        time.sleep(0.1)
    return text


@pytest.mark.xdist_group("fullest")
@pytest.mark.slow
def test_a_job_that_outlasts_its_function(fullest: BakedProject, tmp_path: Path) -> None:
    state = str(tmp_path / "state")

    def run(*command: str) -> str:
        process = fullest.run(*command, PROCGROUP_STATE_DIR=state)
        assert process.returncode == 0, described(process)
        return process.stdout

    table, record, nothing = told()
    bin_ = fullest.path / ".venv" / "bin"
    up = ("up", "blueprints/service.yaml", "--set", "time_scale=0.2", "--detach")
    run(str(bin_ / "procgroup"), *up)
    try:
        (group,) = json.loads(run(str(bin_ / "procgroup"), "ps", "--format", "json"))
        hold = Path(state, "groups", group["id"], "customers.0", "hold")
        hold.touch()
        run("make", "send")
        printed = eventually(lambda: run("make", "dead-letters"), "running")
        assert same(printed) == same(table)
        key = printed.splitlines()[1].split()[0]
        shown = run(str(bin_ / "statement-service"), "dead-letters", "show", key)
        assert same(shown.partition("\nTraceback")[0]) == same(record)
        hold.unlink()
        printed = eventually(lambda: run("make", "dead-letters"), "no records")
        assert same(printed) == same(nothing)
        mails = Path(state, "groups", group["id"], "mail.0", "mails")
        assert len(list(mails.glob("*.eml"))) == 1
    finally:
        run(str(bin_ / "procgroup"), "down")
