"""Two models on the same images: what only one of them has right decides, and not the luck of the draw of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitray.inference.score import Score
from vitray.train.intervals import of_paired_difference


@dataclass(frozen=True)
class Paired:
    """Accuracies (0..1) of two models on ``images`` images, and the 95 % interval of first minus second."""

    images: int
    first: float
    second: float
    interval: tuple[float, float]

    @property
    def difference(self) -> float:
        return self.first - self.second


def compare(first: Score, second: Score) -> Paired:
    """Pair two scores of one split by its rows."""
    _, here, there = np.intersect1d(first.rows, second.rows, assume_unique=True, return_indices=True)
    one = (first.predicted == first.labels)[here]
    other = (second.predicted == second.labels)[there]
    interval = of_paired_difference(int((one & ~other).sum()), int((other & ~one).sum()), len(one))
    return Paired(len(one), float(one.mean()), float(other.mean()), interval)
