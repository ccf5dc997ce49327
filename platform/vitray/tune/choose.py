"""Which trial of a sweep wins: the best one as it is, or the finalist whose repeats with other seeds are best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from vitray.errors import TrainingError
from vitray.search_config import HIGHER_IS_BETTER, SearchConfig
from vitray.train.intervals import of_mean, wilson
from vitray.tune.record import TrialRecord, ranked


@dataclass(frozen=True)
class Standing:
    """How a trial stands at the end: the mean of ``scores`` with its 95 % interval, where one can be told.

    ``scores`` are those of its repeats, without the trial's own: it was chosen for that one, so it is too good. Where
    nothing was repeated they are the trial's own. ``left_out``: repeats that came to no result.
    """

    trial: TrialRecord
    metric: str
    mean: float
    interval: tuple[float, float] | None
    scores: tuple[float, ...]
    repeated: bool
    left_out: int = 0

    def describe(self) -> str:
        """One line, for people."""
        parts = [f"{self.metric} {self.mean:.4f}"]
        if self.interval is not None:
            parts.append(f"95 % interval {self.interval[0]:.4f} to {self.interval[1]:.4f}")
        if self.repeated:
            parts.append(f"{len(self.scores)} other seed{'s' if len(self.scores) > 1 else ''}")
        if self.left_out:
            parts.append(f"{self.left_out} of {self.left_out + len(self.scores) * self.repeated} repeats failed")
        return parts[0] + (f" ({', '.join(parts[1:])})" if parts[1:] else "")


@dataclass(frozen=True)
class Choice:
    """All that competed at the end, the winner first."""

    standings: tuple[Standing, ...]

    @property
    def standing(self) -> Standing:
        return self.standings[0]

    @property
    def best(self) -> TrialRecord:
        return self.standing.trial


def finalists(records: Iterable[TrialRecord], search: SearchConfig) -> list[TrialRecord]:
    """The trials to repeat with other seeds, the best first; none where the config asks for none."""
    return _ranked(records, search)[: search.finalists if search.repeats else 0]


def choose(records: Iterable[TrialRecord], search: SearchConfig) -> Choice:
    """Name the winner. Repeats that did not get to their end are left out; without any, trials stand as they are.

    Raises:
        TrainingError: no trial came to a result.
    """
    records = list(records)
    order = _ranked(records, search)
    if not order:
        failures = [r.failure for r in records if r.failure]
        raise TrainingError(f"no trial came to a result; the first failed with: {(failures or ['no report'])[0]}")
    repeats: dict[int, list[TrialRecord]] = {}
    for record in records:
        if record.kind == "repeat" and record.repeats is not None:
            repeats.setdefault(record.repeats, []).append(record)
    standings = [_repeated(trial, repeats[trial.index], search) for trial in order if trial.index in repeats]
    compared = [s for s in standings if s.scores]
    if not compared:
        return Choice(tuple(_alone(trial, search, len(repeats.get(trial.index, ()))) for trial in order))
    sign = 1 if search.mode == "max" else -1
    return Choice(tuple(sorted(compared, key=lambda s: -sign * s.mean)))  # between equals, the search's order


def _ranked(records: Iterable[TrialRecord], search: SearchConfig) -> list[TrialRecord]:
    return ranked([r for r in records if r.kind == "search"], search.metric, search.mode)


def _repeated(trial: TrialRecord, repeats: list[TrialRecord], search: SearchConfig) -> Standing:
    ends = [r for r in (_used(t, search) for t in repeats if t.status == "done") if r is not None]
    scores = tuple(r[search.metric] for r in ends)
    mean = math.fsum(scores) / len(scores) if scores else math.nan
    interval = _interval(ends, scores, search) if scores else None
    return Standing(trial, search.metric, mean, interval, scores, True, len(repeats) - len(scores))


def _alone(trial: TrialRecord, search: SearchConfig, left_out: int) -> Standing:
    score = trial.best(search.metric, search.mode)
    report = next(r for r in trial.reports if r.get(search.metric) == score)
    return Standing(trial, search.metric, score, _interval([report], (score,), search), (score,), False, left_out)


def _used(trial: TrialRecord, search: SearchConfig) -> dict[str, float] | None:
    """The report of the checkpoint that would become the model.

    The retraining on train+val has nothing to choose an epoch by, so its last checkpoint is taken, and the last
    epoch's score tells what to expect of it; the best epoch's would count luck as skill. Without a retraining the
    model is the checkpoint of the best validation accuracy.
    """
    reports = [r for r in trial.reports if math.isfinite(r.get(search.metric, math.nan))]
    if not reports:
        return None
    return reports[-1] if search.retrain else max(reports, key=lambda r: r.get("val/accuracy", -math.inf))


def _interval(
    reports: list[dict[str, float]], scores: tuple[float, ...], search: SearchConfig
) -> tuple[float, float] | None:
    """Over seeds where there are several. One seed says nothing of others: then over the validation images."""
    is_share = search.metric in HIGHER_IS_BETTER
    if len(scores) > 1:
        low, high = of_mean(scores)
        return (max(0.0, low), min(1.0, high)) if is_share else (low, high)
    images = int(reports[0].get("val/samples", 0))
    return wilson(scores[0], images) if is_share and images else None
