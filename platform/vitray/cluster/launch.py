"""From a config to results: what `vitray train`, `vitray sweep`, the quickstart and the job scripts have in common.

Everything that can be refused is refused here, before a cluster starts.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitray.cluster.address import check_answers, named_address
from vitray.cluster.caching import caching
from vitray.cluster.local import Cluster, connect
from vitray.cluster.machine import Machine
from vitray.cluster.weights import check_fit, check_trials, with_weights
from vitray.data.builtin import dataset_folder
from vitray.data.images import ShardedImages
from vitray.data.uri import public
from vitray.data.verify import verify
from vitray.errors import ConfigError, DataError, InterruptedRunError
from vitray.experiment import Experiment
from vitray.home import Home
from vitray.tracking.tracker import Tracker
from vitray.train.compiling import check_compiler
from vitray.train.memory import plan_training
from vitray.train.resources import plan_groups
from vitray.train.run import Run, new_name, saved_experiment, train_run

if TYPE_CHECKING:  # torch, Ray and MLflow take seconds to import: they come in when nothing is left to refuse
    from vitray.train.report import Report
    from vitray.tune.plan import SweepPlan
    from vitray.tune.promote import Winner
    from vitray.tune.record import SweepDisplay, TrialRecord

_DELIVERY_S = 60.0
_VERIFY = "vitray data verify names all that is wrong; prepare the dataset again"
log = logging.getLogger("vitray")


@dataclass(frozen=True)
class Prepared:
    """A config checked against its data."""

    experiment: Experiment
    data: ShardedImages
    stem: str

    @classmethod
    def load(cls, config: str, overrides: Sequence[str]) -> Prepared:
        """Read a config, open its data, fill in what follows from it.

        Raises:
            ConfigError, DataError: what is wrong with either.
        """
        return cls.of(Experiment.load(config, overrides), Path(config).stem)

    @classmethod
    def of(cls, experiment: Experiment, stem: str, *, begun: bool = False) -> Prepared:
        """``begun``: it goes on from a checkpoint, so the weights that it once began with may be gone."""
        folder = dataset_folder(experiment.data.path)
        data = ShardedImages.open(folder)
        if experiment.data.verify == "full" and (wrong := verify(data.store)):
            raise DataError(wrong[0].problem, where=f"{data.store.shown}/{wrong[0].file}", remedy=_VERIFY)
        experiment = experiment if begun else with_weights(experiment)
        return cls(data.resolve(experiment.with_values({"data.path": folder})), data, stem)


@contextmanager
def tracking(home: Home) -> Iterator[Tracker]:
    """The tracker of this home; what was taken is delivered before the block ends, if the server answers."""
    from vitray.tracking.mlflow_store import MlflowTracker

    home.root.mkdir(parents=True, exist_ok=True)
    tracker = MlflowTracker(home.tracking_uri, home.spool, home.artifacts)
    try:
        yield tracker
        if not tracker.flush(_DELIVERY_S):
            log.warning("the tracking server has not taken everything yet; the rest waits in %s", home.spool)
    finally:
        tracker.close()


@dataclass(frozen=True)
class TrainResult:
    name: str
    folder: Path
    last: Report | None
    run_key: str


class TrainWatcher:
    """Who watches a training; the methods do nothing here."""

    def begins_with(self, weights: str) -> None: ...
    def begin(self, run: Run, resources: str, steps_per_epoch: int) -> None: ...
    def progress(self, step: int, values: object) -> None: ...
    def report(self, report: Report) -> None: ...


def train(
    prepared: Prepared | None,
    home: Home,
    watcher: TrainWatcher,
    *,
    resume: str | None = None,
    address: str | None = None,
) -> TrainResult:
    """Train one experiment in a worker group of its own.

    Args:
        prepared: the experiment; None to go on with the saved one of ``resume``.
        resume: name of the run to go on with.

    Raises:
        ConfigError: the name is taken, there is no such run, or the config is not the one it was made with.
        InterruptedRunError: Ctrl-C; says how to go on.
    """
    begun = resume is not None and any((home.runs / resume / "checkpoints").glob("step-*/commit.json"))
    if resume is not None:
        saved = Prepared.of(saved_experiment(home, resume), resume, begun=begun)
        if prepared is not None and prepared.experiment.identity != saved.experiment.identity:
            raise ConfigError(
                f"the config is not the one that {resume!r} was made with: {_difference(saved, prepared)}",
                where="--resume",
                remedy="resume without a config or overrides, or start a new run",
            )
        prepared, name = saved, resume
    else:
        assert prepared is not None
        wanted = prepared.experiment.name
        name = new_name(home, wanted or prepared.stem, exact=wanted is not None, remedy=f"go on with --resume {wanted}")
    experiment = prepared.experiment
    if (target := named_address(address)) is not None:
        check_answers(target)
    else:
        here = plan_training(experiment, **vars(Machine.here()))  # an impossible demand is refused at once
        if experiment.train.compile and not here.use_gpu:
            check_compiler()
    weights = None if begun else check_fit([experiment], prepared.data.classes)
    if weights is not None:
        watcher.begins_with(str(weights))
    tags = {"vitray.init_adapted": "; ".join(weights.adapted) or "nothing"} if weights is not None else {}
    with tracking(home) as tracker, connect(address) as cluster:
        plan = plan_training(experiment, **cluster.room)
        from vitray.train.worker_group import WorkerGroup

        run = Run(_key(home, name), name, "train", home.runs / name, experiment, prepared.data.fingerprint)
        run.write_config()  # not before: a run that was refused leaves nothing, and its name stays free
        order = prepared.data.order(experiment.train.split, global_batch=experiment.train.global_batch)
        watcher.begin(run, f"{plan.describe()}; {caching(experiment, prepared.data)}", order.steps_per_epoch)
        group = WorkerGroup(plan, max_restarts=experiment.cluster.max_restarts)

        def take(report: Report) -> bool:
            watcher.report(report)
            return True

        try:
            last = train_run(run, group, tracker, on_report=take, on_progress=watcher.progress, extra_tags=tags)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "interrupted", where=name, remedy=f"go on with: vitray train --resume {name}"
            ) from None
        finally:
            group.close()
    return TrainResult(name, run.folder, last, run.key)


@dataclass(frozen=True)
class SweepResult:
    name: str
    trials: Sequence[TrialRecord]
    winner: Winner
    seconds: float


def plan(prepared: Prepared, *, address: str | None = None) -> SweepPlan:
    """What a sweep would do on this machine, or on the cluster at ``address``."""
    from vitray.tune.plan import plan_sweep

    _check_splits(prepared)
    if named_address(address) is None:
        return check_trials(plan_sweep(prepared.experiment, **vars(Machine.here())), prepared.data.classes)
    with connect(address) as cluster:
        return check_trials(plan_sweep(prepared.experiment, **cluster.room), prepared.data.classes)


def sweep(
    prepared: Prepared,
    home: Home,
    display: Callable[[SweepPlan], SweepDisplay],
    *,
    address: str | None = None,
) -> SweepResult:
    """Search, promote the winner, register it.

    Raises:
        ConfigError: the name is taken, or the space is at fault.
        ResourceError: the cluster cannot hold one trial.
        InterruptedRunError: Ctrl-C.
    """
    start = time.perf_counter()
    wanted = prepared.experiment.name
    name = new_name(home, wanted or prepared.stem, exact=wanted is not None, remedy="choose another with name=...")
    _check_splits(prepared)
    if (target := named_address(address)) is not None:
        check_answers(target)
    else:
        plan(prepared)  # an impossible space or demand is refused before a cluster starts
    with tracking(home) as tracker, connect(address) as cluster:
        result = _sweep(prepared, home, display, name, tracker, cluster)
    return SweepResult(name, *result, seconds=time.perf_counter() - start)


def _sweep(
    prepared: Prepared,
    home: Home,
    display: Callable[[SweepPlan], SweepDisplay],
    name: str,
    tracker: Tracker,
    cluster: Cluster,
) -> tuple[Sequence[TrialRecord], Winner]:
    from vitray.tune.plan import plan_sweep
    from vitray.tune.promote import promote
    from vitray.tune.record import ranked
    from vitray.tune.state import Sweep, write_state
    from vitray.tune.sweep import run_trials

    sweep_plan = check_trials(plan_sweep(prepared.experiment, **cluster.room), prepared.data.classes)
    sweep = Sweep(name, _key(home, name), home.runs / name, sweep_plan, prepared.data.fingerprint)
    shown = display(sweep_plan)
    sweep.run.begin(tracker)
    try:
        records = run_trials(sweep, tracker, shown)
        best = ranked(records, sweep_plan.search.metric, sweep_plan.search.mode)[0]
        shown.stage(f"retraining {best.name} on train+val" if sweep_plan.search.retrain else f"promoting {best.name}")
        group = plan_groups(prepared.experiment.cluster, **cluster.room, data_workers=prepared.experiment.data.workers)
        winner = promote(
            sweep,
            best,
            prepared.data,
            tracker,
            home.tracking_uri,
            group,
            on_report=lambda epoch, metrics: shown.stage(_retraining(best.name, epoch, metrics)),
        )
    except (KeyboardInterrupt, InterruptedRunError):
        tracker.end_run(sweep.key, "KILLED")
        raise
    except BaseException:
        tracker.end_run(sweep.key, "FAILED")
        raise
    write_state(
        sweep,
        records,
        "done",
        best=best.name,
        test_accuracy=winner.score.accuracy,
        model=f"models:/{winner.model}/{winner.version}",
    )
    tracker.set_tags(sweep.key, {"vitray.best": best.name, "vitray.model": f"{winner.model}/{winner.version}"})
    tracker.end_run(sweep.key, "FINISHED")
    return records, winner


def _check_splits(prepared: Prepared) -> None:
    for split, use in (("val", "trials are compared on"), ("test", "the winner is measured on")):
        if not prepared.data.num_samples(split):
            raise DataError(
                f"has no images in its {split} split, which {use}",
                where=prepared.data.store.shown,
                remedy="prepare it with a share for every split",
            )


def _retraining(name: str, epoch: int, metrics: object) -> str:
    loss = metrics.get("train/loss") if isinstance(metrics, dict) else None
    return f"retraining {name} on train+val: epoch {epoch}" + (f", loss {loss:.3f}" if loss is not None else "")


def _key(home: Home, name: str) -> str:
    """The tracker's key of a run: its name, and a part that tells two people's runs of that name apart."""
    path = home.runs / name / "key"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}-{secrets.token_hex(4)}")
    return path.read_text()


def _difference(saved: Prepared, asked: Prepared) -> str:
    before, after = saved.experiment.flat(), asked.experiment.flat()
    changed = [
        f"{key} was {before.get(key)!r}, is {after.get(key)!r}" for key in after if before.get(key) != after[key]
    ]
    return public("; ".join(changed[:4])) or "the data differ"
