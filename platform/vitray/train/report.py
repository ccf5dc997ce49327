"""What a run says of itself while it goes on, and to whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Report:
    """Said by the first rank when an epoch is done; its checkpoint is then being written.

    If ranks die before it is committed, they come back from the one before, and the epoch is done and saved again.
    """

    step: int
    epoch: int
    metrics: Mapping[str, float]
    checkpoint: str | None = None
    first_step_at: float | None = None  # Unix time at which the run's first optimizer step was done
    timestamp_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {key: getattr(self, key) for key in ("step", "epoch", "metrics", "timestamp_ms")}

    @classmethod
    def again(cls, kept: Mapping[str, Any], checkpoint: str | None) -> Report:
        """One that an earlier process made."""
        return cls(**kept, checkpoint=checkpoint)


OnReport = Callable[[Report], bool]  # the driver's decision: True to go on
OnNote = Callable[[str], None]  # a sentence for people
OnProgress = Callable[[int, Mapping[str, float]], None]  # step, and something to show


class Reporter(Protocol):
    """Who listens to the first rank."""

    def begin(self, step: int, world_size: int) -> None:
        """So many ranks go on after ``step`` steps."""

    def report(self, report: Report) -> bool:
        """Hand over a report and wait for the decision: True to go on, False to stop here."""

    def note(self, text: str) -> None:
        """A sentence for people; from any thread, never waits."""

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Something to show now; may be dropped, never waits."""


class RecordingReporter:
    """Keeps everything, and stops where it is told to."""

    def __init__(self, stop_at_epoch: int | None = None) -> None:
        self.reports: list[Report] = []
        self.notes: list[str] = []
        self._stop_at_epoch = stop_at_epoch

    def begin(self, step: int, world_size: int) -> None:
        return None

    def report(self, report: Report) -> bool:
        self.reports.append(report)
        return report.epoch != self._stop_at_epoch

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        return None
