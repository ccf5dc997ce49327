"""A sweep: Ray Tune runs the plan's points in warm worker groups; every trial is tracked; the best is promoted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from vitray.environment import environment
from vitray.errors import InterruptedRunError, TrainingError
from vitray.tracking.tracker import Tracker
from vitray.train.run import Run
from vitray.tune.plan import SweepPlan
from vitray.tune.record import SweepDisplay, TrialRecord
from vitray.tune.state import Sweep, write_state
from vitray.tune.trial import FAILURE, WarmTrial


def run_trials(sweep: Sweep, tracker: Tracker, display: SweepDisplay) -> list[TrialRecord]:
    """Run every trial of a sweep and return what is known of each.

    Raises:
        TrainingError: no trial came to a result.
        InterruptedRunError: Ctrl-C; trials that had finished are in the tracker.
    """
    plan = sweep.plan
    records = [TrialRecord(i, plan.trial_name(i), point) for i, point in enumerate(plan.points)]
    sweep.folder.mkdir(parents=True, exist_ok=True)
    write_state(sweep, records, "running")
    callback = _Track(sweep, tracker, display, records)
    # The trial's actor only waits for its group, which has resources of its own. Tune refuses a request of nothing,
    # hence one byte of memory.
    trainable = tune.with_resources(
        tune.with_parameters(WarmTrial, plan=plan, folder=str(sweep.folder)), {"CPU": 0, "memory": 1}
    )
    tuner = tune.Tuner(
        trainable,
        param_space={"index": tune.grid_search(list(range(len(plan.points))))},
        tune_config=tune.TuneConfig(
            metric=plan.search.metric,
            mode=plan.search.mode,
            scheduler=_scheduler(plan),
            max_concurrent_trials=plan.groups.groups,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(sweep.folder.resolve()), callbacks=[callback], verbose=0
        ),
    )
    with _quiet_tune():
        tuner.fit()
    callback.raise_error()
    unfinished = [r for r in records if r.status in ("pending", "running")]
    if unfinished:
        write_state(sweep, records, "interrupted")
        raise InterruptedRunError(
            f"the sweep was interrupted with {len(unfinished)} of {len(records)} trials unfinished",
            where=sweep.name,
            remedy="its finished trials are in the tracker; run the sweep again to search from the start",
        )
    failures = [r for r in records if r.status == "failed"]
    if len(failures) == len(records):
        write_state(sweep, records, "failed")
        raise TrainingError(f"every trial failed, the first with: {failures[0].failure}", where=sweep.name)
    return records


def _scheduler(plan: SweepPlan) -> TrialScheduler:
    if plan.search.scheduler == "none":
        return FIFOScheduler()
    epochs = plan.experiment.train.epochs
    return ASHAScheduler(
        time_attr="epoch",  # training_iteration restarts after a restore
        max_t=epochs,
        grace_period=min(plan.search.grace_epochs, epochs),
        reduction_factor=plan.search.reduction_factor,
    )


class _Track(tune.Callback):
    """Tells the tracker and the display what Tune sees. Runs in the driver.

    An error here would be swallowed by Tune's loop in places, so it is kept and raised when Tune is done.
    """

    def __init__(self, sweep: Sweep, tracker: Tracker, display: SweepDisplay, records: list[TrialRecord]) -> None:
        self._sweep, self._tracker, self._display, self._records = sweep, tracker, display, records
        self._error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore of its own, which vitray does not use

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        record.status = "running"
        self._guard(lambda: self._run(record).begin(self._tracker, {"vitray.sweep": self._sweep.name}))
        self._display.update(self._records)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._record(trial)
        if failure := result.get(FAILURE):
            record.failure = str(failure)
        else:
            metrics = record.take(result)
            key, stamp = self._run(record).key, int(result["timestamp_ms"])
            self._guard(lambda: self._tracker.log_metrics(key, metrics, step=record.epoch, timestamp_ms=stamp))
        self._display.update(self._records)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        epochs = self._sweep.plan.trial(record.index).train.epochs
        if record.failure:
            record.status = "failed"
        elif record.epoch < epochs:
            record.status = "stopped"
        else:
            record.status = "done"
        self._end(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        lines = str(trial.error_msg or trial.get_error() or "the trial's process died").strip().splitlines()
        record.status = "failed"
        record.failure = lines[-1] if lines else "unknown"
        self._end(record)

    def _end(self, record: TrialRecord) -> None:
        key = self._run(record).key
        tags: dict[str, str] = {"vitray.outcome": record.status}
        if record.failure:
            tags["vitray.failure"] = record.failure
        self._guard(lambda: self._tracker.set_tags(key, tags))
        self._guard(lambda: self._tracker.end_run(key, "FAILED" if record.failure else "FINISHED"))
        write_state(self._sweep, self._records, "running")
        self._display.update(self._records)

    def _record(self, trial: Any) -> TrialRecord:
        return self._records[int(trial.config["index"])]

    def _run(self, record: TrialRecord) -> Run:
        return self._sweep.trial_run(record.index)

    def _guard(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            self._error = self._error or error


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Tune without its own tables, files and advice: vitray shows and tracks the trials itself."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # failures are reported by vitray, by trial and with their reason
    try:
        with environment(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", RAY_AIR_NEW_OUTPUT="0"):
            yield
    finally:
        logger.setLevel(level)
