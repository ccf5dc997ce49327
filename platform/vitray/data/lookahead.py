"""How far Ray Data may run ahead of the rank: so many units begun and not yet taken, and no more.

Ray Data's own policies divide the cluster's CPUs and object store between pipelines by whole numbers, which leaves a
rank's pipeline on a small machine with one task at a time and lets it fill half the object store on a large one.

Its scheduling loop waits for tasks that run. Where none runs, since the rank has yet to take what is there, it does not
wait at all but goes round as fast as it can, in the rank's own process: training then took twice as long. So it is
made to wait here, for the rank.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any, ClassVar

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY
from ray.data._internal.execution.backpressure_policy.backpressure_policy import BackpressurePolicy
from ray.data._internal.execution.operators.map_operator import MapOperator

_KEY = "vitray.lookahead"
_WAIT_S = 0.05  # at most, for the rank; whether the stream was broken off is looked at in between


class Lookahead:
    """Counts a stream's units: at most ``limit`` are begun and not yet taken.

    How many of them run at once follows from the CPUs that a task reserves. The others wait where a CPU comes free, not
    here: Ray Data looks up ten times a second, so a task that it had yet to send would leave its CPU idle for 50 ms.
    """

    _known: ClassVar[dict[int, Lookahead]] = {}
    _numbers: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = self._begun = 0
        self._changed = threading.Condition()
        self._number = next(self._numbers)
        self._known[self._number] = self

    def take(self) -> None:
        """The consumer has the last block of a unit."""
        with self._changed:
            self._taken += 1
            self._changed.notify_all()

    def allows(self, operator: Any, *, new: int, more: bool) -> bool:
        """Whether the operator may begin a unit now. ``new``: how many it has begun since it asked; ``more``: it has
        one to begin.

        Where there is nothing to do until the rank takes a unit, this waits for it a little.
        """
        with self._changed:
            self._begun += new
            nothing_to_do = operator.num_active_tasks() == 0 and not (more and self._room)
            if nothing_to_do and operator.metrics.num_tasks_submitted:
                self._changed.wait(_WAIT_S)
            return self._room

    @property
    def _room(self) -> bool:
        return self._begun - self._taken < self.limit

    def close(self) -> None:
        self._known.pop(self._number, None)

    def govern(self, context: DataContext) -> None:
        """Make this the only policy of the pipelines that are started under ``context``."""
        # The context travels to tasks; a number is all that needs to.
        context.set_config(_KEY, self._number)
        context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [_Policy])

    @classmethod
    def of(cls, context: DataContext) -> Lookahead | None:
        return cls._known.get(context.get_config(_KEY, -1))


class _Policy(BackpressurePolicy):
    def __init__(self, data_context: DataContext, topology: Any, resource_manager: Any) -> None:
        super().__init__(data_context, topology, resource_manager)
        self._lookahead = Lookahead.of(data_context)
        self._begun = 0  # units, of this pipeline
        self._states = topology

    def can_add_input(self, op: Any) -> bool:
        # Of a pipeline's operators one has tasks; the other hands it the list of units.
        if self._lookahead is None or not isinstance(op, MapOperator):
            return True
        before, self._begun = self._begun, op.metrics.num_tasks_submitted
        more = self._states[op].has_pending_bundles()
        return self._lookahead.allows(op, new=self._begun - before, more=more)
