"""The schedulers of a sweep: they judge the trials that search; repeats and the retraining run through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from vitray.tune.bands import Bands
from vitray.tune.conducted import Conducted
from vitray.tune.conductor import FAILURE, Conductor
from vitray.tune.pbt import Population
from vitray.tune.record import TrialRecord


def make_scheduler(conductor: Conductor) -> TrialScheduler:
    """The scheduler that a sweep asks for."""
    search, epochs = conductor.search, conductor.sweep.plan.epochs
    grace = min(search.grace_epochs, epochs)
    match search.scheduler:
        case "pbt":
            return Population(conductor)
        case "hyperband":
            return Bands(conductor)
        case "asha":
            # time_attr: training_iteration restarts after a restore
            factor = search.reduction_factor
            asha = ASHAScheduler(time_attr="epoch", max_t=epochs, grace_period=grace, reduction_factor=factor)
            return Judged(conductor, asha)
        case "median":
            return Judged(conductor, MedianStoppingRule(time_attr="epoch", grace_period=grace))
        case "none":
            return Conducted(conductor)


class Judged(Conducted):
    """Trials are judged by one of Tune's own schedulers, which hears each report once.

    A sweep that goes on after its driver died rebuilds the scheduler from the ledger: every report is given to it
    again, in the order in which they came. What it says of a trial's last one stands, for it may not have been carried
    out; the trial repeats that report, or others before it, when it goes on from its checkpoint.
    """

    def __init__(self, conductor: Conductor, inner: TrialScheduler) -> None:
        super().__init__(conductor)
        inner.set_search_properties(conductor.search.metric, conductor.search.mode)
        self._inner = inner
        self._heard: dict[int, _Heard] = {}
        told = Counter[int]()
        for index in conductor.ledger.past:
            record = conductor.ledger.records[index]
            if record.kind == "search":
                self._hear(record, record.reports[told[index]])
            told[index] += 1

    def judge(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self._hear(self.record(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if self.searches(trial) and result and FAILURE not in result:
            self._hear(self.record(trial), result)  # of the last report of a trial that is done nobody was asked

    def _hear(self, record: TrialRecord, report: Mapping[str, Any]) -> str:
        heard = self._heard.get(record.index)
        if heard is None:
            heard = self._heard[record.index] = _Heard(record.name)
            self._inner.on_trial_add(_NO_CONTROLLER, heard)
        epoch = int(report["epoch"])
        if epoch > heard.epoch:
            result = {**report, "epoch": epoch}
            heard.epoch = epoch
            heard.decision = self._inner.on_trial_result(_NO_CONTROLLER, heard, result)
        return heard.decision if epoch == heard.epoch else TrialScheduler.CONTINUE


@dataclass(eq=False)
class _Heard:
    """A trial as far as the inner scheduler looks at it, through any number of drivers. Each is its own key."""

    trial_id: str
    epoch: int = 0
    decision: str = TrialScheduler.CONTINUE


# Of the controller the median rule asks only whether others wait, to let them go first: a group for nothing.
_NO_CONTROLLER: Any = SimpleNamespace(get_live_trials=list)
