"""What is kept of a model's answers to score them: four numbers a sample, however many classes there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """All (samples,).

    Args:
        confidence: probability of the predicted class, 0..1.
        log_truth: natural logarithm of the true class's probability.
        rank: how many classes come before the true one: 0 where the prediction is right. Of equally probable classes
            the first comes first, as in the prediction.
        brier: sum over the classes of (probability - truth)^2, 0..2.
    """

    confidence: Floats
    log_truth: Floats
    rank: npt.NDArray[np.int32]
    brier: Floats

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of the true class, in nats: the cross-entropy loss."""
        return float(-self.log_truth.mean())

    @property
    def brier_score(self) -> float:
        """Mean over the samples of the sum over the classes (Brier 1950), 0 (perfect) to 2."""
        return float(self.brier.mean())

    def top_k_accuracy(self, k: int) -> float:
        """Share of the samples whose true class is among the ``k`` most probable."""
        return float((self.rank < k).mean())

    @classmethod
    def of(cls, logits: torch.Tensor, labels: torch.Tensor) -> Answers:
        """From logits (samples, classes) and true classes (samples,)."""
        log = logits.double().log_softmax(dim=1)
        truth = labels[:, None]
        log_truth = log.gather(1, truth)
        before = (log == log_truth) & (torch.arange(log.shape[1]) < truth)
        rank = (log > log_truth).sum(1) + before.sum(1)
        probabilities = log.exp()
        # sum of p^2, with the true class's p^2 replaced by (p - 1)^2
        brier = probabilities.square().sum(1) - 2 * probabilities.gather(1, truth)[:, 0] + 1
        found = (probabilities.amax(1), log_truth[:, 0], rank.to(torch.int32), brier.clamp(min=0.0))
        return cls(*(values.numpy() for values in found))

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """One after the other."""
        names = ("confidence", "log_truth", "rank", "brier")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
