"""Plays Tune's loop and the worker groups around a sweep's scheduler: no Ray, one report at a time, and kills."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from silent import Silent

from vitray.experiment import Experiment
from vitray.tracking import RecordingTracker
from vitray.tune.conductor import FAILURE, FAILURE_CLASS, Conductor
from vitray.tune.ledger import Ledger
from vitray.tune.plan import plan_sweep
from vitray.tune.proposer import make_proposer
from vitray.tune.record import TrialRecord
from vitray.tune.state import Sweep

Score = Callable[[int, int], float]  # of a trial's index and an epoch


def sweep_of(folder: Path, groups: int, epochs: int, **search: Any) -> Sweep:
    experiment = Experiment(
        data={"path": "/data"},
        model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10},
        train={"epochs": epochs},
        search={"space": {"optim.lr": {"log": [1e-4, 1e-2]}}, "retrain": False, **search},
    )
    return Sweep("s", "s-0a1b", folder / "s", plan_sweep(experiment, cpus=groups, gpus=0), "fingerprint")


@dataclass(eq=False)
class PlayedTrial:
    """What a scheduler sees of one of Tune's trials."""

    config: dict[str, Any]
    status: str = "RUNNING"
    is_saving: bool = False
    placement_group_factory: Any = None

    @property
    def index(self) -> int:
        return int(self.config["job"]["index"])

    @property
    def trial_id(self) -> str:
        return f"played-{id(self)}"

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


@dataclass
class Played:
    """One sweep, through any number of drivers.

    ``order`` says which of the running trials reports next; after ``kills`` many reports the driver dies, with the last
    report written down and the decision about it lost. A trial that goes on does so from a checkpoint ``behind`` epochs
    before its last report. ``fails``: the epoch, by trial, that is never done.
    """

    sweep: Sweep
    score: Score
    order: random.Random = field(default_factory=lambda: random.Random(0))
    kills: Sequence[int] = ()
    behind: int = 0
    fails: dict[int, int] = field(default_factory=dict)
    reports: int = 0
    most_at_once: int = 0
    trained: list[tuple[int, int]] = field(default_factory=list)

    def run(self) -> list[TrialRecord]:
        """To the end."""
        while True:
            with closing(Ledger(self.sweep.folder)) as ledger:
                if _Driver(self, ledger).run():
                    return list(ledger.records.values())


class _Driver:
    def __init__(self, played: Played, ledger: Ledger) -> None:
        from vitray.tune.schedule import make_scheduler  # with it comes Ray Tune: a second

        self.played, self.sweep = played, played.sweep
        self.conductor = Conductor(
            self.sweep, ledger, make_proposer(self.sweep.plan), RecordingTracker(), Silent(), now=self.now
        )
        self.scheduler = make_scheduler(self.conductor)
        self.trials: list[PlayedTrial] = []
        self._actor_cache = SimpleNamespace(increase_max=lambda *args, **more: None)
        self.search_alg = None

    def now(self) -> float:
        return 1000.0 + self.played.reports

    def get_trials(self) -> list[PlayedTrial]:
        return self.trials

    def get_live_trials(self) -> list[PlayedTrial]:
        return [t for t in self.trials if t.status != "TERMINATED"]

    def stop_trial(self, trial: PlayedTrial) -> None:
        """Where a scheduler ends a trial other than the one that reports."""
        self._end(trial, {})

    def pause_trial(self, trial: PlayedTrial, should_checkpoint: bool = True) -> None:
        assert not should_checkpoint, "an actor that saves is not free"
        trial.status = "PAUSED"

    def run(self) -> bool:
        """False where it was killed."""
        while True:
            if not self._fill():
                return False
            running = sorted((t for t in self.trials if t.status == "RUNNING"), key=lambda t: t.index)
            if not running:
                assert self.conductor.next() == "finished", "nothing runs, and nothing comes"
                return True
            self.played.most_at_once = max(self.played.most_at_once, len(running))
            trial = running[self.played.order.randrange(len(running))]
            if not self._report(trial, self.conductor.ledger.records[trial.index].epoch + 1):
                return False

    def _fill(self) -> bool:
        """Give every group a trial. One that goes on says first what it said last."""
        while not self.conductor.full:
            trial: Any = self.scheduler.choose_trial_to_run(self)  # type: ignore[arg-type]
            if trial is None:
                record = self.conductor.next()
                if not isinstance(record, TrialRecord):
                    return True
                trial = PlayedTrial({"job": self.conductor.job(record)})
                self.trials.append(trial)
                self.scheduler.on_trial_add(self, trial)  # type: ignore[arg-type]
            trial.status = "RUNNING"
            self.conductor.begun(trial.index)
            last = self.conductor.ledger.records[trial.index].epoch
            for epoch in range(max(1, last - self.played.behind), last + 1):
                if trial.status == "RUNNING" and not self._report(trial, epoch):
                    return False
        return True

    def _report(self, trial: PlayedTrial, epoch: int) -> bool:
        """False where the driver dies before the decision is carried out."""
        played, index = self.played, trial.index
        epochs, score = self.sweep.plan.experiment.train.epochs, played.score(index, epoch)
        if index in played.fails and epoch >= played.fails[index]:
            worst = {"val/accuracy": float("-inf"), "epoch": epochs, FAILURE: "why", FAILURE_CLASS: "nan", "done": True}
            self._end(trial, worst)
            return True
        if epoch > self.conductor.ledger.records[index].epoch:
            played.trained.append((index, epoch))
            played.reports += 1
        stamp = int(self.now() * 1000)
        result = {"epoch": epoch, "step": epoch, "timestamp_ms": stamp, "val/accuracy": score, "val/loss": 1 - score}
        result["done"] = epoch == epochs
        if result["done"]:  # of its last report no scheduler is asked
            self.conductor.reported(index, result)
            decision = "STOP"
        else:
            decision = self.scheduler.on_trial_result(self, trial, result)  # type: ignore[arg-type]
        if played.trained[-1] == (index, epoch) and played.reports in played.kills:
            played.kills = [kill for kill in played.kills if kill != played.reports]
            return False
        if decision == "STOP":
            self._end(trial, result)
        else:
            assert decision == ("NOOP" if trial.status == "PAUSED" else "CONTINUE")
        return True

    def _end(self, trial: PlayedTrial, result: dict[str, Any]) -> None:
        trial.status = "TERMINATED"
        if result:
            self.scheduler.on_trial_complete(self, trial, result)  # type: ignore[arg-type]
        else:
            self.scheduler.on_trial_remove(self, trial)  # type: ignore[arg-type]
        self.conductor.stopped(trial.index, result)
