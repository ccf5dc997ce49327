"""tpe and nsga2: Optuna's samplers, asked one proposal at a time for a valid point that was not tried."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from vitray.errors import ConfigError
from vitray.search_config import HIGHER_IS_BETTER
from vitray.tune.history import Direction, History, Outcome
from vitray.tune.keys import Point, changed
from vitray.tune.pareto import objective_values
from vitray.tune.proposer import NOTHING, Earlier, Points, proposal_seed
from vitray.tune.record import TrialRecord
from vitray.tune.samplers import make_sampler
from vitray.tune.space import Frozen, frozen
from vitray.tune.suggest import suggested

if TYPE_CHECKING:
    from vitray.tune.plan import SweepPlan

_ASKS = 16  # a sampler that was refused so often is stuck
_FEW, _MANY = 10, 50  # TPE's trials before it begins to guide; NSGA-II's largest generation


class Searcher:
    """Begins with points spread evenly over the space, then proposes what the sampler asks for.

    The sampler is made anew, seeded by the number of the proposal, each time: what it drew before has no say.
    """

    def __init__(self, plan: SweepPlan, earlier: Earlier = NOTHING) -> None:
        self._plan, self._search, self._space = plan, plan.search, plan.space
        usable = [record for record in earlier.records if plan.space.point_in(record.point) is not None]
        self._points = Points(plan.space)
        self._tried = {point: dict(point) for point in earlier.repeated}
        trials = self._search.trials
        # Of few trials half are guided. Many small generations come further than few large ones.
        self._begin = (
            max(2, min(_FEW, trials // 2)) if self._search.algorithm == "tpe" else max(4, min(_MANY, trials // 8))
        )
        evenly = max(0, self._begin - len(usable))
        self._spread = plan.space.random(evenly, self._search.seed) if evenly else []
        if self._search.algorithm == "tpe":
            directions: list[Direction] = ["maximize" if self._search.mode == "max" else "minimize"]
        else:
            directions = ["maximize" if o in HIGHER_IS_BETTER else "minimize" for o in self._search.objectives]
        outcome = self._of_one if self._search.algorithm == "tpe" else self._of_several
        self._history = History(plan.space, directions, outcome, usable, self._begin)

    def propose(self, records: Sequence[TrialRecord]) -> Point | None:
        known = self._tried | self._points.of(records)
        if len(records) >= self._search.trials or len(known) >= self._space.valid_size:
            return None
        for point in self._spread if len(records) < len(self._spread) else ():
            if frozen(point) not in known:
                return point
        seed = proposal_seed(self._search.seed, len(records))
        return self._asked(records, known.keys(), seed) or self._space.another(known.values(), seed)

    def _asked(self, records: Sequence[TrialRecord], known: Collection[Frozen], seed: int) -> Point | None:
        study = self._history.of(records)
        study.sampler = make_sampler(self._space, self._search.algorithm, self._begin, seed)
        asked = []
        try:
            for _ in range(_ASKS):
                # Refused ones stay open until one is taken: to TPE they are bad, so that it looks elsewhere.
                asked.append(study.ask())
                point = suggested(self._space, asked[-1])
                if frozen(point) not in known and self._space.holds(point):
                    return point
            return None
        finally:
            self._history.discard(asked)

    def _of_one(self, record: TrialRecord) -> Outcome:
        metric, mode = self._search.metric, self._search.mode
        if record.status == "done" and math.isfinite(best := record.best(metric, mode)):
            return Outcome((best,))
        if record.status == "stopped":
            return Outcome(None, {int(r["epoch"]): r[metric] for r in record.reports if metric in r})
        return Outcome()

    def _of_several(self, record: TrialRecord) -> Outcome:
        if record.status != "done":
            return Outcome()
        try:
            experiment = changed(self._plan.experiment, {**record.values, **record.point})
        except ConfigError:  # an earlier sweep's model, which does not go with what this one keeps fixed
            return Outcome()
        values = objective_values(record, experiment, self._search.objectives)
        return Outcome(values if all(map(math.isfinite, values)) else None)
