"""When to save in mid-epoch: so that no more work than wanted is ever at risk, and at the same step on all ranks.

Time passes differently on each rank, so the first one decides and tells the others, at steps that all know of: soon
after the beginning, then when half of what is left until the next save should have passed, and so on. Such a look costs
a broadcast of two numbers; a step without one costs a comparison.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from vitray.experiment import TrainConfig
from vitray.train.checkpoint import CheckpointStore, Cost
from vitray.train.ranks import Ranks

NODE_FAILS_AFTER_S = 86_400.0  # on average, of one node: spot machines are lost more often, good ones far less
_MOST_OF_TIME = 0.01  # that saving may take where nobody has said how often
_LEAST_S = 10.0
_GUESS = Cost(stall_s=0.1, write_s=1.0, cpu_s=0.5)  # before the first save
_NEAR, _GROWTH = 8, 4  # steps that are not worth another look; how far ahead one may plan, by steps that were seen


def work_at_risk(wanted: float | None, cost: Cost, nodes: int) -> float:
    """Seconds between two copies of the weights.

    What is ``wanted`` counts up to the commit, so writing is taken off. None: Young (1974) and Daly (2006), sqrt(2 C M)
    for a cost C of a save and a mean time M between failures, here a day divided by the number of nodes.
    """
    if wanted is not None:
        return max(wanted - cost.write_s, cost.write_s)
    price = cost.stall_s + cost.cpu_s
    best = math.sqrt(2 * price * NODE_FAILS_AFTER_S / max(1, nodes))
    return max(best, price / _MOST_OF_TIME, cost.write_s, _LEAST_S)


class Cadence:
    """Asked by the loop after each step; all ranks get the same answer.

    Where it is time to save and the save before is not done, it is put off: training does not wait. Nor is one begun
    shortly before the end of an epoch, which would have to wait for it.

    Args:
        store: the first rank's says what a save takes.
        step: from which training goes on.
        per_epoch: steps.
        clock: seconds.
    """

    def __init__(
        self,
        config: TrainConfig,
        ranks: Ranks,
        store: CheckpointStore,
        *,
        step: int,
        per_epoch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every = config.checkpoint_steps
        self._wanted, self._ranks, self._store, self._clock = config.seconds_at_risk, ranks, store, clock
        self._per_epoch = per_epoch
        self._begun, self._safe_at = step, clock()
        self._next = self._multiple(step) if self._every else step + 1
        self._seen: tuple[int, float] | None = None  # a step, and when it was done

    def _multiple(self, step: int) -> int:
        assert self._every is not None
        return (step // self._every + 1) * self._every

    def after(self, step: int) -> bool:
        """Whether to save now."""
        if step < self._next:
            return False
        if self._every:
            self._next = self._multiple(step)
            return step % self._every == 0
        if self._seen is None:  # the first step is a slow one
            self._seen, self._next = (step, self._clock()), step + 1
            return False
        now, self._next = self._ranks.tell_numbers(*(self._look(step) if self._ranks.first else (0, 0)))
        return bool(now)

    def saved(self) -> None:
        """The weights of this moment are being saved."""
        self._safe_at = self._clock()

    @property
    def overdue(self) -> bool:
        """Whether more is at risk than is wanted, for the first rank to ask where no step ends."""
        return not self._every and self._clock() - self._safe_at > self._interval

    @property
    def _cost(self) -> Cost:
        return self._store.cost or _GUESS

    @property
    def _interval(self) -> float:
        return work_at_risk(self._wanted, self._cost, self._ranks.nodes)

    def _look(self, step: int) -> tuple[int, int]:
        """Whether to save now (1 or 0), and the step at which to look again."""
        assert self._seen is not None
        now = self._clock()
        a_step = max((now - self._seen[1]) / max(1, step - self._seen[0]), 1e-6)
        self._seen = step, now
        interval = self._interval
        left = interval - (now - self._safe_at)
        due = left < a_step  # the next step would be too late
        until_end = (self._per_epoch - step % self._per_epoch) * a_step
        save = due and not self._store.busy and until_end > self._cost.write_s
        ahead = int((interval if save else self._cost.write_s / 4 if due else left) / a_step)
        if ahead > _NEAR:
            ahead = min(ahead // 2, _GROWTH * (step - self._begun))
        return int(save), step + max(1, ahead)
