"""Options of the test run, and what it says at its end."""

from pathlib import Path

import pytest

from .scenarios.rings import RINGS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ring",
        choices=tuple(RINGS),
        default="local",
        help="where scenarios run: " + "; ".join(f"{ring}: {how}" for ring, how in RINGS.items()),
    )
    parser.addoption("--stage", default="staging", help="which stage the staging ring speaks to")
    parser.addoption("--zip", help="run the scenarios on this built zip instead of the sources")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """By name, what this ring could not run, and why."""
    skipped = [
        (report.nodeid.rpartition("::")[2], report.longrepr[2].removeprefix("Skipped: "))
        for report in terminalreporter.stats.get("skipped", [])
        if "/scenarios/" in Path(report.nodeid).as_posix() and isinstance(report.longrepr, tuple)
    ]
    if skipped:
        terminalreporter.section(f"scenarios that the {config.option.ring} ring did not run")
        for name, why in sorted(skipped):
            terminalreporter.line(f"{name}: {why}")
