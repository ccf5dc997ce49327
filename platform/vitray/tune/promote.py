"""What becomes of a sweep's best trial: retrained, measured once on the test split, registered."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from matplotlib.figure import Figure

from vitray.data.images import ShardedImages
from vitray.data.view import SplitView
from vitray.errors import DataError, TrainingError
from vitray.experiment import Experiment
from vitray.inference.explain import look
from vitray.inference.predictor import Predictor
from vitray.inference.score import Score, score_package
from vitray.models.package import load_package
from vitray.plots.confusion import confusion_matrix
from vitray.plots.curves import learning_curves
from vitray.plots.explanation import Explanation
from vitray.plots.figure import save
from vitray.tracking.registry import register_model
from vitray.tracking.tracker import Tracker
from vitray.train.checkpoint import CheckpointStore
from vitray.train.report import OnProgress, Report
from vitray.train.resources import GroupPlan
from vitray.train.run import Run, train_run
from vitray.train.worker_group import WorkerGroup
from vitray.tune.record import TrialRecord
from vitray.tune.state import Sweep

_DELIVERY_S = 120.0
_EXPLAINED = 3  # images


@dataclass(frozen=True)
class Winner:
    """A sweep's result: the trial that won, its final weights, and the version they became."""

    trial: TrialRecord
    experiment: Experiment
    package: Path
    score: Score
    model: str
    version: int


def final_experiment(sweep: Sweep, best: TrialRecord) -> Experiment:
    """The winning experiment as it is retrained: on train+val, since nothing is left to choose."""
    experiment, search = sweep.plan.trial(best.index), sweep.plan.search
    return experiment.with_values(
        {"train.split": "train+val", "train.epochs": search.retrain_epochs or experiment.train.epochs}
    )


def promote(
    sweep: Sweep,
    best: TrialRecord,
    data: ShardedImages,
    tracker: Tracker,
    tracking_uri: str,
    groups: GroupPlan,
    *,
    on_report: OnProgress | None = None,
) -> Winner:
    """Make the best trial the registered model. ``groups`` is the plan of one worker group for the retraining.

    Raises:
        TrainingError: the retraining failed.
        TrackingError: the store did not take the run in time.
    """
    run = Run(
        f"{sweep.key}/final",
        "final",
        "final",
        sweep.folder / "final",
        final_experiment(sweep, best),
        sweep.fingerprint,
        sweep.key,
    )
    history: list[dict[str, float]] = []

    def keep(report: Report) -> bool:
        history.append({"epoch": float(report.epoch), **report.metrics})
        if on_report is not None:
            on_report(report.epoch, report.metrics)
        return True

    tags = {"vitray.sweep": sweep.name, "vitray.trial": best.name}
    if sweep.plan.search.retrain:
        group = WorkerGroup(groups, max_restarts=run.experiment.cluster.max_restarts)
        try:
            train_run(run, group, tracker, on_report=keep, extra_tags=tags)
        finally:
            group.close()
        package = CheckpointStore(run.folder / "checkpoints").newest()
    else:
        run.begin(tracker, tags)
        package = CheckpointStore(sweep.trial_run(best.index).folder / "checkpoints").best()
    if package is None:
        raise TrainingError("left no checkpoint", where=str(run.folder), remedy="look at its error file, run it again")
    score = score_package(package, data, "test")
    tracker.log_metrics(run.key, {"test/accuracy": score.accuracy}, step=run.experiment.train.epochs)
    _figures(run, history or best.reports, best, score, package, data, tracker)
    tracker.end_run(run.key, "FINISHED")
    tracker.flush(_DELIVERY_S)
    name = run.experiment.tracking.model_name
    version = register_model(
        tracking_uri,
        name=name,
        package=package,
        run=run.key,
        tags={
            "vitray.sweep": sweep.name,
            "vitray.trial": best.name,
            "vitray.dataset": PurePosixPath(data.store.shown).name,
            "vitray.dataset_fingerprint": data.fingerprint,
            "vitray.config_hash": run.experiment.identity,
        },
        description=_describe(run.experiment, score, best),
        metrics={"test/accuracy": score.accuracy},
    )
    tracker.log_metrics(sweep.key, {"test/accuracy": score.accuracy}, step=run.experiment.train.epochs)
    return Winner(best, run.experiment, package, score, name, version)


def _figures(
    run: Run,
    history: Sequence[dict[str, float]],
    best: TrialRecord,
    score: Score,
    package: Path,
    data: ShardedImages,
    tracker: Tracker,
) -> None:
    folder = run.folder / "figures"
    save(_curves(best.reports, f"{best.name}: the winning trial"), folder / "learning_curves.png")
    if history:
        save(_curves(history, "retrained on train+val"), folder / "learning_curves_retrained.png")
    save(confusion_matrix(score.confusion, score.classes, title="test split"), folder / "confusion_matrix.png")
    _explain(package, data, folder)
    tracker.log_artifact(run.key, folder)
    (run.folder / "test.json").write_text(
        json.dumps({"accuracy": score.accuracy, "interval": score.interval, "per_class": score.per_class}, indent=1)
    )
    tracker.log_artifact(run.key, run.folder / "test.json")


def _explain(package: Path, data: ShardedImages, folder: Path) -> None:
    """The pictures of `vitray models explain`, on the first test image of each of a few classes."""
    predictor = Predictor(*load_package(package))
    drawn = Explanation(predictor.model, folder)
    drawn.model_pictures()
    view = SplitView(data.store, "test")
    labels, rows = np.unique(view.labels(), return_index=True)
    images, _ = view.read(rows[:_EXPLAINED])
    for label, row, image in zip(labels, rows, images, strict=False):
        try:
            seen = look(predictor, image or b"")
        except (DataError, RuntimeError, MemoryError):  # a damaged image, or too many tokens: the winner is not lost
            continue
        drawn.add(f"{data.classes[label]}-{row:05d}", seen.pixels, seen.label, seen.probability, seen.attention)
    drawn.distance_picture()


def _curves(reports: Sequence[dict[str, float]], title: str) -> Figure:
    return learning_curves(
        [int(r["epoch"]) for r in reports],
        [r["train/loss"] for r in reports],
        [r.get("val/accuracy", math.nan) for r in reports],
        title=title,
    )


def _describe(experiment: Experiment, score: Score, best: TrialRecord) -> str:
    model, (low, high) = experiment.model, score.interval
    return (
        f"Vision Transformer, patch {model.patch_size}, depth {model.depth}, {model.num_heads} heads, "
        f"width {model.embed_dim}, positions {model.pos_encoding}. Test accuracy {score.accuracy:.4f} "
        f"(95 % interval {low:.3f} to {high:.3f}, {score.samples} images). Winner: {best.name}."
    )
