"""Pictures, as SVG: of the tables, for each metric one bar a variant; of a metric as curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.report import Curves, Result, Row, number

BARS = 400  # pixels that the longest bar takes
VALUES = 80  # kept free at the right for the values
LETTER = 6.7  # a letter's width on average, a little generous
BAR, STEP = 14, 22
STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #57606a; }
.title { font-weight: 600; font-size: 14px; }
.peer { fill: #afb8c1; }
.ours { fill: #0969da; }
.line { fill: none; stroke-width: 2; }
.line.peer { stroke: #afb8c1; }
.line.ours { stroke: #0969da; }
.grid { stroke: #d0d7de; stroke-width: 0.5; }
.target { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 3 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #9ea7b3; } .peer { fill: #57606a; } .ours { fill: #4493f8; }
  .target { stroke: #f85149; } .line.peer { stroke: #57606a; } .line.ours { stroke: #4493f8; }
  .line { fill: none; } .grid { stroke: #30363d; }
}"""


def panels(results: Sequence[Result]) -> list[tuple[str, list[Row]]]:
    """The rows of each metric that has more than one, under a title."""
    found: list[tuple[str, list[Row]]] = []
    for result in results:
        metrics = dict.fromkeys(row.metric for row in result.rows)
        for metric in metrics:
            rows = [row for row in result.rows if row.metric == metric]
            if len(rows) > 1:
                found.append((f"{result.title}: {metric} ({rows[0].unit})", rows))
    return found


def svg(results: Sequence[Result]) -> str:
    """The whole picture."""
    found = panels(results)
    labels = max([len(row.variant) for _, rows in found for row in rows], default=0) * LETTER
    width = round(labels + BARS + VALUES)
    parts: list[str] = []
    y = 0
    for title, rows in found:
        y += 28
        parts.append(f'<text class="title" x="0" y="{y}">{escape(title)}</text>')
        y += 10
        parts += _bars(rows, labels, y)
        y += STEP * len(rows)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 10}" '
            f'width="{width}" height="{y + 10}" role="img" aria-label="Benchmarks">',
            f"<style>\n{STYLE}\n</style>",
            *parts,
            "</svg>\n",
        ]
    )


def _bars(rows: Sequence[Row], left: float, top: int) -> list[str]:
    """A panel's bars, from ``left``, with labels before and values behind them."""
    longest = max(row.value for row in rows) or 1.0
    scale = BARS / longest
    parts = []
    for position, row in enumerate(rows):
        y = top + position * STEP
        middle = y + BAR - 3
        length = max(1.0, row.value * scale)
        kind = "ours" if row.ours else "peer"
        parts += [
            f'<text x="{left - 8:.1f}" y="{middle}" text-anchor="end">{escape(row.variant)}</text>',
            f'<rect class="{kind}" x="{left:.1f}" y="{y}" width="{length:.1f}" height="{BAR}"/>',
            f'<text x="{left + length + 6:.1f}" y="{middle}">{number(row.value)}</text>',
        ]
        bound = _bound(row)
        if bound is not None and bound <= longest:
            x = left + bound * scale
            parts.append(
                f'<line class="target" x1="{x:.1f}" y1="{y - 2}" x2="{x:.1f}" y2="{y + BAR + 2}"/>'
            )
    return parts


def _bound(row: Row) -> float | None:
    """The row's target in its unit."""
    if row.target is None:
        return None
    if not row.target.ratio:
        return row.target.bound
    return None if not row.ratio else row.target.bound * row.value / row.ratio


WIDE, HIGH = 460, 300  # pixels of a curve's field
LEFT, TOP, BELOW, RIGHT = 64, 40, 48, 190


def curves_svg(curves: Curves) -> str:
    """The curves on logarithmic axes, each named at its end."""
    points = [point for line in curves.lines.values() for point in line]
    across = sorted({x for x, _ in points})
    low = math.floor(math.log10(min(y for _, y in points)))
    high = max(low + 1, math.ceil(math.log10(max(y for _, y in points))))
    span = math.log10(across[-1] / across[0]) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        right = WIDE * math.log10(x / across[0]) / span
        up = HIGH * (math.log10(y) - low) / (high - low)
        return LEFT + right, TOP + HIGH - up

    parts = [f'<text class="title" x="0" y="18">{escape(curves.title)}</text>']
    for power in range(low, high + 1):
        x, y = place(across[0], 10.0**power)
        parts += [
            f'<line class="grid" x1="{x}" y1="{y:.1f}" x2="{x + WIDE}" y2="{y:.1f}"/>',
            f'<text x="{x - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>',
        ]
    for tick in across:
        x, y = place(tick, 10.0**low)
        parts += [
            f'<line class="grid" x1="{x:.1f}" y1="{y - HIGH}" x2="{x:.1f}" y2="{y}"/>',
            f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{tick:g}</text>',
        ]
    parts += [
        f'<text x="{LEFT + WIDE / 2}" y="{TOP + HIGH + 38}" text-anchor="middle">'
        f"{escape(curves.across)}</text>",
        f'<text x="{LEFT - 48}" y="{TOP - 8}">{escape(curves.up)}</text>',
    ]
    names: list[tuple[float, float, str]] = []
    for name, line in curves.lines.items():
        kind = "ours" if name in curves.ours else "peer"
        places = [place(x, y) for x, y in sorted(line)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
        names.append((places[-1][1], places[-1][0], name))
    lowest = 0.0
    for y, x, name in sorted(names):  # from above, none over another
        lowest = max(y + 4, lowest + 15)
        parts.append(f'<text x="{x + 8:.1f}" y="{lowest:.1f}">{escape(name)}</text>')
    width, height = LEFT + WIDE + RIGHT, TOP + HIGH + BELOW
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-label="{escape(curves.title)}">',
            f"<style>\n{STYLE}\n</style>",
            *parts,
            "</svg>\n",
        ]
    )
