"""Every way to fail, times every fault: the message ends done, or parked with the right reason."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from .world import Fault, World

# What the message does, what the surroundings do, and how it ends: None is done, else the reasons
# with which it may be parked.
MODES: dict[str, tuple[str, Callable[[World], None], set[str] | None]] = {
    "needs more time": ("needs more time", lambda w: None, None),
    "deadline": ("sleep", lambda w: None, None),
    "crash": ("crash", lambda w: None, None),
    "malformed": ("malformed", lambda w: None, {"malformed"}),
    "reject": ("reject", lambda w: None, {"rejected"}),
    # When the store refuses the record on the last delivery, SQS dead-letters it: then it is run.
    "exception": ("fail", lambda w: None, {"retries_exhausted", "run_failed"}),
    "exception in the task": ("fail in the task", lambda w: None, {"run_failed"}),
    "reject in the task": ("reject in the task", lambda w: None, {"rejected"}),
    "retry in the task": ("retry in the task", lambda w: None, None),
    "task dies": ("die in the task", lambda w: None, {"task_stopped"}),
    "task never starts": (
        "needs more time",
        lambda w: setattr(w, "stillborn", True),
        {"never_started"},
    ),
    "no capacity": ("needs more time", lambda w: setattr(w, "refusals", 2), None),
    "task vanishes": ("needs more time", lambda w: setattr(w, "vanishing", 1), None),
}


def no_fault(world: World, chance: random.Random) -> None:
    pass


def killed_dispatcher(world: World, chance: random.Random) -> None:
    world.faults = {"dispatcher": [Fault("kill", chance.randint(1, 14)) for _ in range(2)]}


def killed_runner(world: World, chance: random.Random) -> None:
    world.faults = {"runner": [Fault("kill", chance.randint(1, 12))]}


def lost_acknowledgement(world: World, chance: random.Random) -> None:
    world.lost_answers = 1
    world.faults = {
        name: [Fault("lost", chance.randint(1, 8), 1)]
        for name in ("worker", "dispatcher", "runner")
    }


def duplicate_delivery(world: World, chance: random.Random) -> None:
    world.duplicates = True


def store_unavailable(world: World, chance: random.Random) -> None:
    world.faults = {
        "worker": [Fault("unavailable", chance.randint(1, 3))],
        "dispatcher": [Fault("unavailable", chance.randint(1, 8)) for _ in range(2)],
        "runner": [Fault("unavailable", chance.randint(1, 10), 3)],
    }


def store_write_refused(world: World, chance: random.Random) -> None:
    world.faults = {
        "worker": [Fault("refused", chance.randint(1, 3))],
        "dispatcher": [Fault("refused", chance.randint(1, 8)) for _ in range(2)],
        "runner": [Fault("refused", chance.randint(1, 10), 3)],
    }


FAULTS = [
    no_fault,
    killed_dispatcher,
    killed_runner,
    lost_acknowledgement,
    duplicate_delivery,
    store_unavailable,
    store_write_refused,
]


def run(
    directory: Path, mode: str, fault: Callable[[World, random.Random], None], seed: str
) -> None:
    does, surround, reasons = MODES[mode]
    world = World(directory)
    surround(world)
    fault(world, random.Random(seed))
    world.send(does)
    body = world.work[0]["body"]
    world.settle()
    records = world.records().list()
    told = f"seed {seed!r}: {[(r.state, r.reason, r.error, r.history) for r in records]}"
    if reasons is None:
        assert records == [], told
        assert world.effects("order-1") == 1, told
    else:
        (parked,) = records
        if fault in (killed_runner, store_unavailable, store_write_refused):
            # The run that was cut off is counted as well, whatever the job would have done.
            reasons = reasons | {"task_stopped"} if "run_failed" in reasons else reasons
        assert parked.state == "parked", told
        assert parked.reason in reasons, told
        assert parked.body == body
        assert world.effects("order-1") == 0, told


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_lost(
    mode: str, fault: Callable[[World, random.Random], None], tmp_path: Path
) -> None:
    run(tmp_path, mode, fault, f"{mode}/{fault.__name__}")


@pytest.mark.stress
@pytest.mark.parametrize("number", range(100))
def test_nothing_is_lost_at_random_times(number: int, tmp_path: Path) -> None:
    """The whole matrix, a hundred times; LAMBDA_SHIM_SEED runs one of them again."""
    base = os.environ.get("LAMBDA_SHIM_SEED") or f"{random.SystemRandom().getrandbits(48):x}"
    print(f"LAMBDA_SHIM_SEED={base}")
    for mode in MODES:
        for fault in FAULTS:
            directory = tmp_path / f"{mode}-{fault.__name__}".replace(" ", "-")
            directory.mkdir()
            run(directory, mode, fault, f"{base}/{mode}/{fault.__name__}")


def test_the_window_between_the_effect_and_its_note_repeats_the_effect(tmp_path: Path) -> None:
    """The one repeat that no ledger absorbs; each kill in the window costs one."""
    world = World(tmp_path)
    world.window = 2
    world.send("needs more time")
    world.settle()
    assert world.records().list() == []
    assert world.effects("order-1") == 3


def test_a_task_takes_over_the_claim_that_the_killed_function_left_behind(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.ledger().claim("order-1#effect", "a killed function", 900) == ("claimed", 0.0)
    world.send("needs more time")
    world.settle()
    assert world.records().list() == []
    assert world.effects("order-1") == 1


def test_one_task_drains_many_records(tmp_path: Path) -> None:
    world = World(tmp_path, tasks=1)
    for number in range(20):
        world.send("needs more time", str(number), f"m{number}")
    world.settle()
    assert world.records().list() == []
    assert [world.effects(f"order-{number}") for number in range(20)] == [1] * 20
    assert len(world.started) <= 2
