"""How good a model is on a split, measured in this process, every sample once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vitray.data.images import ShardedImages
from vitray.errors import DataError
from vitray.models.package import load_package
from vitray.models.preprocess import normalise
from vitray.train.evaluate import confusion

_BATCH = 256


@dataclass(frozen=True)
class Score:
    """``confusion`` int64 (true class, predicted class); ``interval`` is accuracy's 95 % Wilson interval."""

    split: str
    classes: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    images_per_s: float

    @property
    def samples(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / self.samples)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 1927, equation for the score interval at z = 1.96: unlike the normal one it stays within [0, 1]."""
        n, p, z = self.samples, self.accuracy, 1.96
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

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
    counts = confusion(
        model,
        data.batches(
            split, global_batch=order.global_batch, stop_step=order.steps_per_epoch, size=info.model.size, shuffle=False
        ),
        lambda batch: normalise(torch.tensor(batch.image).to(device), info.mean, info.std),
        len(info.classes),
    )
    return Score(split, data.classes, counts, rows / (time.perf_counter() - start))
