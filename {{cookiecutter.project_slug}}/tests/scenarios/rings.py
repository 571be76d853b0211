"""Rings: where scenarios run, and what a scenario may need that not every ring has.

A scenario says what it needs beyond what a `Service` has, ``@needs("clock")``, and is skipped, with
the sentence below, where the ring cannot give it. The run ends with the names of all that were skipped.
"""

import pytest

from .service import LocalService

RINGS = {
    "local": "forked environments, the queue on Redis",
    "runtime": "the production runtime client, the queue on Redis",
    "staging": "a deployed stage, through SQS",
}

# What a stage cannot give; the other rings give everything.
STAGE_LACKS = {
    "clock": "it lets minutes pass, and no one can move the clock of SQS",
    "faults": "it needs the fault switches, which are not deployed",
    "processes": "it looks into the service's processes",
    "numbers": "it changes the service's numbers, and a stage has those of production",
    "queue faults": "it has the queue misbehave",
    "fresh": "it needs a service that has done nothing yet",
    "customers": "jobs would act on real customers; the stage is not connected to the doubles",
}

needs = pytest.mark.needs


def needed(node: pytest.Item) -> list[str]:
    """What a scenario has said it needs: by its markers, and by taking a `LocalService`."""
    found = [need for marker in node.iter_markers("needs") for need in marker.args]
    for marker in node.iter_markers("service"):
        faulty = ("handler", "runner")
        found += ["faults" if name in faulty else "numbers" for name in marker.kwargs]
    function = getattr(node, "function", None)
    if not found and getattr(function, "__annotations__", {}).get("service") is LocalService:
        found.append("processes")
    if unknown := set(found) - set(STAGE_LACKS):
        raise ValueError(f"{node.nodeid} needs {unknown}, which tests/scenarios/rings.py lacks")
    return found
