"""Tables of what was measured, and their place in the documentation."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.samples import Samples, paired_ratio, spread

BEGIN = "<!-- benchmarks: begin (written by `make bench`) -->"
END = "<!-- benchmarks: end -->"


@dataclass(frozen=True)
class Target:
    """A bound on a row's median, or on its ratio to the floor.

    Attributes:
        bound: the limit, in the row's unit, or a ratio.
        least: True where more is better, so that the bound is a lower one.
        ratio: True where the bound is on the ratio.
    """

    bound: float
    least: bool = False
    ratio: bool = False

    def met(self, value: float, ratio: float | None) -> bool:
        """Whether the target is met. A target on a ratio without a floor is not."""
        measured = ratio if self.ratio else value
        if measured is None:
            return False
        return measured >= self.bound if self.least else measured <= self.bound

    def text(self, unit: str) -> str:
        """``≤ 40 ms``, ``≤ 1.35 × floor``."""
        sign = "≥" if self.least else "≤"
        return f"{sign} {self.bound:g} × floor" if self.ratio else f"{sign} {self.bound:,g} {unit}"


@dataclass(frozen=True)
class Row:
    """One variant's value of one metric.

    Attributes:
        low, high: the quartiles around ``value``, the median.
        ratio: to the floor of the same metric, round by round; None where there is no floor.
        ours: whether this is the template's own, which the plot marks.
    """

    variant: str
    metric: str
    unit: str
    value: float
    low: float
    high: float
    rounds: int
    ratio: float | None = None
    target: Target | None = None
    ours: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        return None if self.target is None else self.target.met(self.value, self.ratio)


@dataclass(frozen=True)
class Metric:
    """What a benchmark measures of every variant.

    Attributes:
        floor: the variant that ratios are taken against; None for no ratios.
        targets: variant → the bound that it has to keep.
    """

    name: str
    unit: str
    floor: str | None = None
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True)
class Curves:
    """A metric against a quantity, for a plot.

    Attributes:
        lines: points (quantity, median) by what the line shows.
        ours: the lines that are the template's own.
    """

    title: str
    across: str
    up: str
    lines: dict[str, list[tuple[float, float]]]
    ours: frozenset[str] = frozenset()


@dataclass
class Result:
    """One benchmark's outcome."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: Curves | None = None


def rows_of(samples: Samples, metrics: Sequence[Metric], ours: Iterable[str]) -> list[Row]:
    """Rows by metric, then in the order in which the variants were measured."""
    mine = set(ours)
    rows = []
    for metric in metrics:
        floor = samples.of(metric.floor, metric.name) if metric.floor else []
        for variant in samples.values:
            values = samples.of(variant, metric.name)
            if not values:
                continue
            low, high = spread(values)
            ratio = paired_ratio(values, floor) if len(floor) == len(values) else None
            rows.append(
                Row(
                    variant=variant,
                    metric=metric.name,
                    unit=metric.unit,
                    value=median(values),
                    low=low,
                    high=high,
                    rounds=len(values),
                    ratio=ratio,
                    target=metric.targets.get(variant),
                    ours=variant in mine,
                )
            )
    return rows


def number(value: float) -> str:
    """Three significant digits, or all the digits before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio_text(ratio: float) -> str:
    """Two places after the point, or two digits where that would be nothing."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


COLUMNS = ("variant", "metric", "median", "middle half", "× floor", "target", "met")


def cells(row: Row) -> tuple[str, ...]:
    """A row's texts, in the order of COLUMNS."""
    met = {None: "", True: "yes", False: "**no**"}[row.met]
    return (
        row.variant,
        row.metric,
        f"{number(row.value)} {row.unit}",
        f"{number(row.low)} – {number(row.high)}",
        "" if row.ratio is None else ratio_text(row.ratio),
        "" if row.target is None else row.target.text(row.unit),
        met,
    )


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table that also reads well as plain text."""
    body = [cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *body, strict=True)]
    numeric = {"median", "middle half", "× floor"}

    def line(texts: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if name in numeric else text.ljust(width)
            for text, width, name in zip(texts, widths, COLUMNS, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (width - 1) + ":" if name in numeric else "-" * width
        for width, name in zip(widths, COLUMNS, strict=True)
    ]
    return "\n".join([line(COLUMNS), line(rule), *map(line, body)])


def markdown(result: Result) -> str:
    """A benchmark's section: heading, table, notes."""
    parts = [f"### {result.title}"]
    if result.rows:
        parts.append(markdown_table(result.rows))
    parts += ["\n".join(f"- {note}" for note in result.notes)] if result.notes else []
    return "\n\n".join(parts)


def machine() -> str:
    """The machine in one line, without its name or the date."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{platform.system()} on {platform.machine()}, {cores} cores, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def insert(document: str, text: str) -> str:
    """The document with ``text`` between its two markers, in place of what stood there.

    Raises:
        ValueError: the document does not hold each marker once, the begin before the end.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in tail or END in head + tail:
        raise ValueError(f"expected the lines {BEGIN!r} and {END!r}, once and in this order")
    return f"{head}{BEGIN}\n\n{text.strip()}\n\n{END}{tail}"


def as_json(results: Sequence[Result]) -> dict[str, object]:
    """Everything for a machine to read: values in each row's own unit."""
    return {
        "machine": machine(),
        "python": sys.version,
        "benchmarks": [
            {
                "name": result.name,
                "rows": [
                    {
                        "variant": row.variant,
                        "metric": row.metric,
                        "unit": row.unit,
                        "median": row.value,
                        "quartiles": [row.low, row.high],
                        "rounds": row.rounds,
                        "ratio": row.ratio,
                        "target": row.target and row.target.text(row.unit),
                        "met": row.met,
                    }
                    for row in result.rows
                ],
                "notes": result.notes,
            }
            for result in results
        ],
    }
