"""Whether a model is as often right as it is sure: reliability by bins of confidence, and its summary, the ECE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15  # as in Guo et al.

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Samples by the probability of their predicted class, in bins of equal width: ``(edges[i], edges[i + 1]]``.

    Args:
        edges: (bins + 1,), 0 to 1.
        counts: int64 (bins,).
        accuracy: share of each bin's samples that are right; NaN where it is empty.
        confidence: mean probability of each bin's predictions; NaN where it is empty.
    """

    edges: Floats
    counts: npt.NDArray[np.int64]
    accuracy: Floats
    confidence: Floats

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1: the mean of |accuracy - confidence| over the samples' bins.

        Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
        """
        weight = self.counts / max(int(self.counts.sum()), 1)
        return float(np.nansum(weight * np.abs(self.accuracy - self.confidence)))

    @property
    def mean_accuracy(self) -> float:
        """Over all samples."""
        return self._mean(self.accuracy)

    @property
    def mean_confidence(self) -> float:
        """Over all samples; above the accuracy, a model is too sure of itself."""
        return self._mean(self.confidence)

    def _mean(self, values: Floats) -> float:
        return float(np.nansum(values * self.counts) / max(int(self.counts.sum()), 1))


def reliability(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS) -> Reliability:
    """Put samples into bins.

    Args:
        confidence: (samples,), probabilities of the predicted classes, 0..1.
        correct: (samples,), whether each prediction is right.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    at = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)  # a bin holds its upper edge
    counts = np.bincount(at, minlength=bins)
    some = np.maximum(counts, 1)
    empty = np.where(counts, 0.0, np.nan)
    hits, sums = (np.bincount(at, weights=values, minlength=bins) for values in (right, sure))
    return Reliability(edges, counts, hits / some + empty, sums / some + empty)
