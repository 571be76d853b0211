"""Runs a row in a ring."""

from collections.abc import Iterable
from typing import Protocol

from .rows import Row
from .scene import Arrangement, Lane, Scene, Split

ATTEMPTS = 8
"""How often messages are sent that shall come in one batch; SQS and its pollers promise no such thing."""


class Ring(Protocol):
    """Where rows run."""

    name: str

    def lane(self, arrangement: Arrangement) -> Lane:
        """The lane of an arrangement, made when it is first asked for."""
        ...

    def discard(self, arrangement: Arrangement) -> None:
        """Have no other row use this lane."""
        ...

    def close(self) -> None:
        """Remove everything that was made."""
        ...


def run(row: Row, ring: Ring) -> None:
    """Raises AssertionError when the ring does not behave as the row says."""
    lane = ring.lane(row.arrangement)
    try:
        for _ in range(ATTEMPTS):
            try:
                row.check(Scene(lane))
                return
            except Split:
                lane.wait_empty()
        raise AssertionError(f"the messages did not come in one batch in {ATTEMPTS} attempts")
    except BaseException:
        ring.discard(row.arrangement)
        raise


def run_all(rows: Iterable[Row], ring: Ring) -> dict[str, str]:
    """Row by row, what went wrong; "" where nothing did."""
    results = {}
    for row in rows:
        try:
            run(row, ring)
            results[row.name] = ""
        except Exception as error:
            results[row.name] = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"{'FAILED' if results[row.name] else 'ok    '}  {row.name}", flush=True)
    return results
