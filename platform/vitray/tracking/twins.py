"""The tracker's twins: one that does nothing, and one that remembers everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitray.masking import masked_values
from vitray.tracking.tracker import (
    DatasetInput,
    HighWater,
    Point,
    Status,
    check_run_key,
    check_status,
    not_started,
    now_ms,
)


class NoTracker:
    """Tracks nothing; for training without any record, e.g. the measuring arm of a benchmark."""

    def start_run(
        self,
        run: str,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
    ) -> None:
        pass

    def log_metrics(
        self, run: str, metrics: Mapping[str, float], *, step: int, timestamp_ms: int | None = None
    ) -> None:
        pass

    def log_artifact(self, run: str, path: str | Path, folder: str = "") -> None:
        if not Path(path).exists():
            raise FileNotFoundError(path)

    def log_input(self, run: str, dataset: DatasetInput) -> None:
        pass

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        pass

    def end_run(self, run: str, status: Status) -> None:
        check_status(status)

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        pass


@dataclass
class RecordedRun:
    """All that a :class:`RecordingTracker` was told about one run. ``status`` is RUNNING until it ends."""

    name: str
    experiment: str
    parent: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    inputs: list[DatasetInput] = field(default_factory=list)
    status: str = "RUNNING"
    high: HighWater = field(default_factory=HighWater)


class RecordingTracker:
    """Keeps everything in memory, by the same rules as the real tracker; for tests of code that reports."""

    def __init__(self) -> None:
        self.runs: dict[str, RecordedRun] = {}

    def _run(self, run: str) -> RecordedRun:
        if run not in self.runs:
            raise not_started(run)
        return self.runs[run]

    def start_run(
        self,
        run: str,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
    ) -> None:
        check_run_key(run)
        known = self.runs.setdefault(run, RecordedRun(name, experiment, parent))
        known.status = "RUNNING"
        known.params = {**masked_values(params), **known.params}
        known.tags.update(masked_values(tags))

    def log_metrics(
        self, run: str, metrics: Mapping[str, float], *, step: int, timestamp_ms: int | None = None
    ) -> None:
        known, stamp = self._run(run), now_ms() if timestamp_ms is None else timestamp_ms
        new = [(key, value) for key, value in metrics.items() if known.high.is_new(key, step)]
        known.points.extend(Point(key, step, float(value), stamp) for key, value in new)

    def log_artifact(self, run: str, path: str | Path, folder: str = "") -> None:
        known, path = self._run(run), Path(path)
        if not path.exists():
            raise FileNotFoundError(path)
        name = f"{folder}/{path.name}" if folder else path.name
        if name not in known.artifacts:
            known.artifacts.append(name)

    def log_input(self, run: str, dataset: DatasetInput) -> None:
        known = self._run(run)
        if dataset not in known.inputs:
            known.inputs.append(dataset)

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        self._run(run).tags.update(masked_values(tags))

    def end_run(self, run: str, status: Status) -> None:
        check_status(status)
        self._run(run).status = status

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        pass
