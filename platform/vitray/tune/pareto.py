"""Trade-offs between objectives: what a trial comes to in each, and which trials no other one beats in all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vitray.experiment import Experiment
from vitray.model_size import count_parameters, flops
from vitray.search_config import HIGHER_IS_BETTER
from vitray.tune.record import TrialRecord

_GIGA = 1e9
_TRAINED = ("val/accuracy", "val/loss", "train/loss")


def objective_values(record: TrialRecord, experiment: Experiment, objectives: Sequence[str]) -> tuple[float, ...]:
    """A trial's value of each objective; NaN where it has none.

    ``parameters`` and ``gflops`` (10^9 operations, forward, an image) are those of its ``experiment``; metrics are the
    best that it reported; of all else, as ``latency_ms``, the last report counts.
    """
    return tuple(_value(record, experiment, objective) for objective in objectives)


def pareto_front(values: Sequence[Sequence[float]], objectives: Sequence[str]) -> list[int]:
    """Which rows of ``values`` (one a trial, one number an objective) no other row dominates, in their order.

    A row dominates another that it is nowhere worse than, and somewhere better. Equal rows are all on the front; a row
    with a number missing (NaN) is not.
    """
    signs = np.array([-1.0 if objective in HIGHER_IS_BETTER else 1.0 for objective in objectives])
    table = np.asarray(values, dtype=float).reshape(len(values), len(objectives)) * signs
    whole = np.flatnonzero(~np.isnan(table).any(axis=1))
    # Sorted, so that only a row before another can dominate it.
    rows = whole[np.lexsort(table[whole].T[::-1])]
    front: list[int] = []
    for row in rows:
        before = table[front]
        if not ((before <= table[row]).all(axis=1) & (before < table[row]).any(axis=1)).any():
            front.append(int(row))
    return sorted(front)


def front_of(
    records: Iterable[TrialRecord], experiment_of: Callable[[TrialRecord], Experiment], objectives: Sequence[str]
) -> list[tuple[TrialRecord, tuple[float, ...]]]:
    """The trials of the search that ended by themselves and that none other beats, with their values.

    Repeats have the architecture of a finalist and other luck: they are no further answer.
    """
    done = [record for record in records if record.status == "done" and record.kind == "search"]
    values = [objective_values(record, experiment_of(record), objectives) for record in done]
    return [(done[i], values[i]) for i in pareto_front(values, objectives)]


def _value(record: TrialRecord, experiment: Experiment, objective: str) -> float:
    if objective == "parameters":
        return float(count_parameters(experiment.model))
    if objective == "gflops":
        return flops(experiment.model).forward / _GIGA
    if objective in _TRAINED:
        best = record.best(objective, "max" if objective in HIGHER_IS_BETTER else "min")
        return best if math.isfinite(best) else math.nan
    return next((r[objective] for r in reversed(record.reports) if objective in r), math.nan)
