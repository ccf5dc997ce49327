"""Progress of a sweep for people: a live table on a terminal, plain lines where the output is a file or a pipe."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vitray.tune.record import SweepDisplay, TrialRecord, ranked

if TYPE_CHECKING:
    from vitray.tune.plan import SweepPlan

_LINE_EVERY_S = 5.0
_MOST_ROWS = 24
_COLOURS = {"running": "cyan", "done": "green", "stopped": "yellow", "failed": "red", "pending": "dim"}


class SweepTable(SweepDisplay):
    """A live table of the trials: parameters, epoch, metric, outcome."""

    def __init__(self, plan: SweepPlan) -> None:
        self._plan, self._console = plan, Console(stderr=True)
        self._start = time.perf_counter()
        self._stage, self._staged = "starting the workers", False
        self._trials: Sequence[TrialRecord] = ()
        self._line_at = 0.0
        self._said: set[int] = set()
        live = self._console.is_terminal
        self._live = (
            Live(self._render(), console=self._console, refresh_per_second=4, get_renderable=self._render)
            if live
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, trials: Sequence[TrialRecord]) -> None:
        self._trials = trials
        searched = [t for t in trials if t.kind == "search"]
        ended = sum(t.ended for t in searched)
        if ended < len(searched) or not self._staged:
            self._stage = f"{ended} of {len(self._plan.points)} trials ended"
        if self._live is None:
            self._lines(trials)

    def stage(self, text: str) -> None:
        self._stage, self._staged = text, True
        if self._live is None and time.perf_counter() - self._line_at > _LINE_EVERY_S:
            self._say(text)

    def _lines(self, trials: Sequence[TrialRecord]) -> None:
        for trial in trials:
            if trial.ended and trial.index not in self._said:
                self._said.add(trial.index)
                start = "" if trial.start_s is None else f", began after {trial.start_s:.2f} s"
                by = f" by {trial.ended_by}" if trial.ended_by else ""
                outcome = trial.failure or self._score(trial)
                self._say(f"{trial.name} {trial.status}{by} at epoch {trial.epoch}{start}: {outcome}  {_point(trial)}")
        running = [t for t in trials if t.status == "running"]
        if running and time.perf_counter() - self._line_at > _LINE_EVERY_S:
            self._say(f"{self._stage}; " + ", ".join(f"{t.name} epoch {t.epoch}" for t in running))

    def _score(self, trial: TrialRecord) -> str:
        best = trial.best(self._metric, self._mode)
        return f"{best:.4f} {self._metric}" if math.isfinite(best) else "trained"  # nothing validates the retraining

    def _say(self, text: str) -> None:
        self._line_at = time.perf_counter()
        elapsed = time.perf_counter() - self._start
        self._console.print(f"[{elapsed:5.0f} s] {text}", markup=False, highlight=False, soft_wrap=True)

    @property
    def _metric(self) -> str:
        return self._plan.search.metric

    @property
    def _mode(self) -> str:
        return self._plan.search.mode

    def _render(self) -> Group:
        names = list(self._plan.space.dimensions)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("trial", *(n.split(".", 1)[1] for n in names), "epoch", self._metric, "start", "state"):
            table.add_column(heading, justify="left" if heading in ("trial", "state") else "right")
        searched = [t for t in self._trials if t.kind == "search"]
        best = next(iter(ranked(searched, self._metric, self._mode)), None)
        for trial in self._shown():
            score = trial.best(self._metric, self._mode)
            table.add_row(
                f"{trial.index:3d}" if trial.kind == "search" else trial.name,
                *(_short(trial.point.get(n, "")) for n in names),  # not every key is part of every point
                f"{trial.epoch}/{trial.values.get('train.epochs', self._plan.experiment.train.epochs)}",
                f"{score:.4f}" if math.isfinite(score) else "",
                "" if trial.start_s is None else f"{trial.start_s:.2f} s",
                Text(_state(trial) + (" *" if trial is best else ""), style=_COLOURS[trial.status]),
                style="bold" if trial is best else None,
            )
        elapsed = time.perf_counter() - self._start
        return Group(table, Text(f"{elapsed:.0f} s  {self._stage}", style="dim"))

    def _shown(self) -> Sequence[TrialRecord]:
        """All of them, or in a long sweep what runs and the best."""
        if len(self._trials) <= _MOST_ROWS:
            return self._trials
        running = [t for t in self._trials if t.status == "running"]
        return (
            running
            + ranked((t for t in self._trials if t not in running), self._metric, self._mode)[
                : max(0, _MOST_ROWS - len(running))
            ]
        )


def _state(trial: TrialRecord) -> str:
    if trial.status == "running" and trial.spans and len(trial.spans[-1]) == 2:
        return "waiting"  # for the others of its bracket or population
    return f"failed: {trial.failure_class}" if trial.failure_class else trial.status


def _point(trial: TrialRecord) -> str:
    return ", ".join(f"{name.split('.', 1)[1]}={_short(value)}" for name, value in trial.point.items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
