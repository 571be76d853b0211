"""A picture of the tables, as SVG: for each metric, one bar a variant."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.report import Result, Row, number

BARS = 400  # pixels that the longest bar takes
VALUES = 80  # kept free at the right for the values
LETTER = 6.7  # a letter's width on average, a little generous
BAR, STEP = 14, 22
STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #57606a; }
.title { font-weight: 600; font-size: 14px; }
.peer { fill: #afb8c1; }
.ours { fill: #0969da; }
.target { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 3 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #9ea7b3; } .peer { fill: #57606a; } .ours { fill: #4493f8; }
  .target { stroke: #f85149; }
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
