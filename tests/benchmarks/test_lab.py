"""Rounds, and the page's promise about the names."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES, PAGE, parse
from benchmarks.lab import Lab, Progress, Unavailable, Variant, program, require
from benchmarks.processes import environment
from benchmarks.report import insert


def lab(runs: int, path: Path) -> Lab:
    return Lab(runs, path, Progress(io.StringIO()))


def variant(name: str, log: list[str], fails_at: int | None = None) -> Variant:
    def turn() -> dict[str, float]:
        log.append(name)
        if log.count(name) == fails_at:
            raise OSError("broke")
        return {"turn": float(log.count(name))}

    return Variant(name, turn)


def test_variants_take_turns_and_the_warm_up_is_not_counted(tmp_path: Path) -> None:
    log: list[str] = []
    samples = lab(2, tmp_path).rounds([variant("a", log), variant("b", log)], [])
    assert log == ["a", "b"] * 3
    assert samples.of("a", "turn") == [2.0, 3.0]


def test_a_failing_variant_is_left_out_with_a_note(tmp_path: Path) -> None:
    log: list[str] = []
    notes: list[str] = []
    samples = lab(3, tmp_path).rounds([variant("a", log), variant("b", log, 2)], notes)
    assert samples.of("a", "turn") == [2.0, 3.0, 4.0]
    assert samples.of("b", "turn") == []
    assert log.count("b") == 2
    assert notes == ["b: failed: OSError: broke"]


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda: require("json", "no_such_module_here"), "no_such_module_here"),
        (lambda: program("no-such-program-here"), "no-such-program-here"),
    ],
)
def test_what_is_missing_is_named(ask: Callable[[], object], named: str) -> None:
    with pytest.raises(Unavailable, match=named):
        ask()


def test_children_may_write_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("KEPT", "1")
    clean = environment(PYTHONPATH="here")
    assert "PYTHONDONTWRITEBYTECODE" not in clean
    assert "AWS_PROFILE" not in clean
    assert (clean["KEPT"], clean["PYTHONPATH"]) == ("1", "here")


def test_the_page_has_its_place_and_names_every_benchmark() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert insert(page, "x") != page
    for name in NAMES:
        assert f"`{name}`" in page


def test_options() -> None:
    options = parse(["--only", "group", "--only", "generation", "--runs", "3"])
    assert options.only == ["group", "generation"]
    assert options.runs == 3


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--runs", "0"]])
def test_bad_options(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
