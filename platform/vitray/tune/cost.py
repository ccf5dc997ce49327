"""What a sweep will cost before it runs: operations, and the hours of its workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitray.experiment import Experiment
from vitray.model_size import flops
from vitray.tune.keys import changed

if TYPE_CHECKING:
    from vitray.tune.plan import SweepPlan
    from vitray.tune.speed import Speed

_MOST = 2_000  # trials that are looked at one by one
_HOUR = 3600.0
PerEpoch = Callable[[Experiment], float]


@dataclass(frozen=True)
class Cost:
    """``expected`` by the scheduler's rungs, and ``at_most``, with every trial to its last epoch."""

    expected: float
    at_most: float

    def describe(self, unit: float = 1.0, most: float = float("inf")) -> dict[str, float]:
        return {"expected": min(self.expected / unit, most), "at_most": min(self.at_most / unit, most)}


def describe_cost(plan: SweepPlan, images: int, speed: Speed | None) -> dict[str, object]:
    """The cost of the search and of what follows it, as plain values; ``images`` of the train split."""
    trials = _sample(plan)
    budget = plan.search.budget

    def operations(experiment: Experiment) -> float:
        return float(flops(experiment.model).training * images)

    after: dict[str, object] = {"repeats": _repeats(plan), "retraining_epochs": _retraining_epochs(plan)}
    facts: dict[str, object] = {
        "training_flops": searching(plan, trials, operations).describe(),
        "worker_hours": None,
        "afterwards": after,
    }
    after["training_flops"] = following(plan, trials, operations).describe()
    after["worker_hours"] = None
    if speed is not None:

        def seconds(experiment: Experiment) -> float:
            return speed.seconds(experiment, images)

        at_once = min(plan.groups.groups, len(plan.points)) * plan.groups.ranks
        most = min(budget.worker_hours or float("inf"), (budget.minutes or float("inf")) / 60 * at_once)
        hours = searching(plan, trials, seconds).describe(_HOUR, most)
        facts["worker_hours"] = {**hours, "source": speed.source}
        facts["wall_hours_expected"] = min(hours["expected"] / at_once, (budget.minutes or float("inf")) / 60)
        after["worker_hours"] = following(plan, trials, seconds).describe(_HOUR)
    return facts


def searching(plan: SweepPlan, trials: Sequence[Experiment], per_epoch: PerEpoch) -> Cost:
    """What the trials that search cost. Who reaches a rung is not known, so each counts with the mean of all."""
    last = plan.epochs
    costs = [(per_epoch(t), t.train.epochs) for t in trials]
    share = plan.searched / len(costs)
    at_most = sum(cost * epochs for cost, epochs in costs) * share
    rungs = plan.rungs()
    if len(rungs) == 1:
        return Cost(at_most, at_most)
    rungs = [*rungs, (last, rungs[-1][1])] if rungs[-1][0] < last else rungs
    expected, begin = 0.0, 0
    for end, reach in rungs:
        spent = sum(cost * max(0, min(end, epochs) - begin) for cost, epochs in costs)
        expected += spent * reach / len(costs)
        begin = end
    return Cost(min(expected, at_most), at_most)


def following(plan: SweepPlan, trials: Sequence[Experiment], per_epoch: PerEpoch) -> Cost:
    """What the repeats of finalists and the final retraining cost: of a trial as the mean, and as the dearest."""
    costs = [(per_epoch(t), t.train.epochs) for t in trials]
    repeated = [cost * epochs for cost, epochs in costs]
    retrained = [cost * (plan.search.retrain_epochs or epochs) * plan.search.retrain for cost, epochs in costs]
    of = _repeats(plan)
    mean = (sum(repeated) * of + sum(retrained)) / len(costs)
    return Cost(mean, max(repeated) * of + max(retrained))


def _repeats(plan: SweepPlan) -> int:
    return min(plan.search.finalists, plan.searched) * plan.search.seeds if plan.search.repeats else 0


def _retraining_epochs(plan: SweepPlan) -> int | None:
    if not plan.search.retrain:
        return None
    return plan.search.retrain_epochs or plan.experiment.train.epochs


def _sample(plan: SweepPlan) -> list[Experiment]:
    """The experiments of the trials, or of every n-th where they are many."""
    return [changed(plan.experiment, point) for point in plan.points[:: -(-len(plan.points) // _MOST)]]
