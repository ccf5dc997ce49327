"""Tune's schedulers under the conductor: they judge the trials that search; repeats and the retraining run through.

A sweep that goes on after its driver died rebuilds its scheduler from the ledger: the reports of every trial are given
to it again, those that ended as well as those that go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, MedianStoppingRule, TrialScheduler

from vitray.tune.conductor import Conductor
from vitray.tune.record import TrialRecord


def make_scheduler(conductor: Conductor) -> TrialScheduler:
    """The scheduler that a sweep asks for."""
    from vitray.tune.pbt import Population  # which is built on this module

    return Population(conductor) if conductor.search.scheduler == "pbt" else Judged(conductor, _inner(conductor))


def index_of(trial: Trial) -> int:
    return int(trial.config["job"]["index"])


class Conducted(TrialScheduler):
    """What all schedulers here have in common: groups stay warm, and the conductor can stop any trial."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self._conductor = conductor
        self._keeps_actors = False

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def record(self, trial: Trial) -> TrialRecord:
        return self._conductor.ledger.records[index_of(trial)]

    def searches(self, trial: Trial) -> bool:
        return self.record(trial).kind == "search"

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if not self._keeps_actors:
            # Tune keeps the actor of a trial that ends only if another trial waits already, or it is the only one. Ours
            # wait for results instead (the last of a search, a generation), and an actor takes its group along.
            tune_controller._actor_cache.increase_max(
                trial.placement_group_factory, by=self._conductor.sweep.plan.groups.groups
            )
            self._keeps_actors = True

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        index = index_of(trial)
        self._conductor.reported(index, result)
        if self._conductor.must_stop(index):
            return TrialScheduler.STOP
        decision = self.judge(tune_controller, trial, result) if self.searches(trial) else TrialScheduler.CONTINUE
        if decision == TrialScheduler.PAUSE:
            self._conductor.paused(index)
        return decision

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Of the trials that wait, the one to go on. Those that are new start by themselves."""
        if self._conductor.halted:
            return None
        if self._conductor.spent:
            for waiting in [t for t in tune_controller.get_trials() if t.status == Trial.PAUSED and self.searches(t)]:
                tune_controller.stop_trial(waiting)
        if self._conductor.full:
            return None
        trial = self.choose(tune_controller)
        if trial is not None and trial.status == Trial.PAUSED:
            record = self._conductor.go_on(index_of(trial))
            trial.set_config({"job": self._conductor.job(record)})  # as it stands now
            return trial
        return None

    def judge(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """What becomes of a trial that searches and has reported."""
        raise NotImplementedError

    def choose(self, tune_controller: Any) -> Trial | None:
        """The trial that should go on."""
        return None

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None: ...
    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None: ...
    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None: ...
    def debug_string(self) -> str:
        return type(self).__name__


class Judged(Conducted):
    """Trials are judged by one of Tune's own schedulers."""

    def __init__(self, conductor: Conductor, inner: TrialScheduler) -> None:
        super().__init__(conductor)
        search = conductor.search
        inner.set_search_properties(search.metric, search.mode)
        self._inner = inner
        # Of the controller the median rule asks only whether others wait, to let them go first: a group for nothing.
        self._alone = isinstance(inner, MedianStoppingRule)
        self._replays = not isinstance(inner, HyperBandScheduler)  # its brackets wait for trials that are alive
        for record in conductor.records if self._replays else ():
            if record.kind == "search" and record.ended:
                past: Any = _Past(record.name)
                inner.on_trial_add(_NO_CONTROLLER, past)
                self._replay(record, past)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        if self.searches(trial):
            self._inner.on_trial_add(tune_controller, trial)
            if self._replays:
                self._replay(self.record(trial), trial)

    def judge(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        controller = _NO_CONTROLLER if self._alone else tune_controller
        decision: str = self._inner.on_trial_result(controller, trial, result)
        return decision

    def choose(self, tune_controller: Any) -> Trial | None:
        chosen: Trial | None = self._inner.choose_trial_to_run(tune_controller)
        return chosen

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if self.searches(trial):
            self._inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if self.searches(trial):
            self._inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        if self.searches(trial):
            self._inner.on_trial_remove(tune_controller, trial)

    def _replay(self, record: TrialRecord, trial: Any) -> None:
        for report in record.reports:
            self._inner.on_trial_result(_NO_CONTROLLER, trial, result_of(report))


class _HyperBand(HyperBandScheduler):
    """Tune's, whose brackets wait for the trials that they still lack: ours come when a group is free for them."""

    def __init__(self, conductor: Conductor, **kwargs: Any) -> None:
        super().__init__(time_attr="epoch", **kwargs)
        self._conductor = conductor

    def _create_bracket(self, s: int) -> Any:
        bracket: Any = super()._create_bracket(s)
        bracket.filled = lambda: (
            len(bracket._all_trials) >= bracket._n0
        )  # Tune counts those alive: all come at once there
        return bracket

    def _process_bracket(self, tune_controller: Any, bracket: Any) -> str:
        if not bracket.filled() and self._conductor.more_to_come:
            return TrialScheduler.PAUSE
        action: str = super()._process_bracket(tune_controller, bracket)
        return action

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        chosen: Trial | None = super().choose_trial_to_run(tune_controller)
        if chosen is None and not self._conductor.more_to_come:
            # Nobody reports any more in a bracket that waited for trials which, as it turns out, do not come.
            for bracket in (b for band in self._hyperbands for b in band if b is not None):
                live = bracket.current_trials()
                waits = live and all(t.status == Trial.PAUSED for t in live) and not bracket.trials_to_unpause
                if waits and bracket.cur_iter_done():
                    self._process_bracket(tune_controller, bracket)
            chosen = super().choose_trial_to_run(tune_controller)
        return chosen


@dataclass(eq=False)
class _Past:
    """A trial of an earlier driver, as far as a scheduler looks at it. Each is its own key."""

    trial_id: str
    status: str = Trial.TERMINATED


_NO_CONTROLLER: Any = SimpleNamespace(get_live_trials=list, get_trials=list, search_alg=None)


def result_of(report: Mapping[str, float]) -> dict[str, Any]:
    """A report of the ledger as Tune's schedulers read results."""
    return {**report, "epoch": int(report["epoch"])}


def _inner(conductor: Conductor) -> TrialScheduler:
    search, epochs = conductor.search, conductor.sweep.plan.experiment.train.epochs
    grace = min(search.grace_epochs, epochs)
    # time_attr: training_iteration restarts after a restore
    if search.scheduler == "asha":
        return ASHAScheduler(
            time_attr="epoch", max_t=epochs, grace_period=grace, reduction_factor=search.reduction_factor
        )
    if search.scheduler == "hyperband":
        return _HyperBand(conductor, max_t=epochs, reduction_factor=search.reduction_factor)
    if search.scheduler == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=grace)
    return FIFOScheduler()
