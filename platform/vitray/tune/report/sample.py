"""Trials made comparable: all scores after one and the same epoch, before anybody was stopped; points as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vitray.tune.record import TrialRecord

Array = npt.NDArray[np.float64]
_MOST_VALUES = 12  # of a key whose values are compared one by one


@dataclass(frozen=True)
class Observation:
    """A trial's point as it began with it, and its score after the common epoch."""

    record: TrialRecord
    point: Mapping[str, Any]
    score: float


@dataclass(frozen=True)
class Sample:
    """Trials that got to ``epoch``. ``left_out``: how many that began did not."""

    epoch: int
    observations: Sequence[Observation]
    left_out: int

    @property
    def scores(self) -> Array:
        return np.array([o.score for o in self.observations])

    def values(self, key: str) -> list[Any]:
        """Of a key, each once, numbers in order; trials that the key means nothing to are passed over."""
        found = list(dict.fromkeys(plain(o.point[key]) for o in self.observations if key in o.point))
        return sorted(found) if all(is_number(v) for v in found) else found

    def is_choice(self, key: str) -> bool:
        """Whether a key has few values, each of which several trials may share."""
        values = self.values(key)
        having = sum(key in o.point for o in self.observations)
        return 2 <= len(values) <= _MOST_VALUES and (
            not all(is_number(v) for v in values) or len(values) <= max(2, having // 2)
        )

    def columns(self, key: str, *, curved: bool = False) -> Array:
        """A key as columns of numbers, (trials, columns): an indicator for all but the first value, or the number.

        Numbers that span a power of ten count by their logarithm; all are centred and scaled. ``curved`` adds the
        square. Where the key means nothing to a trial its columns are 0, the mean.
        """
        held = [plain(o.point.get(key)) for o in self.observations]
        values = self.values(key)
        if not all(is_number(v) for v in values) or len(values) < 3:
            return np.array([[float(h == v) for v in values[1:]] for h in held]).reshape(len(held), -1)
        numbers = np.array([math.nan if h is None else float(h) for h in held])
        if np.nanmin(numbers) > 0 and np.nanmax(numbers) / np.nanmin(numbers) >= 4:
            numbers = np.log(numbers)
        numbers = (numbers - np.nanmean(numbers)) / (np.nanstd(numbers) or 1.0)
        columns = [numbers, numbers**2 - np.nanmean(numbers**2)] if curved else [numbers]
        return np.nan_to_num(np.stack(columns, axis=1))


def sample(records: Sequence[TrialRecord], metric: str) -> Sample | None:
    """All trials of a search after the last epoch that every trial reached which ended as it should.

    A scheduler keeps the better ones, so that later epochs show survivors alone; and nothing counts after PBT gave a
    trial another's weights. None where no trial has ended, or the metric was not reported.
    """
    began = [r for r in records if r.kind == "search" and r.spans]
    ends = [r.epoch for r in began if r.status in ("done", "stopped") and r.ended_by != "budget" and r.reports]
    ends += [int(r.changes[0]["epoch"]) for r in began if r.changes]
    if not ends:
        return None
    epoch = min(ends)
    found = []
    for record in began:
        score = next((r[metric] for r in record.reports if int(r["epoch"]) == epoch and metric in r), math.nan)
        if math.isfinite(score):
            found.append(Observation(record, {k: plain(v) for k, v in record.begun_with.items()}, score))
    return Sample(epoch, found, len(began) - len(found)) if found else None


def plain(value: Any) -> Any:
    """Something that can be compared and hashed."""
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
