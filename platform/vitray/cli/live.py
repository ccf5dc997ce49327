"""Progress for people: a bar or a live table on a terminal, plain lines where the output is a file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vitray.cluster.launch import TrainWatcher
from vitray.tune.record import SweepDisplay, TrialRecord, ranked

if TYPE_CHECKING:
    from vitray.train.report import Report
    from vitray.train.run import Run
    from vitray.tune.plan import SweepPlan

_LINE_EVERY_S = 5.0
_WAIT_SHOWN = 0.005  # share of the time
_MOST_ROWS = 24
_COLOURS = {"running": "cyan", "done": "green", "stopped": "yellow", "failed": "red", "pending": "dim"}


class TrainBar(TrainWatcher):
    """Steps, images a second, loss, validation accuracy and the time left."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._epochs = 0
        self._accuracy = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def begins_with(self, weights: str) -> None:
        self._console.print(f"begins with {weights}", markup=False, highlight=False, soft_wrap=True)

    def begin(self, run: Run, resources: str, steps_per_epoch: int) -> None:
        self._epochs = run.experiment.train.epochs
        self._console.print(f"run [bold]{run.name}[/]: {resources}; state in {run.folder}", highlight=False)
        self._task = self._bar.add_task(run.name, total=self._epochs * steps_per_epoch, facts="starting the workers")

    def progress(self, step: int, values: object) -> None:
        if isinstance(values, Mapping):
            self._show(step, values)

    def report(self, report: Report) -> None:
        metrics = report.metrics
        if "val/accuracy" in metrics:
            self._accuracy = f" val {metrics['val/accuracy']:.4f}"
        self._show(report.step, metrics)
        if damaged := int(metrics.get("damaged_rows", 0)):
            self._console.print(
                f"epoch {report.epoch}: {damaged} damaged image{'s' if damaged > 1 else ''} did not count; "
                "vitray data verify names the shard",
                highlight=False,
            )
        if not self._console.is_terminal:
            self._console.print(
                f"epoch {report.epoch}/{self._epochs}: loss {metrics['train/loss']:.4f}{self._accuracy} "
                f"{metrics['images_per_s']:,.0f} images/s, waited for data {metrics['data_wait']:.1%}",
                highlight=False,
            )

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        facts = f"loss {values['train/loss']:.4f}{self._accuracy} {values['images_per_s']:,.0f} images/s"
        if values["data_wait"] >= _WAIT_SHOWN:
            facts += f", {values['data_wait']:.0%} waiting for data"
        if self._task is not None:
            self._bar.update(self._task, completed=step, facts=facts)


class SweepTable(SweepDisplay):
    """A live table of the trials: parameters, epoch, metric, outcome."""

    def __init__(self, plan: SweepPlan) -> None:
        self._plan, self._console = plan, Console(stderr=True)
        self._start = time.perf_counter()
        self._stage = "starting the workers"
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
        done = sum(t.status in ("done", "stopped", "failed") for t in trials)
        self._stage = f"{done} of {len(trials)} trials ended"
        if self._live is None:
            self._lines(trials)

    def stage(self, text: str) -> None:
        self._stage = text
        if self._live is None and time.perf_counter() - self._line_at > _LINE_EVERY_S:
            self._say(text)

    def _lines(self, trials: Sequence[TrialRecord]) -> None:
        for trial in trials:
            if trial.status in ("done", "stopped", "failed") and trial.index not in self._said:
                self._said.add(trial.index)
                outcome = trial.failure or f"{trial.best(self._metric, self._mode):.4f} {self._metric}"
                start = "" if trial.start_s is None else f", began after {trial.start_s:.2f} s"
                self._say(f"{trial.name} {trial.status} at epoch {trial.epoch}{start}: {outcome}  {_point(trial)}")
        running = [t for t in trials if t.status == "running"]
        if running and time.perf_counter() - self._line_at > _LINE_EVERY_S:
            self._say(f"{self._stage}; " + ", ".join(f"{t.name} epoch {t.epoch}" for t in running))

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
        best = next(iter(ranked(self._trials, self._metric, self._mode)), None)
        for trial in self._shown():
            score = trial.best(self._metric, self._mode) if trial.reports else None
            table.add_row(
                f"{trial.index:3d}",
                *(_short(trial.point.get(n, "")) for n in names),  # not every key is part of every point
                f"{trial.epoch}/{self._plan.experiment.train.epochs}",
                "" if score is None else f"{score:.4f}",
                "" if trial.start_s is None else f"{trial.start_s:.2f} s",
                Text(trial.status + (" *" if trial is best else ""), style=_COLOURS[trial.status]),
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
                : _MOST_ROWS - len(running)
            ]
        )


def _point(trial: TrialRecord) -> str:
    return ", ".join(f"{name.split('.', 1)[1]}={_short(value)}" for name, value in trial.point.items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
