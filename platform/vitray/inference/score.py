"""How good a model is on a split, measured in this process, every sample once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vitray.data.images import ShardedImages
from vitray.errors import DataError
from vitray.models.package import load_package
from vitray.models.preprocess import normalise
from vitray.train.evaluate import predictions
from vitray.train.intervals import wilson

_BATCH = 256


@dataclass(frozen=True)
class Score:
    """``rows`` (sample ids in the split), ``labels`` and ``predicted`` (indices of classes): int64 (samples,)."""

    split: str
    classes: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    images_per_s: float

    @property
    def samples(self) -> int:
        return len(self.rows)

    @property
    def accuracy(self) -> float:
        return float((self.labels == self.predicted).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Accuracy's 95 % Wilson interval."""
        return wilson(self.accuracy, self.samples)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts, int64 (true class, predicted class)."""
        counts = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts

    @property
    def per_class(self) -> dict[str, float]:
        """Share of each class's samples that were recognised; classes without samples are left out."""
        totals = self.confusion.sum(axis=1)
        return {c: float(self.confusion[i, i] / totals[i]) for i, c in enumerate(self.classes) if totals[i]}


def score_package(package: Path, data: ShardedImages, split: str, device: str = "cpu") -> Score:
    """Evaluate a model package on one split.

    Raises:
        DataError: the dataset's classes or channels are not the model's, or it has no such split.
    """
    model, info = load_package(package, device=device)
    if tuple(info.classes) != data.classes or info.model.in_chans != data.channels:
        raise DataError(
            f"has {len(data.classes)} classes and {data.channels} channels that are not those of the model "
            f"({len(info.classes)} classes, {info.model.in_chans} channels)",
            where=data.store.shown,
            remedy="evaluate on a dataset prepared with the same classes",
        )
    rows = data.num_samples(split)
    order = data.order(split, global_batch=min(_BATCH, max(1, rows)), shuffle=False)
    start = time.perf_counter()
    found = predictions(
        model,
        data.batches(
            split, global_batch=order.global_batch, stop_step=order.steps_per_epoch, size=info.model.size, shuffle=False
        ),
        lambda batch: normalise(torch.tensor(batch.image).to(device), info.mean, info.std),
    )
    return Score(split, data.classes, found[0], found[1], found[2], rows / (time.perf_counter() - start))
