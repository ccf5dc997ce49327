"""From a config to a trained model: what `vitray train` and the job scripts have in common.

Everything that can be refused is refused here, before a cluster starts.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitray.cluster.address import check_answers, named_address
from vitray.cluster.caching import caching
from vitray.cluster.job_memory import note_run, run_of
from vitray.cluster.local import connect
from vitray.cluster.machine import Machine
from vitray.cluster.weights import check_fit, with_weights
from vitray.data.builtin import dataset_folder
from vitray.data.images import ShardedImages
from vitray.data.verify import verify
from vitray.errors import ConfigError, DataError, InterruptedRunError
from vitray.experiment import Experiment
from vitray.files import when_there_is_room, write_whole
from vitray.home import Home
from vitray.masking import public
from vitray.tracking.tracker import Tracker
from vitray.train.checkpoint_place import check_place, has_checkpoints
from vitray.train.compiling import check_compiler
from vitray.train.dataset_input import as_input
from vitray.train.memory import plan_training
from vitray.train.run import Run, new_name, saved_experiment, train_run

if TYPE_CHECKING:  # torch, Ray and MLflow take seconds to import: they come in when nothing is left to refuse
    from vitray.train.report import Report

_DELIVERY_S, _AWAY_S = 60.0, 5.0  # for a server that is slow, and for one that is away
_VERIFY = "vitray data verify names all that is wrong; prepare the dataset again"


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
def tracking(
    home: Home, experiment: str, *, model: str | None = None, delivery_s: float = _DELIVERY_S
) -> Iterator[Tracker]:
    """The tracker of this home; what was taken is delivered before the block ends, if the server answers.

    Args:
        experiment: the MLflow experiment that is written to.
        model: the registered model that gets a version, if any.
        delivery_s: seconds to wait at the end for a server that is slow; for one that is away it is 5 at most.

    Raises:
        TrackingError: the server will not let us write there.
    """
    from vitray.tracking.access import check_access
    from vitray.tracking.mlflow_store import MlflowTracker

    check_access(home.tracking_uri, experiment, model)
    home.root.mkdir(parents=True, exist_ok=True)
    tracker = MlflowTracker(home.tracking_uri, home.spool, home.artifacts)
    try:
        yield tracker
        until = time.monotonic() + delivery_s
        while not tracker.flush(min(_AWAY_S, delivery_s)) and not tracker.away and time.monotonic() < until:
            continue  # slow; whether it is that or away, close() tells of what is left
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
    def note(self, text: str) -> None: ...


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
        resume: name of the run to go on with, or the id of the job that it was.

    Raises:
        ConfigError: the name is taken, there is no such run, or the config is not the one it was made with.
        InterruptedRunError: Ctrl-C; says how to go on.
    """
    if resume is not None:
        resume = run_of(home, resume) or resume
    begun = resume is not None and has_checkpoints(home.runs / resume)
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
    check_place(experiment.train.checkpoints)
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
    with tracking(home, experiment.tracking.experiment) as tracker, connect(address) as cluster:
        plan = plan_training(experiment, **cluster.room)
        from vitray.train.worker_group import WorkerGroup

        data = prepared.data
        key, folder = run_key(home, name), home.runs / name
        run = Run(key, name, "train", folder, experiment, data.fingerprint, dataset=as_input(data))
        run.write_config()  # not before: a run that was refused leaves nothing, and its name stays free
        note_run(home, name)
        order = prepared.data.order(experiment.train.split, global_batch=experiment.train.global_batch)
        watcher.begin(run, f"{plan.describe()}; {caching(experiment, prepared.data)}", order.steps_per_epoch)
        group = WorkerGroup(plan, max_restarts=experiment.cluster.max_restarts)

        def take(report: Report) -> bool:
            watcher.report(report)
            return True

        try:
            last = train_run(
                run,
                group,
                tracker,
                on_report=take,
                on_progress=watcher.progress,
                on_note=watcher.note,
                extra_tags=tags,
            )
        except (KeyboardInterrupt, InterruptedRunError) as error:
            what = error.what if isinstance(error, InterruptedRunError) else "interrupted"
            raise InterruptedRunError(what, where=name, remedy=f"go on with: vitray train --resume {name}") from None
        finally:
            group.close()
    return TrainResult(name, run.folder, last, run.key)


def run_key(home: Home, name: str) -> str:
    """The tracker's key of a run: its name, and a part that tells two people's runs of that name apart."""
    path = home.runs / name / "key"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        key = f"{name}-{secrets.token_hex(4)}"
        when_there_is_room(lambda: write_whole(path, key), path, len(key))
    return path.read_text()


def _difference(saved: Prepared, asked: Prepared) -> str:
    before, after = saved.experiment.flat(), asked.experiment.flat()
    changed = [
        f"{key} was {before.get(key)!r}, is {after.get(key)!r}" for key in after if before.get(key) != after[key]
    ]
    return public("; ".join(changed[:4])) or "the data differ"
