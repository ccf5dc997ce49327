"""Two models on the same images: what only one of them has right decides, and not the luck of the draw of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitray.inference.score import Score
from vitray.train.intervals import of_paired_difference


@dataclass(frozen=True)
class Paired:
    """Accuracies (0..1) of two models on ``images`` images, and the 95 % interval of first minus second.

    Args:
        both, neither: images that both models, or none, has right; ``only_first`` and ``only_second`` are the others.
        agreement: share of images (0..1) to which both give the same answer, right or wrong.
        p_value: McNemar's exact test (McNemar 1947): how likely so uneven a split of the images that only one has
            right is, if both models are equally good.
        per_class: for each class with images, the two accuracies and how many images it has.
    """

    images: int
    first: float
    second: float
    interval: tuple[float, float]
    both: int
    only_first: int
    only_second: int
    neither: int
    agreement: float
    p_value: float
    per_class: dict[str, tuple[float, float, int]]

    @property
    def difference(self) -> float:
        return self.first - self.second


def compare(first: Score, second: Score) -> Paired:
    """Pair two scores of one split by its rows."""
    _, here, there = np.intersect1d(first.rows, second.rows, assume_unique=True, return_indices=True)
    one = (first.predicted == first.labels)[here]
    other = (second.predicted == second.labels)[there]
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    return Paired(
        images=len(one),
        first=float(one.mean()),
        second=float(other.mean()),
        interval=of_paired_difference(only_first, only_second, len(one)),
        both=int((one & other).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~one & ~other).sum()),
        agreement=float((first.predicted[here] == second.predicted[there]).mean()),
        p_value=mcnemar(only_first, only_second),
        per_class=_per_class(first.classes, first.labels[here], one, other),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of the exact (binomial) test, also where few images differ; 1 where none does."""
    if only_first + only_second == 0:
        return 1.0
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def _per_class(
    classes: tuple[str, ...], labels: npt.NDArray[np.int64], one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]
) -> dict[str, tuple[float, float, int]]:
    found = {}
    for index, name in enumerate(classes):
        mine = labels == index
        if mine.any():
            found[name] = (float(one[mine].mean()), float(other[mine].mean()), int(mine.sum()))
    return found
