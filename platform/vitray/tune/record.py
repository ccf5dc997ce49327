"""What is known of a sweep's trials while it runs and afterwards: a fold over the events of its ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Status = Literal["pending", "running", "done", "stopped", "failed"]
Kind = Literal["search", "repeat", "final"]
Event = Mapping[str, Any]
ENDED = ("done", "stopped", "failed")


@dataclass
class TrialRecord:
    """One trial: its point, how far it got, and what it scored at each epoch.

    ``kind``: one that searches, one that ``repeats`` (the index of) a finalist with another seed, or the final
    retraining of the trial ``repeats``; ``of`` is the name of that trial. ``values``: every config key that is not the
    sweep's own; the point is part of them, with PBT as they are now (and as ``first_point`` at the beginning). A report
    has ``epoch``, ``step``, ``at`` (Unix time) and metrics.
    ``spans``: Unix times at which a group began with the trial and let go of it, one a start; the last has no end while
    it runs. ``ended_by``: who stopped it before its last epoch: the scheduler's name, or ``budget``. ``changes``: PBT's
    exploits, with ``epoch``, ``donor`` (index) and the new ``point``. ``retries``: what was changed after a failure to
    try again.
    """

    index: int
    name: str
    point: Mapping[str, Any]
    kind: Kind = "search"
    repeats: int | None = None
    of: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    status: Status = "pending"
    epoch: int = 0
    reports: list[dict[str, float]] = field(default_factory=list)
    start_s: float | None = None
    warm: bool = False
    failure: str | None = None
    failure_class: str | None = None
    ended_by: str | None = None
    spans: list[list[float]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    retries: list[str] = field(default_factory=list)
    first_point: Mapping[str, Any] | None = None

    def apply(self, event: Event) -> None:
        """Take one event of the ledger that concerns this trial."""
        kind = event["event"]
        if kind == "begin":
            self.status = "running"
            self._close_span(None)
            self.spans.append([event["at"]])
        elif kind == "report":
            self.epoch = int(event["epoch"])
            where = {"epoch": float(self.epoch), "step": float(event.get("step", 0)), "at": float(event["at"])}
            self.reports.append({**where, **event["metrics"]})
            if self.start_s is None and "start_s" in event:
                self.start_s, self.warm = float(event["start_s"]), bool(event["warm"])
        elif kind == "pause":
            self._close_span(event["at"])
        elif kind == "change":
            self.first_point = self.begun_with
            self.point, self.values = dict(event["point"]), {**self.values, **event["point"]}
            self.changes.append({key: event[key] for key in ("epoch", "donor", "point")})
        elif kind == "retry":
            self.retries.append(str(event["what"]))
        elif kind == "end":
            self.status, self.ended_by = event["status"], event.get("ended_by")
            self.failure, self.failure_class = event.get("failure"), event.get("failure_class")
            self._close_span(event["at"])

    @property
    def begun_with(self) -> Mapping[str, Any]:
        """The point that it was proposed with; PBT may have changed it since."""
        return self.first_point if self.first_point is not None else self.point

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def seconds(self) -> float:
        """How long groups had the trial, as far as is known."""
        last = self.reports[-1]["at"] if self.reports else 0.0
        return sum((span[1] if len(span) > 1 else max(span[0], last)) - span[0] for span in self.spans)

    def score_at(self, epoch: int, metric: str) -> float | None:
        """What it reported of a metric after an epoch; None where it reported none."""
        return next((r[metric] for r in self.reports if r["epoch"] == epoch and metric in r), None)

    def best(self, metric: str, mode: str) -> float:
        """The best value so far; the worst there is where nothing was reported."""
        sign = 1 if mode == "max" else -1
        return sign * max((sign * r[metric] for r in self.reports if metric in r), default=-math.inf)

    def _close_span(self, at: float | None) -> None:
        if self.spans and len(self.spans[-1]) == 1:
            # A driver that was killed closed none: the trial's last word is what is known.
            last = self.reports[-1]["at"] if self.reports else 0.0
            self.spans[-1].append(max(self.spans[-1][0], last) if at is None else at)


_METRICS = ("lr", "images_per_s", "data_wait", "damaged_rows", "epoch_s", "eval_s", "checkpoint_s", "latency_ms")


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics in one of Tune's results, which holds much else."""
    numbers = {k: v for k, v in result.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) for k, v in numbers.items() if k.startswith(("train/", "val/", "system/")) or k in _METRICS}


def ranked(trials: Iterable[TrialRecord], metric: str, mode: str) -> list[TrialRecord]:
    """Trials that scored, the best first. Between equals, the one of lower validation loss."""
    sign = 1 if mode == "max" else -1

    def rank(trial: TrialRecord) -> tuple[float, float]:
        loss = min((r["val/loss"] for r in trial.reports if "val/loss" in r), default=math.inf)
        return -sign * trial.best(metric, mode), loss

    scored = [t for t in trials if t.status != "failed" and math.isfinite(t.best(metric, mode))]
    return sorted(scored, key=rank)


def busy_seconds(trials: Iterable[TrialRecord], now: float) -> float:
    """How long at least one group had a trial: not what lies between an interruption and its resume."""
    spans = sorted((span[0], span[1] if len(span) > 1 else now) for trial in trials for span in trial.spans)
    seconds, upto = 0.0, 0.0
    for begin, end in spans:  # side by side they count once
        seconds += max(0.0, end - max(begin, upto))
        upto = max(upto, end)
    return seconds


class SweepDisplay(Protocol):
    """Who shows a sweep while it runs."""

    def update(self, trials: Sequence[TrialRecord]) -> None:
        """Something changed."""

    def stage(self, text: str) -> None:
        """What is going on now."""
