"""How much each searched key mattered: permutation importance on a forest, judged on trials that it has not seen.

Breiman 2001: a key matters as much as predictions get worse when its values are shuffled among the trials. Forests are
grown on resamples of the trials and judged on those left out, so that the spread over resamples says how far the
answer depends on which trials happened to run, and the share of variance explained says whether there is an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitray.tune.report.sample import Array, Sample

FEWEST = 8  # trials, below which nothing can be said
_RESAMPLES, _SHUFFLES, _TREES = 40, 5, 20


@dataclass(frozen=True)
class Importance:
    """Of a key: the share of the variance of scores that is lost when it is shuffled; the middle 95 % of resamples."""

    key: str
    share: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Above nothing in all but a few resamples."""
        return self.low > 0


@dataclass(frozen=True)
class Importances:
    """Keys, the most important first. ``explained``: the share of variance that forests predict of unseen trials."""

    rows: Sequence[Importance]
    explained: float
    trials: int
    epoch: int


def importances(sample: Sample, keys: Sequence[str], *, higher: bool) -> Importances | None:
    """None where there are fewer than :data:`FEWEST` trials, or nothing differs between them.

    Scores of which less is better may have no bound, and count by their rank: one trial that diverged would decide all.
    """
    from sklearn.ensemble import ExtraTreesRegressor  # a second to import

    blocks = [sample.columns(key) for key in keys]
    scores = sample.scores if higher else _ranks(sample.scores)
    count = len(scores)
    if count < FEWEST or np.ptp(scores) == 0 or not blocks:
        return None
    table, ends = np.concatenate(blocks, axis=1), np.cumsum([b.shape[1] for b in blocks])
    variance = float(scores.var())
    generator = np.random.default_rng(0)
    lost, explained = [], []
    for _ in range(_RESAMPLES):
        inside = generator.integers(count, size=count)
        outside = np.setdiff1d(np.arange(count), inside)
        if len(outside) < 2 or np.ptp(scores[inside]) == 0:
            continue
        forest = ExtraTreesRegressor(_TREES, min_samples_leaf=2, random_state=int(generator.integers(2**31)))
        forest.fit(table[inside], scores[inside])
        copies = [table[outside]]
        for end, block in zip(ends, blocks, strict=True):
            part = slice(end - block.shape[1], end)
            for _ in range(_SHUFFLES):
                copy = table[outside].copy()
                copy[:, part] = copy[generator.permutation(len(outside))][:, part]
                copies.append(copy)
        predicted = forest.predict(np.concatenate(copies)).reshape(len(copies), len(outside))
        errors = ((predicted - scores[outside]) ** 2).mean(axis=1)
        explained.append(1 - errors[0] / variance)
        lost.append((errors[1:].reshape(len(keys), _SHUFFLES).mean(axis=1) - errors[0]) / variance)
    if not lost:
        return None
    low, high = np.percentile(lost, [2.5, 97.5], axis=0)
    rows = [
        Importance(*row) for row in zip(keys, np.mean(lost, axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    ]
    return Importances(sorted(rows, key=lambda r: -r.share), float(np.mean(explained)), count, sample.epoch)


def _ranks(scores: Array) -> Array:
    """Equal scores share the mean of their ranks."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means: Array = np.cumsum(counts) - (counts + 1) / 2
    return means[inverse]
