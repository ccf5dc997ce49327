"""Progress of a training for people: a bar on a terminal, plain lines where the output is a file or a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vitray.cluster.launch import TrainWatcher

if TYPE_CHECKING:
    from vitray.train.report import Report
    from vitray.train.run import Run

_WAIT_SHOWN = 0.005  # share of the time


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

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        facts = f"loss {values['train/loss']:.4f}{self._accuracy} {values['images_per_s']:,.0f} images/s"
        if values["data_wait"] >= _WAIT_SHOWN:
            facts += f", {values['data_wait']:.0%} waiting for data"
        if self._task is not None:
            self._bar.update(self._task, completed=step, facts=facts)
