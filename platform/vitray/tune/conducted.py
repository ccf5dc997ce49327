"""What all schedulers of a sweep have in common: groups stay warm, and the conductor can stop any trial."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from vitray.tune.conductor import Conductor
from vitray.tune.record import TrialRecord

_START_S = 300.0  # a group has begun by then, also where a machine has to be started for it
_IDLE_S = 60.0  # a group that had no trial for so long is not just between two


def index_of(trial: Trial) -> int:
    return int(trial.config["job"]["index"])


class Conducted(TrialScheduler):
    """Tells the conductor what trials report, and asks ``judge`` and ``choose`` about those that search."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self._conductor = conductor
        self._keeps_actors = False
        self._idle_since: float | None = None  # not every group has had a trial since then

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
            # Tune's own way saves first, and hands the actor on only then: meanwhile another trial would get a new
            # actor, whose group has no place. Our checkpoints are the ranks' business.
            tune_controller.pause_trial(trial, should_checkpoint=False)
            self._conductor.paused(index)
            return TrialScheduler.NOOP
        return decision

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Of the trials that wait, the one to go on. Those that are new start by themselves."""
        if self._conductor.halted:
            return None
        if self._conductor.spent:
            for waiting in [t for t in tune_controller.get_trials() if t.status == Trial.PAUSED and self.searches(t)]:
                tune_controller.stop_trial(waiting)
        if self._groups_are_idle() and self._conductor.overdue(_START_S):
            tune_controller._cleanup_cached_actors(force_all=True)  # idle groups may hold the place of one that waits
        if self._conductor.full:
            return None
        trial = self.choose(tune_controller)
        if trial is not None and trial.status == Trial.PAUSED:
            record = self._conductor.go_on(index_of(trial))
            trial.set_config({"job": self._conductor.job(record)})  # as it stands now
            return trial
        return None

    def _groups_are_idle(self) -> bool:
        now = self._conductor.now()
        if self._conductor.full:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        return self._idle_since is not None and now - self._idle_since > _IDLE_S

    def judge(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """What becomes of a trial that searches and has reported."""
        return TrialScheduler.CONTINUE

    def choose(self, tune_controller: Any) -> Trial | None:
        """The trial that should go on."""
        return None

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None: ...
    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None: ...
    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None: ...
    def debug_string(self) -> str:
        return type(self).__name__
