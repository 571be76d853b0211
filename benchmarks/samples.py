"""Medians, spreads and ratios of what was measured in rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

Measured = Mapping[str, float]
"""What one turn of a variant gave: metric → value."""


@dataclass
class Samples:
    """The rounds of one benchmark: for each variant, each metric's values in the order of rounds."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, variant: str, measured: Measured) -> None:
        """Note one turn of a variant."""
        metrics = self.values.setdefault(variant, {})
        for metric, value in measured.items():
            metrics.setdefault(metric, []).append(value)

    def drop(self, variant: str) -> None:
        """Forget a variant that failed half-way."""
        self.values.pop(variant, None)

    def of(self, variant: str, metric: str) -> list[float]:
        """A metric's values, one a round; empty when the variant or the metric was not measured."""
        return self.values.get(variant, {}).get(metric, [])


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The quartiles: half of the values lie between them. A single value is both."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def paired_ratio(values: Sequence[float], floor: Sequence[float]) -> float:
    """The median over rounds of value ÷ floor of the same round.

    Raises:
        ValueError: the two were not measured in the same rounds.
    """
    return median(v / f for v, f in zip(values, floor, strict=True))
