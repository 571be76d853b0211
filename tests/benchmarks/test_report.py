"""The pure parts: statistics, targets, tables, their place in the page, the picture."""

from __future__ import annotations

import itertools
import json
from xml.etree import ElementTree

import pytest

from benchmarks import plot
from benchmarks.report import (
    BEGIN,
    END,
    Curves,
    Metric,
    Result,
    Target,
    as_json,
    insert,
    machine,
    markdown,
    markdown_table,
    number,
    ratio_text,
    rows_of,
)
from benchmarks.samples import Samples, paired_ratio, spread

WALL = Metric("wall", "ms", "floor", {"ours": Target(2.0, ratio=True)})


def measured() -> Samples:
    samples = Samples()
    for floor, ours in [(10, 15), (20, 30), (100, 170)]:
        samples.add("floor", {"wall": floor})
        samples.add("ours", {"wall": ours})
    return samples


def test_ratio_is_the_median_of_the_rounds_own() -> None:
    # A machine that slows down ten-fold in one round changes no ratio.
    assert paired_ratio([15, 300, 16], [10, 200, 10]) == 1.5


def test_ratio_needs_the_same_rounds() -> None:
    with pytest.raises(ValueError):
        paired_ratio([1.0, 2.0], [1.0])


def test_spread_holds_half_of_the_values() -> None:
    assert spread([1, 2, 3, 4, 5]) == (2, 4)
    assert spread([7.0]) == (7.0, 7.0)


@pytest.mark.parametrize(
    ("target", "value", "ratio", "met"),
    [
        (Target(40), 40.0, None, True),
        (Target(40), 40.1, None, False),
        (Target(20_000, least=True), 20_000.0, 0.1, True),
        (Target(20_000, least=True), 19_999.0, 9.0, False),
        (Target(1.35, ratio=True), 1000.0, 1.35, True),
        (Target(1.35, ratio=True), 1.0, 1.36, False),
        (Target(1.35, ratio=True), 1.0, None, False),
    ],
)
def test_targets(target: Target, value: float, ratio: float | None, met: bool) -> None:
    assert target.met(value, ratio) is met


def test_target_texts() -> None:
    assert Target(40).text("ms") == "≤ 40 ms"
    assert Target(20_000, least=True).text("messages/s") == "≥ 20,000 messages/s"
    assert Target(1.35, ratio=True).text("ms") == "≤ 1.35 × floor"


def test_rows_carry_median_ratio_and_target() -> None:
    floor, ours = rows_of(measured(), [WALL], ["ours"])
    assert (floor.value, floor.ratio, floor.met, floor.ours) == (20, 1.0, None, False)
    assert (ours.value, ours.ratio, ours.met, ours.ours) == (30, 1.5, True, True)
    assert ours.rounds == 3


def test_a_variant_without_the_metric_has_no_row() -> None:
    samples = measured()
    samples.add("other", {"teardown": 1.0})
    assert [row.variant for row in rows_of(samples, [WALL], [])] == ["floor", "ours"]


def test_a_dropped_floor_leaves_the_values() -> None:
    samples = measured()
    samples.drop("floor")
    (ours,) = rows_of(samples, [WALL], ["ours"])
    assert (ours.value, ours.ratio) == (30, None)
    assert ours.met is False


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_small_ratios_are_not_nothing() -> None:
    assert [ratio_text(r) for r in (12.345, 1.0, 0.1, 0.0019)] == [
        "12.35",
        "1.00",
        "0.10",
        "0.0019",
    ]


def test_table_is_aligned() -> None:
    lines = markdown_table(rows_of(measured(), [WALL], ["ours"])).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [len(line.split("|")) for line in lines] == [9] * 4
    assert lines[1].startswith("| ---")
    assert "≤ 2 × floor" in lines[3]
    assert lines[3].rstrip(" |").endswith("yes")


def test_a_benchmark_that_could_not_run_says_so() -> None:
    text = markdown(Result("group", "One process group", notes=["not measured: no redis"]))
    assert text == "### One process group\n\n- not measured: no redis"


def test_insertion_replaces_what_stood_there_and_nothing_else() -> None:
    page = f"# Title\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n"
    once = insert(page, "new\n")
    assert once == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    assert insert(once, "new") == once


@pytest.mark.parametrize(
    "page",
    ["no markers", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"],
    ids=["none", "begin only", "end only", "reversed", "twice"],
)
def test_insertion_refuses_a_page_without_its_place(page: str) -> None:
    with pytest.raises(ValueError, match="expected the lines"):
        insert(page, "text")


def test_machine_has_cores_and_python_and_no_date() -> None:
    assert "cores, CPython 3." in machine()


def test_json_has_every_row() -> None:
    result = Result("x", "X", rows_of(measured(), [WALL], ["ours"]), ["a note"])
    (benchmark,) = json.loads(json.dumps(as_json([result])))["benchmarks"]
    assert [row["met"] for row in benchmark["rows"]] == [None, True]
    assert benchmark["rows"][1]["target"] == "≤ 2 × floor"
    assert benchmark["notes"] == ["a note"]


def test_picture_has_a_bar_a_row_and_the_target() -> None:
    result = Result("x", "A & B", rows_of(measured(), [WALL], ["ours"]))
    lonely = Result("y", "alone", rows_of(measured(), [Metric("wall", "ms")], [])[:1])
    root = ElementTree.fromstring(plot.svg([result, lonely]))
    space = "{http://www.w3.org/2000/svg}"
    bars = root.findall(f"{space}rect")
    assert [bar.get("class") for bar in bars] == ["peer", "ours"]
    # Lengths are as the values are: 20 ms to 30 ms.
    lengths = [float(str(bar.get("width"))) for bar in bars]
    assert lengths[0] / lengths[1] == pytest.approx(20 / 30, rel=0.01)
    # The target, twice the floor, lies beyond the longest bar and is left out.
    assert not root.findall(f"{space}line")


def test_picture_shows_a_target_within_the_bars() -> None:
    metric = Metric("wall", "ms", "floor", {"ours": Target(25)})
    root = ElementTree.fromstring(plot.svg([Result("x", "X", rows_of(measured(), [metric], []))]))
    assert len(root.findall("{http://www.w3.org/2000/svg}line")) == 1


def test_curves_rise_as_the_values_do_on_logarithmic_axes() -> None:
    lines = {"a & b": [(1.0, 0.1), (10.0, 1.0), (100.0, 10.0)], "one point": [(10.0, 0.1)]}
    curves = Curves("X & Y", "groups", "seconds", lines, frozenset(["a & b"]))
    root = ElementTree.fromstring(plot.curves_svg(curves))
    space = "{http://www.w3.org/2000/svg}"
    mine, other = root.findall(f"{space}polyline")
    assert (mine.get("class"), other.get("class")) == ("line ours", "line peer")
    points = [tuple(map(float, point.split(","))) for point in str(mine.get("points")).split()]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)
    assert steps[0][0] > 0 > steps[0][1], "downwards is positive in SVG"
    texts = [text.text for text in root.findall(f"{space}text")]
    assert {"X & Y", "groups", "seconds", "a & b", "one point"} <= set(texts)
