"""A sweep's trials on Ray Tune: warm worker groups run them, the conductor says which, a scheduler judges them."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from vitray.environment import environment
from vitray.tune.asides import Asides
from vitray.tune.conducted import index_of
from vitray.tune.conductor import MOST_CRASHES, Conductor
from vitray.tune.schedule import make_scheduler
from vitray.tune.trial import WarmTrial

_NEVER_S = "1000000000"


def run_trials(conductor: Conductor) -> None:
    """Run what the conductor asks for until it is through, or halted.

    Ctrl-C halts it: trials stop at their next reports. A second one raises KeyboardInterrupt here.

    Raises:
        TrackingError: the tracker refused what it was told.
    """
    if conductor.through():
        return
    plan = conductor.sweep.plan
    folder = conductor.sweep.folder / "tune"
    shutil.rmtree(folder, ignore_errors=True)  # Tune's own notes, of which a restart makes no use
    # The trial's actor only waits for its group, which has resources of its own. Tune refuses a request of nothing,
    # hence one byte of memory.
    asides = Asides()
    trainable = tune.with_resources(
        tune.with_parameters(WarmTrial, experiment=plan.experiment, groups=plan.groups, asides=asides),
        {"CPU": 0, "memory": 1},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Asks(conductor),
            scheduler=make_scheduler(conductor),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["job"]["name"]),
            trial_dirname_creator=lambda trial: str(trial.config["job"]["name"]),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(conductor.sweep.folder.resolve()),
            callbacks=[_Tells(conductor, asides)],
            stop=_Halt(conductor),
            failure_config=tune.FailureConfig(max_failures=MOST_CRASHES),
            verbose=0,
        ),
    )
    try:
        with _quiet_tune(plan.groups.groups), _keys_kept_back(), _halted_by_ctrl_c(conductor):
            tuner.fit()
    finally:
        _show(asides.hear(now=True), conductor)
        conductor.interrupt()
        shutil.rmtree(folder, ignore_errors=True)
    conductor.raise_error()


@contextmanager
def _keys_kept_back() -> Iterator[None]:
    """Tune would give this process's AWS keys to the trials through their runtime environments, which Ray logs.

    Trials have them all the same where Ray's workers do: on a local Ray, and on machines that are set up so.
    """
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    keys = {name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    ENV_VARS_TO_PROPAGATE.difference_update(keys)
    try:
        yield
    finally:
        ENV_VARS_TO_PROPAGATE.update(keys)


class _Asks(Searcher):
    """Tune's searcher: every trial is the conductor's idea."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self._conductor = conductor

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def suggest(self, trial_id: str) -> Any:
        asked = self._conductor.next()
        if asked == "finished":
            return Searcher.FINISHED
        return None if asked == "wait" else {"job": self._conductor.job(asked)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...
    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None: ...


class _Tells(tune.Callback):
    """Tells the conductor what becomes of trials; their results reach it through the scheduler, before it decides."""

    def __init__(self, conductor: Conductor, asides: Asides) -> None:
        self._conductor, self._asides = conductor, asides

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        _show(self._asides.hear(), self._conductor)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._conductor.begun(index_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result["done"]:  # of its last report no scheduler was asked
            self._conductor.reported(index_of(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._conductor.stopped(index_of(trial), trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = str(trial.get_error() or "the trial's process died").strip().splitlines()
        self._conductor.crashed(index_of(trial), lines[-1] if lines else "unknown")


def _show(asides: list[str], conductor: Conductor) -> None:
    for text in asides:
        conductor.display.stage(text)


class _Halt(tune.Stopper):
    """Ends a halted sweep when no trial runs any more; some may wait for others, which do not come now."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self._conductor.halted) and self._conductor.idle


@contextmanager
def _halted_by_ctrl_c(conductor: Conductor) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def halt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        conductor.halted = conductor.halted or "interrupted"
        conductor.display.stage("stopping at the next reports; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, halt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet_tune(groups: int) -> Iterator[None]:
    """Tune without its own tables, files, signals and advice: vitray shows and tracks the trials itself."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # failures are reported by vitray, by trial and with their reason
    try:
        with environment(
            TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
            RAY_AIR_NEW_OUTPUT="0",
            TUNE_DISABLE_SIGINT_HANDLER="1",
            TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a retraining on train+val validates nothing
            TUNE_GLOBAL_CHECKPOINT_S=_NEVER_S,
            TUNE_MAX_PENDING_TRIALS_PG=str(groups),  # all groups start at once
        ):
            yield
    finally:
        logger.setLevel(level)
