"""The launch budget: what a poison message, or a broken deployment, may cost at most.

One small object in the record store, changed by compare-and-swap by all dispatchers and runners. A
launch is booked before it is asked for, so that a dispatcher killed in between has spent a part of
the budget rather than gone over it.

Each pool has a circuit breaker, which looks at runs, not at tasks: after so many failures in a row that
look the same, it opens for a while. Then what arrives is parked, runners stop draining and no task is
launched; after the cool-down one task may try (half-open), and the first run that succeeds closes it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from time import time

import msgspec

from lambda_shim.objects import ABSENT, Conflict, Objects
from lambda_shim.records import OWN

log = logging.getLogger("lambda_shim")

KEY = "overflow/budget.json"

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"

HOUR = 3600.0

# The longest waits, in seconds: after refused launches, and between a record's failed runs.
REFUSED_WAIT_MOST, RUN_WAIT_MOST = 600.0, 3600.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the overflow may spend.

    Attributes:
        tasks: at once.
        launches: an hour, over any sixty minutes.
        failures: that many runs in a row that fail the same way open the circuit.
        cool_down: seconds until it is tried again.
        runs: failed runs of one record, until it is parked.
        starts: tasks named for one record that stopped before they took it up, until it is parked.
        refused_wait: seconds between a launch that was refused (no capacity, no permission) and the
            next; doubles with each in a row.
        run_wait: seconds between a record's first failed run and its next; doubles with each.
    """

    tasks: int = 2
    launches: int = 20
    failures: int = 5
    cool_down: float = 900.0
    runs: int = 3
    starts: int = 3
    refused_wait: float = 15.0
    run_wait: float = 60.0

    def again_at(self, runs: int, now: float) -> float:
        """When a record may be run again after so many failed runs; seconds since 1970."""
        return now + min(self.run_wait * 2.0 ** (runs - 1), RUN_WAIT_MOST)


def limits_of(environ: Mapping[str, str]) -> Limits:
    """``OVERFLOW_LIMITS``: a JSON object with the fields of Limits, all optional. Raises ValueError
    naming the variable and the field."""
    try:
        return msgspec.json.decode(environ.get("OVERFLOW_LIMITS") or "{}", type=Limits)
    except msgspec.DecodeError as error:
        raise ValueError(f"OVERFLOW_LIMITS: {error}") from None


class Task(msgspec.Struct, omit_defaults=True):
    """A task that was asked for and has not ended, as far as is known.

    Attributes:
        key: the record it was launched for.
        pool: whose records it takes.
        booked_at: seconds since 1970.
        arn: None until RunTask has answered.
        reported: its runner has told of a run, so that its end is no news for the circuit.
        subnet: that it was asked for in last, where that was not the first to be asked.
    """

    key: str
    pool: str
    booked_at: float
    arn: str | None = None
    reported: bool = False
    subnet: str | None = None


class Pool(msgspec.Struct, omit_defaults=True):
    """How a pool's runs and launches have gone lately.

    Attributes:
        signature: how the last run failed; None after one that succeeded.
        failures: how many runs in a row have failed like that.
        opened_at: when the circuit opened last; None while it is closed.
        refusals: launches refused in a row.
        not_before: no launch until then.
    """

    signature: str | None = None
    failures: int = 0
    opened_at: float | None = None
    refusals: int = 0
    not_before: float = 0.0


class Budget(msgspec.Struct, omit_defaults=True):
    """The budget as it stands.

    Attributes:
        tasks: by launch.
        launched_at: of the last hour's launches, seconds since 1970.
        pools: by name; those of which there is something to tell.
    """

    tasks: dict[str, Task] = {}
    launched_at: list[float] = []
    pools: dict[str, Pool] = {}

    def of(self, pool: str) -> Pool:
        """The pool's, to be changed."""
        return self.pools.setdefault(pool, Pool())


def signature(error: BaseException | str) -> str:
    """What failures that look the same have in common: type and first line, without numbers,
    quoted names and ids."""
    from lambda_shim.contract import describe, encodable

    text = error if isinstance(error, str) else describe(error)
    line = text.strip()[:1000].splitlines()[0] if text.strip() else ""
    line = re.sub(r"'[^']*'|\"[^\"]*\"", "…", line) if "No module named" not in line else line
    return encodable(re.sub(r"\b[0-9a-fA-F-]*\d[0-9a-fA-F-]*\b", "#", line)[:200])


def _decoded(data: bytes) -> Budget:
    """The budget; a new one in place of what somebody has broken by hand: the leases of records keep
    what runs from being run twice."""
    try:
        return msgspec.json.decode(data, type=Budget)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.error("the launch budget cannot be read, and begins anew: %s", error)
        return Budget()


class LaunchBudget:
    """The budget in a store.

    Args:
        objects: the record store's.
        limits: what may be spent.
        clock: seconds since 1970.

    Every method raises what the store raises; and Conflict when others were faster fifty times.
    """

    def __init__(self, objects: Objects, limits: Limits, clock: Callable[[], float] = time) -> None:
        self.objects = objects
        self.limits = limits
        self.clock = clock

    def read(self) -> Budget:
        found = self.objects.get(KEY)
        return Budget() if found is None else _decoded(found[0])

    def circuit(self, pool: str = OWN, budget: Budget | None = None) -> str:
        """``closed``, ``open`` or ``half-open``."""
        opened_at = (budget or self.read()).of(pool).opened_at
        if opened_at is None:
            return CLOSED
        return OPEN if self.clock() < opened_at + self.limits.cool_down else HALF_OPEN

    def refusal(self, budget: Budget, pool: str = OWN) -> str | None:
        """Why nothing may be launched now; None when a launch is within the budget."""
        now = self.clock()
        circuit, state = self.circuit(pool, budget), budget.of(pool)
        if circuit == OPEN:
            return f"the circuit is open: {state.signature}"
        if circuit == HALF_OPEN and state.opened_at is not None:
            # Tasks from before may be busy for hours yet: they are no trial.
            since = state.opened_at + self.limits.cool_down
            tasks = [task for task in budget.tasks.values() if task.pool == pool]
            if any(task.booked_at >= since for task in tasks):
                return f"the circuit is half-open, one task tries: {state.signature}"
        if len(budget.tasks) >= self.limits.tasks:
            return f"{len(budget.tasks)} tasks at once, of {self.limits.tasks}"
        recent = [at for at in budget.launched_at if at > now - HOUR]
        if len(recent) >= self.limits.launches:
            return f"{len(recent)} launches within an hour, of {self.limits.launches}"
        if now < state.not_before:
            return f"{state.refusals} launches were refused, the next in due time"
        return None

    def book(self, launch: str, key: str, pool: str, at: float | None = None) -> str | None:
        """Spend a launch, or say why not. Booking the same launch again changes nothing."""
        why: str | None = None

        def change(budget: Budget) -> bool:
            nonlocal why
            why = None
            if launch in budget.tasks:
                why = "already booked"
                return False
            if any(task.key == key for task in budget.tasks.values()):
                why = "a task for this record is on its way"
                return False
            if (why := self.refusal(budget, pool)) is not None:
                return False
            now = self.clock() if at is None else at
            budget.tasks[launch] = Task(key, pool, now)
            budget.launched_at = [at for at in budget.launched_at if at > now - HOUR] + [now]
            return True

        self._change(change)
        return why

    def asked_in(self, launch: str, subnet: str) -> None:
        """RunTask is about to be asked for it in this subnet, having refused it in all before."""

        def change(budget: Budget) -> bool:
            if (task := budget.tasks.get(launch)) is None:
                return False
            task.subnet = subnet
            return True

        self._change(change)

    def started(self, launch: str, arn: str) -> None:
        """RunTask has answered with a task."""

        def change(budget: Budget) -> bool:
            if (task := budget.tasks.get(launch)) is None:  # it has ended already
                return False
            task.arn = arn
            state = budget.of(task.pool)
            state.refusals, state.not_before = 0, 0.0
            return True

        self._change(change)

    def refused(self, launch: str) -> None:
        """RunTask has refused: the launch is given back, and the next one waits."""

        def change(budget: Budget) -> bool:
            task = budget.tasks.pop(launch, None)
            if task is None:
                return False
            if task.booked_at in budget.launched_at:
                budget.launched_at.remove(task.booked_at)
            state = budget.of(task.pool)
            wait = min(self.limits.refused_wait * 2.0**state.refusals, REFUSED_WAIT_MOST)
            state.refusals += 1
            state.not_before = self.clock() + wait
            return True

        self._change(change)

    def ended(self, launch: str, failed: str | None) -> Task | None:
        """A task has ended; ``failed`` says how, None that it ended well.

        Returns it, or None when that is known already.
        """
        ended: Task | None = None

        def change(budget: Budget) -> bool:
            nonlocal ended
            ended = budget.tasks.pop(launch, None)
            if ended is None:
                return False
            if failed is not None and not ended.reported:
                self._count(budget.of(ended.pool), failed)
            return True

        self._change(change)
        return ended

    def ran(self, launch: str, failed: str | None, pool: str = OWN) -> str:
        """A runner of this pool tells of a run; ``failed`` is its signature, None for success.

        Returns the circuit's state.
        """
        state = CLOSED

        def change(budget: Budget) -> bool:
            nonlocal state
            task = budget.tasks.get(launch)
            news = task is not None and not task.reported
            if task is not None:
                task.reported = True
            runs = budget.of(pool)
            if failed is not None:
                self._count(runs, failed)
                news = True
            elif runs.failures or runs.opened_at is not None:
                runs.signature, runs.failures, runs.opened_at = None, 0, None
                news = True
            state = self.circuit(pool, budget)
            return news

        self._change(change)
        return state

    def _count(self, pool: Pool, failed: str) -> None:
        pool.failures = pool.failures + 1 if failed == pool.signature else 1
        pool.signature = failed
        # Half-open, one more failure is enough, whatever it looks like.
        if pool.failures >= self.limits.failures or pool.opened_at is not None:
            pool.opened_at = self.clock()

    def _change(self, change: Callable[[Budget], bool]) -> None:
        from random import random
        from time import sleep

        for swap in range(50):
            found = self.objects.get(KEY)
            budget = Budget() if found is None else _decoded(found[0])
            if not change(budget):
                return
            data = msgspec.json.format(msgspec.json.encode(budget), indent=2) + b"\n"
            try:
                self.objects.put(KEY, data, ABSENT if found is None else found[1])
            except Conflict:
                sleep(random() * 0.005 * (swap + 1))
                continue
            return
        raise Conflict(KEY)
