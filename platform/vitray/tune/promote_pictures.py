"""What the run of a sweep's winner shows in the tracker: learning curves, confusion matrix, explained test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vitray.data.images import ShardedImages
from vitray.data.view import SplitView
from vitray.errors import DataError
from vitray.inference.explain import look
from vitray.inference.predictor import Predictor
from vitray.inference.score import Score
from vitray.models.package import load_package
from vitray.plots.confusion import confusion_matrix
from vitray.plots.curves import learning_curves
from vitray.plots.explanation import Explanation
from vitray.plots.figure import save
from vitray.tune.record import TrialRecord

_EXPLAINED = 3  # images


def draw(
    folder: Path, best: TrialRecord, final: TrialRecord | None, score: Score, package: Path, data: ShardedImages
) -> None:
    """Write all pictures of the winner into ``folder``."""
    save(_curves(best.reports, f"{best.name}: the winning trial"), folder / "learning_curves.png")
    if final is not None and final.reports:
        save(_curves(final.reports, "retrained on train+val"), folder / "learning_curves_retrained.png")
    save(confusion_matrix(score.confusion, score.classes, title="test split"), folder / "confusion_matrix.png")
    _explain(package, data, folder)


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
