"""A Tune trial that borrows a warm worker group: a class Trainable that owns one and outlives its trials."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from ray import tune

from vitray.errors import OutOfMemoryError, VitrayError
from vitray.experiment import Experiment
from vitray.train.adopt import await_step
from vitray.train.checkpoint_place import opened, place_of
from vitray.train.messages import Ended, Note
from vitray.train.report import Report
from vitray.train.resources import GroupPlan
from vitray.train.retry import after_out_of_memory, retry_note
from vitray.train.worker_group import WorkerGroup
from vitray.tune.asides import Asides
from vitray.tune.conductor import FAILURE, FAILURE_CLASS, RETRY
from vitray.tune.keys import changed

_COMMIT_S = 60.0


class WarmTrial(tune.Trainable):
    """One experiment of a sweep, as ``config["job"]`` says; the actor is reused, and its group with it."""

    def setup(self, config: dict[str, Any], experiment: Experiment, groups: GroupPlan, asides: Asides) -> None:
        self._base, self._groups, self._asides = experiment, groups, asides
        self._group: WorkerGroup | None = None
        self._served = 0
        self._undecided = self._running = False
        self._retry: str | None = None  # what was changed after it ran out of memory
        self._said = False
        self._experiment, self._folder = experiment, Path()
        self._known_epoch = 0  # the driver has the reports up to this one
        self._asks_at: frozenset[int] | None = None  # epochs after which Tune decides; None: after every one
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune hands the actor to the next trial: the group stays."""
        asked_at = time.time()
        try:
            self._leave()
        except Exception:  # the group is gone, with its node perhaps: the next trial gets another
            self._group, self._running = None, False
        self._take(new_config, asked_at)
        return True

    def step(self) -> dict[str, Any]:
        """Go on to the next report. Tune's decision about the last one has been made by the time this is called."""
        if not self._running:
            self._begin()
        assert self._group is not None
        if self._undecided:
            self._undecided = False
            self._group.decide(True)
        said = self._group.next(on_note=self._note)
        if isinstance(said, Ended) and isinstance(said.error, OutOfMemoryError) and self._retry is None:
            smaller = after_out_of_memory(self._experiment)
            if smaller is not None:
                self._experiment, self._retry = smaller, retry_note(smaller)
                self._group.start(smaller, self._folder, self._asks_at, self._known_epoch)
                said = self._group.next(on_note=self._note)
        if isinstance(said, Report):
            if said.epoch >= self._experiment.train.epochs:
                self._await_commit(said)  # whoever hears that it is done may use its weights
            self._undecided = self._asks_at is None or said.epoch in self._asks_at
            said_of_it = {RETRY: self._say_retry()} if self._retry and not self._said else {}
            return self._result(said) | said_of_it
        self._running = False
        assert said.error is not None, "an experiment that ends well says so in its last report"
        return self._failed(said)

    def save_checkpoint(self, checkpoint_dir: str) -> str:
        """Tune asks when a trial is done. The real checkpoints are the ranks', in the run's folder."""
        (Path(checkpoint_dir) / "where.txt").write_text(str(self._folder))
        return checkpoint_dir

    def load_checkpoint(self, checkpoint: str | None) -> None:
        """Nothing to do: ranks go on from the run's own newest checkpoint."""

    def cleanup(self) -> None:
        if self._group is not None:
            self._leave()
            self._group.close()

    def _take(self, config: dict[str, Any], asked_at: float | None = None) -> None:
        job = config["job"]
        self._name = str(job["name"])
        self._asked_at = asked_at or time.time()
        self._experiment, self._folder = changed(self._base, job["values"]), Path(job["folder"])
        self._known_epoch = int(job["known_epoch"])
        self._asks_at = None if job["asks_at"] is None else frozenset(job["asks_at"])
        self._retry, self._said = None, False
        if job["retried"] and (smaller := after_out_of_memory(self._experiment)) is not None:
            # It ran out of memory before it was paused or its driver died, and would again.
            self._experiment, self._retry, self._said = smaller, retry_note(smaller), True

    def _begin(self) -> None:
        if self._group is None:
            self._group = WorkerGroup(self._groups, max_restarts=self._experiment.cluster.max_restarts)
        self._group.start(self._experiment, self._folder, self._asks_at, self._known_epoch)
        self._served += 1
        self._undecided, self._running = False, True

    def _await_commit(self, report: Report) -> None:
        if report.checkpoint is not None:
            with contextlib.suppress(VitrayError):  # the ranks say what keeps them from it
                await_step(opened(place_of(self._folder)), report.step, _COMMIT_S)

    def _leave(self) -> None:
        """End what runs: at the report that was last, so that a stopped trial wastes no step.

        Where Tune decides only after some epochs and stops it after another (a budget is spent), at the next one.
        """
        if self._running:
            assert self._group is not None
            self._group.decide(False)
            self._undecided = False
        while self._running:
            assert self._group is not None
            said = self._group.next(on_note=self._note)
            if isinstance(said, Ended):
                self._running = False
            else:
                self._group.decide(False)

    def _result(self, report: Report) -> dict[str, Any]:
        started = {}
        if report.first_step_at is not None:
            # Seconds from Tune's start of the trial to its first optimizer step.
            started = {"start_s": report.first_step_at - self._asked_at, "warm": self._served > 1}
        return {
            **started,
            **report.metrics,
            "epoch": report.epoch,
            "step": report.step,
            "timestamp_ms": report.timestamp_ms,
            "done": report.epoch >= self._experiment.train.epochs,
        }

    def _note(self, note: Note) -> None:
        self._asides.say(f"{self._name}: {note.text}")

    def _say_retry(self) -> str | None:
        self._said = True
        return self._retry

    def _failed(self, ended: Ended) -> dict[str, Any]:
        # A result instead of an exception: an exception would cost the actor, and the warm group with it.
        search = self._base.search
        assert search is not None
        worst = float("-inf") if search.mode == "max" else float("inf")
        return {
            search.metric: worst,
            "epoch": self._experiment.train.epochs,
            FAILURE: str(ended.error),
            FAILURE_CLASS: getattr(ended.error, "failure", "code"),
            **({RETRY: self._say_retry()} if self._retry and not self._said else {}),
            "done": True,
        }
