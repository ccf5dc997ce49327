"""How fast trainings run here, as far as it is known before one has begun: from earlier sweeps, or a matrix product."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitray.errors import VitrayError
from vitray.experiment import Experiment
from vitray.model_size import flops
from vitray.train.resources import GroupPlan
from vitray.tune.keys import changed
from vitray.tune.state import is_sweep, load_sweep

_TRIALS = 200  # of the newest sweeps: enough for a line
_FEWEST = 3
# A step of a small ViT on CPU comes to between a third and nine tenths of the rate of a large float32 product.
_EFFICIENCY = 0.5
_STEP_S = 0.005  # of a rank, whatever it computes: the optimizer, the data, hundreds of small kernels
_SIZE, _FOR_S = 384, 0.1  # many short ones: the best of them had the cores to itself
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speed:
    """A worker's seconds for a training step: ``step_s + flop_s * (operations of the step)``, over all its ranks."""

    step_s: float
    flop_s: float
    source: str

    def seconds(self, experiment: Experiment, images: int) -> float:
        """Worker-seconds of an epoch of ``images``."""
        batch = min(experiment.train.global_batch, images)
        step = self.step_s + self.flop_s * flops(experiment.model).training * batch
        return step * -(-images // max(1, batch))


def speed_of(runs: Path, experiment: Experiment, groups: GroupPlan, *, here: bool = True) -> Speed | None:
    """By the trials of this home's sweeps, else (``here``, on CPUs) by the rate of a matrix product, else None."""
    otherwise = assumed(groups) if here and not groups.use_gpu else None
    return measured(runs, experiment, otherwise) or otherwise


def measured(runs: Path, experiment: Experiment, otherwise: Speed | None = None) -> Speed | None:
    """A line through the trials of earlier sweeps of the same precision and device; None where they are too few.

    All that a trial took counts, evaluation and checkpoints too, but not the start of its group. Medians of slopes and
    offsets (Theil 1950, Sen 1968), so that a few trials which waited for something do no harm. Where all were of one
    size, the slope is that of ``otherwise``: small models take no time in proportion to their operations.
    """
    points, names = [], dict[str, None]()
    newest = sorted((f for f in runs.glob("*") if is_sweep(f)), key=lambda f: -f.stat().st_mtime)
    for folder in newest:
        for point in _points(runs, folder.name, experiment):
            points.append(point)
            names[folder.name] = None
        if len(points) >= _TRIALS:
            break
    if len(points) < _FEWEST:
        return None
    x, y = np.array(points[:_TRIALS]).T
    i, j = np.triu_indices(len(x), 1)
    apart = np.abs(x[i] - x[j]) > 1e-3 * np.maximum(x[i], x[j])
    if apart.any():
        slope = max(0.0, float(np.median((y[i] - y[j])[apart] / (x[i] - x[j])[apart])))
        if slope == 0 and otherwise is not None:  # among models so small nothing is seen of it, but larger ones take it
            slope = otherwise.flop_s
    else:
        slope = otherwise.flop_s if otherwise is not None else float("inf")
    offset = float(np.median(y - slope * x))
    if offset < 0:
        slope, offset = float(np.median(y / x)), 0.0
    shown = list(names)
    sweeps = f"sweep{'s' if len(shown) > 1 else ''} {', '.join(shown[:2])}{' and others' if len(shown) > 2 else ''}"
    return Speed(offset, slope, f"as {len(x)} trials of {sweeps} took")


def assumed(groups: GroupPlan) -> Speed:
    """Half the rate of a matrix product on this machine, measured now, and 5 ms for every step."""
    a = np.ones((_SIZE, _SIZE), dtype=np.float32)
    a @ a
    end, best = time.perf_counter() + _FOR_S, float("inf")
    while (begin := time.perf_counter()) < end:
        a @ a
        best = min(best, time.perf_counter() - begin)
    rate = 2 * _SIZE**3 / best
    share = min(1.0, groups.threads / (os.cpu_count() or 1))
    source = f"assumed: {_EFFICIENCY:.0%} of the {rate / 1e9:.0f} GFLOP/s of a matrix product here, no sweep yet"
    return Speed(_STEP_S * groups.ranks, 1 / (rate * share * _EFFICIENCY), source)


def _points(runs: Path, name: str, like: Experiment) -> Iterator[tuple[float, float]]:
    """(operations, worker-seconds) of a step of each of a sweep's trials."""
    try:
        saved = load_sweep(runs, name)
        base = saved.experiment
        if base.cluster.use_gpu != like.cluster.use_gpu:
            return
        for record in saved.records:
            steps = record.reports[-1].get("step", 0) if record.reports else 0
            trial = changed(base, record.values)
            if steps and record.seconds > 0 and trial.train.precision == like.train.precision:
                ranks = trial.cluster.workers
                # Most of a first start in a group is the group's own, which there is one of.
                cold = 0.0 if record.warm or record.start_s is None else record.start_s
                seconds = max(0.0, record.seconds - cold) * (ranks if isinstance(ranks, int) else ranks[0])
                yield float(flops(trial.model).training * trial.train.global_batch), seconds / steps
    except (VitrayError, OSError, AssertionError) as error:
        log.debug("sweep %s says nothing of the speed: %s", name, error)
