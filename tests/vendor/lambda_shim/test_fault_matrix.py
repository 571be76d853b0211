"""Every way to fail, times every fault: the message ends done, or parked with the right reason."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lambda_shim.budget import Limits
from lambda_shim.ecs import LAUNCH

from .world import ANOTHERS, Fault, World, registry


class Mode(NamedTuple):
    """One way to fail.

    Attributes:
        does: what the messages of one batch do; see ``world.handle``.
        reasons: with which of them each may be parked; None: all are done. A list: message by message.
        surround: what the surroundings do.
    """

    does: tuple[str, ...]
    reasons: set[str] | list[set[str] | None] | None = None
    surround: Callable[[World], object] = lambda world: None


def having(**attributes: Any) -> Callable[[World], object]:
    """Surroundings with these attributes of World's."""
    return lambda world: vars(world).update(attributes)


more_time = ("needs more time",)
MODES: dict[str, Mode] = {
    "needs more time": Mode(more_time),
    "deadline": Mode(("sleep",)),
    "timeout": Mode(("hang",)),
    "crash": Mode(("crash",)),
    "batch-mates of a crash": Mode(("nothing", "crash", "nothing")),
    "parked, then a crash": Mode(
        ("malformed", "fail", "crash"),
        [{"malformed"}, {"retries_exhausted", "run_failed"}, None],
    ),
    "init fails": Mode(("nothing",), None, having(init_fails=True)),
    "malformed": Mode(("malformed",), {"malformed"}),
    "reject": Mode(("reject",), {"rejected"}),
    # When the store refuses the record on the last delivery, SQS dead-letters it: then it is run.
    "exception": Mode(("fail",), {"retries_exhausted", "run_failed"}),
    "exception in the task": Mode(("fail in the task",), {"run_failed"}),
    "reject in the task": Mode(("reject in the task",), {"rejected"}),
    "retry in the task": Mode(("retry in the task",)),
    # Two failures in a row open the circuit: what arrives from then on is parked unseen.
    "broken import in the task": Mode(
        ("crash", "needs more time"),
        {"run_failed", "circuit_open"},
        having(broken_import=True, limits=Limits(launches=1000, failures=2)),
    ),
    "task dies": Mode(("die in the task",), {"task_stopped"}),
    "task is stopped": Mode(("be stopped in the task",)),
    "task loses its lease": Mode(("lose the lease in the task",)),
    "task never starts": Mode(more_time, {"never_started"}, having(stillborn=True)),
    "task vanishes": Mode(more_time, None, having(vanishing=1)),
    "no capacity": Mode(more_time, None, having(answers=("no capacity",) * 4)),
    "no task in the answer": Mode(
        more_time, None, having(answers=("no tasks", "failures", "denied"))
    ),
    "no answer": Mode(more_time, None, having(answers=("no answer",))),
    "no subnets": Mode(("crash",), {"no_runner"}, having(subnets=())),
    "parked, then a crash, without tasks": Mode(
        ("malformed", "fail", "crash"),
        [{"malformed"}, {"retries_exhausted"}, {"dead_lettered"}],
        having(subnets=(), tasks_wanted=False),
    ),
    "another service's": Mode(("is another service's",), None, having(sources=registry())),
    "nobody's": Mode(("is nobody's",), {"not_registered"}, having(sources=registry())),
    "an image function's": Mode(
        ("is an image function's",), {"image_function"}, having(sources=registry())
    ),
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
    does, reasons, surround = MODES[mode]
    world = World(directory)
    surround(world)
    fault(world, random.Random(seed))
    names = [str(number) for number in range(len(does))]
    bodies = {f"m{name}": world.send(does[int(name)], name, f"m{name}") for name in names}
    world.settle()
    records = world.records().list()
    left = {record.message_id: record for record in records}
    assert len(left) == len(records)
    told = f"seed {seed!r}: {[(r.state, r.reason, r.error, r.history) for r in records]}"
    for number, name in enumerate(names):
        permitted = reasons[number] if isinstance(reasons, list) else reasons
        effects = world.effects(f"order-{name}")
        record = left.pop(f"m{name}", None)
        if permitted is None:
            assert record is None, told
            if does[number] in ANOTHERS:  # without a ledger, which would absorb a repeat
                effects = min(effects, 1)
            assert effects == 1, told
            continue
        if fault in (killed_runner, store_unavailable, store_write_refused):
            # The run that was cut off is counted as well, whatever the job would have done.
            permitted = permitted | {"task_stopped"} if "run_failed" in permitted else permitted
        assert record is not None, told
        assert record.body == bodies[f"m{name}"], told
        assert record.state == "parked", told
        assert record.reason in permitted, told
        assert effects == 0, told
    assert left == {}, told


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


def test_a_message_that_comes_back_when_it_was_done_gets_a_task_of_its_own(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.duplicates = True
    world.send("needs more time")
    world.settle()
    assert world.records().list() == []
    assert len(world.started) == 2
    launched = [json.loads(path.read_text()) for path in (tmp_path / "tasks").iterdir()]
    assert {each[LAUNCH] for each in launched} == {"m1.1"}


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
