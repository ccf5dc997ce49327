"""A Tune trial that borrows a warm worker group: a class Trainable that owns one and outlives its trials."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray import tune

from vitray.train.mailbox import Ended
from vitray.train.report import Report
from vitray.train.worker_group import WorkerGroup
from vitray.tune.plan import SweepPlan

FAILURE = "failure"  # key of a result that says why its trial failed


class WarmTrial(tune.Trainable):
    """One experiment of a sweep. ``config["index"]`` is the point; the actor is reused, and its group with it."""

    def setup(self, config: dict[str, Any], plan: SweepPlan, folder: str) -> None:
        self._plan, self._folder = plan, Path(folder)
        self._group: WorkerGroup | None = None
        self._served = 0
        self._undecided = self._running = False
        self._begin(config, time.time())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune hands the actor to the next trial: the group stays."""
        asked_at = time.time()
        self._leave()
        self._begin(new_config, asked_at)
        return True

    def step(self) -> dict[str, Any]:
        """Go on to the next report. Tune's decision about the last one has been made by the time this is called."""
        assert self._group is not None
        if self._undecided:
            self._undecided = False
            self._group.decide(True)
        said = self._group.next()
        if isinstance(said, Report):
            self._undecided = True
            epochs = self._experiment.train.epochs
            return {
                **self._start_times(said),
                **said.metrics,
                "epoch": said.epoch,
                "step": said.step,
                "timestamp_ms": said.timestamp_ms,
                "checkpoint": said.checkpoint or "",
                "done": said.epoch >= epochs,
            }
        self._running = False
        assert said.error is not None, "an experiment that ends well says so in its last report"
        return self._failed(said)

    def save_checkpoint(self, checkpoint_dir: str) -> str:
        """Tune asks when it stops a trial; the real checkpoints are in the run's folder, and this says where."""
        folder = self._folder / "trials" / self._plan.trial_name(int(self.config["index"])) / "checkpoints"
        (Path(checkpoint_dir) / "where.txt").write_text(str(folder))
        return checkpoint_dir

    def load_checkpoint(self, checkpoint: str | None) -> None:
        """Nothing to do: ranks go on from the run's own newest checkpoint."""

    def cleanup(self) -> None:
        if self._group is not None:
            self._leave()
            self._group.close()

    def _begin(self, config: dict[str, Any], asked_at: float) -> None:
        index = int(config["index"])
        self._asked_at = asked_at
        self._experiment = self._plan.trial(index)
        if self._group is None:
            self._group = WorkerGroup(self._plan.groups, max_restarts=self._experiment.cluster.max_restarts)
        self._group.start(self._experiment, self._folder / "trials" / self._plan.trial_name(index))
        self._served += 1
        self._undecided, self._running = False, True

    def _leave(self) -> None:
        """End what runs: at the report that was last, so that a stopped trial wastes no step."""
        assert self._group is not None
        if self._running and self._undecided:
            self._group.decide(False)
            self._undecided = False
        while self._running:
            said = self._group.next()
            if isinstance(said, Ended):
                self._running = False
            else:
                self._group.decide(False)

    def _start_times(self, report: Report) -> dict[str, Any]:
        """Seconds from Tune's start of the trial to its first optimizer step, and whether its group was warm."""
        if report.first_step_at is None:
            return {}
        return {
            "first_step_at": report.first_step_at,
            "start_s": report.first_step_at - self._asked_at,
            "warm": self._served > 1,
        }

    def _failed(self, ended: Ended) -> dict[str, Any]:
        # A result instead of an exception: an exception would cost the actor, and the warm group with it.
        search = self._plan.search
        worst = float("-inf") if search.mode == "max" else float("inf")
        return {
            search.metric: worst,
            "epoch": self._experiment.train.epochs,
            FAILURE: str(ended.error),
            "done": True,
        }
