"""What is known of a sweep's trials while it runs and afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Status = Literal["pending", "running", "done", "stopped", "failed"]


@dataclass
class TrialRecord:
    """One trial: its point, how far it got, and what it scored at each epoch."""

    index: int
    name: str
    point: Mapping[str, Any]
    status: Status = "pending"
    epoch: int = 0
    reports: list[dict[str, float]] = field(default_factory=list)
    start_s: float | None = None
    warm: bool = False
    failure: str | None = None

    def take(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Keep one Tune result; returns its metrics."""
        metrics = {
            k: float(v)
            for k, v in result.items()
            if isinstance(v, int | float) and not isinstance(v, bool) and ("/" in k or k in _OUR_METRICS)
        }
        self.epoch = int(result["epoch"])
        self.reports.append({"epoch": float(self.epoch), **metrics})
        if self.start_s is None and "start_s" in result:
            self.start_s, self.warm = float(result["start_s"]), bool(result["warm"])
        return metrics

    def best(self, metric: str, mode: str) -> float:
        """The best value so far; the worst there is where nothing was reported."""
        sign = 1 if mode == "max" else -1
        return sign * max((sign * r[metric] for r in self.reports if metric in r), default=-math.inf)


_OUR_METRICS = ("lr", "images_per_s", "data_wait", "damaged_rows", "epoch_s", "eval_s", "checkpoint_s", "start_s")


def ranked(trials: Iterable[TrialRecord], metric: str, mode: str) -> list[TrialRecord]:
    """Trials that scored, the best first. Between equals, the one of lower validation loss."""
    sign = 1 if mode == "max" else -1

    def rank(trial: TrialRecord) -> tuple[float, float]:
        loss = min((r["val/loss"] for r in trial.reports if "val/loss" in r), default=math.inf)
        return -sign * trial.best(metric, mode), loss

    scored = [t for t in trials if t.status != "failed" and math.isfinite(t.best(metric, mode))]
    return sorted(scored, key=rank)


class SweepDisplay(Protocol):
    """Who shows a sweep while it runs."""

    def update(self, trials: Sequence[TrialRecord]) -> None:
        """Something changed."""

    def stage(self, text: str) -> None:
        """What is going on now."""
