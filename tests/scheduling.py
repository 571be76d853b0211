"""Which worker of pytest-xdist runs which test."""

from __future__ import annotations

from xdist.scheduler import LoadGroupScheduling
from xdist.workermanage import WorkerController


class GroupScheduling(LoadGroupScheduling):  # type: ignore[misc]  # it comes without types
    """`--dist loadgroup`, which goes on when a worker has died.

    pytest-xdist 3.8.0 stands still: it hands out what the dead worker had finished as work of no tests, of
    which no end is ever told, and lets a new worker wait for a second test before it runs its only one
    (its issues 1323 and 1327). It also runs the test again that the worker died of.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """The test that the worker died in, if it did; those that it has not begun go to others."""
        units = {
            scope: {test: False for test, done in unit.items() if not done}
            for scope, unit in self.assigned_work.pop(node).items()
        }
        died_in: str | None = next((test for unit in units.values() for test in unit), None)
        if died_in is None:
            return None
        for scope, unit in units.items():
            unit.pop(died_in, None)
            if unit:
                self.workqueue[scope] = unit
        for other in self.nodes:
            self._reschedule(other)
        return died_in

    def _reschedule(self, node: WorkerController) -> None:
        if node not in self.registered_collections:
            return  # it will ask once it has collected
        super()._reschedule(node)
        # A worker begins a test once it knows which is next, or that none is.
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)
