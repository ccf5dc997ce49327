"""tpe and nsga2: Optuna's samplers, asked one proposal at a time for a valid point that was not tried.

TPE: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", here with the joint density of all keys
(Falkner et al. 2018, BOHB) and with running trials counted as bad ones, so that trials at once differ.
NSGA-II: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial

from vitray.search_config import HIGHER_IS_BETTER
from vitray.tune.history import Direction, History, Outcome
from vitray.tune.keys import Point, changed
from vitray.tune.pareto import objective_values
from vitray.tune.proposer import Points, proposal_seed
from vitray.tune.record import TrialRecord
from vitray.tune.space import Frozen, frozen
from vitray.tune.suggest import distributions, suggested

if TYPE_CHECKING:
    from vitray.tune.plan import SweepPlan

_ASKS = 16  # a sampler that was refused so often is stuck
_FEW, _MANY = 10, 50  # TPE's trials before it begins to guide; NSGA-II's largest generation


class _Tpe(TPESampler):
    """TPE over keys that every trial has, which it would else look up in all of them each time."""

    def __init__(self, together: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(multivariate=True, **options)
        self._together = together

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._together


class _Nsga2(NSGAIISampler):
    """NSGA-II over keys that every trial has."""

    def __init__(self, together: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(**options)
        self._together = together

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._together


class Searcher:
    """Begins with points spread evenly over the space, then proposes what the sampler asks for.

    The sampler is made anew, seeded by the number of the proposal, each time: what it drew before has no say.
    """

    def __init__(self, plan: SweepPlan, earlier: Sequence[TrialRecord] = ()) -> None:
        self._plan, self._search, self._space = plan, plan.search, plan.space
        usable = [record for record in earlier if plan.space.point_in(record.point) is not None]
        self._points = Points(plan.space)
        self._tried = Points(plan.space).of(usable)
        trials = self._search.trials
        # With few trials, an even half of them may be guided; three in four by generations.
        self._begin = max(2, min(_FEW, trials // 2) if self._search.algorithm == "tpe" else min(_MANY, trials // 4))
        evenly = max(0, self._begin - len(usable))
        self._spread = plan.space.random(evenly, self._search.seed) if evenly else []
        if self._search.algorithm == "tpe":
            directions: list[Direction] = ["maximize" if self._search.mode == "max" else "minimize"]
        else:
            directions = ["maximize" if o in HIGHER_IS_BETTER else "minimize" for o in self._search.objectives]
        self._together = {n: d for n, d in sorted(distributions(plan.space).items()) if not d.single()}
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
        study.sampler = self._sampler(seed)
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

    def _sampler(self, seed: int) -> BaseSampler:
        if self._search.algorithm == "nsga2":
            return _Nsga2(self._together, population_size=self._begin, seed=seed)
        if not self._space.conditions.by_key:
            return _Tpe(self._together, n_startup_trials=self._begin, seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # Keys that are always part of a point together are drawn together.
            return TPESampler(n_startup_trials=self._begin, multivariate=True, group=True, seed=seed)

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
        experiment = changed(self._plan.experiment, {**record.values, **record.point})
        values = objective_values(record, experiment, self._search.objectives)
        return Outcome(values if all(map(math.isfinite, values)) else None)
