"""What training tells the world: the tracker protocol.

A run is named by the caller's own key (deterministic: the same trial has the same key after any crash), never by
an id that a server made up. Steps of a metric rise: a step at or below the highest one taken for that metric is a
replay (a trial that went back to its last checkpoint reports some epochs again) and is not a second point.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Point(NamedTuple):
    """One value of one metric; ``timestamp_ms`` counts from the Unix epoch."""

    key: str
    step: int
    value: float
    timestamp_ms: int


@dataclass(frozen=True)
class DatasetInput:
    """The data that a run used, as a page about the run shows them.

    Args:
        name: what people call the dataset.
        fingerprint: hex digest of its content; the same images have the same one wherever they lie.
        source: folder or URI, without credentials.
        columns: (name, type) of a row, e.g. ``("image", "binary")``.
        facts: what else is worth a line: rows of each split, classes, image size.
        context: what it was used for.
    """

    name: str
    fingerprint: str
    source: str
    columns: tuple[tuple[str, str], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    context: str = "training"


@runtime_checkable
class Tracker(Protocol):
    """Where runs, metrics and artifacts go. No method waits for a server; only ``flush`` and ``close`` take time.

    Every method may be called from any thread. ``start_run`` must come first for a run; calling it again resumes
    the run (also an ended one), and metrics, tags and artifacts may still follow ``end_run``.
    """

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
        """Create the run ``run``, or resume it. ``parent`` is the key of the run it is shown below.

        Parameters of a run never change: on resume only new ones are added.
        """

    def log_metrics(
        self, run: str, metrics: Mapping[str, float], *, step: int, timestamp_ms: int | None = None
    ) -> None:
        """Take one point per metric. ``timestamp_ms``: Unix time in milliseconds, now when None.

        Raises:
            ValueError: the run was never started here.
        """

    def log_artifact(self, run: str, path: str | Path, folder: str = "") -> None:
        """Take a file, or a whole directory under its own name, into the run's artifact folder ``folder``.

        Raises:
            FileNotFoundError: there is nothing at ``path``.
        """

    def log_input(self, run: str, dataset: DatasetInput) -> None:
        """Say which data the run uses; saying it again changes nothing."""

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Add or replace tags."""

    def end_run(self, run: str, status: Status) -> None:
        """The run is over, with a terminal status."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was taken is delivered, at most ``timeout_s`` seconds; True when it is."""

    def close(self) -> None:
        """Deliver what can be delivered soon and let go of every resource. May be called twice."""


class HighWater:
    """The highest step taken of each metric: decides what is a new point and what a replay."""

    def __init__(self, steps: Mapping[str, int] | None = None) -> None:
        self.steps: dict[str, int] = dict(steps or {})

    def is_new(self, key: str, step: int) -> bool:
        """True for a step above all earlier ones of ``key``, which from then on counts as taken."""
        if step <= self.steps.get(key, step - 1):
            return False
        self.steps[key] = step
        return True


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def check_run_key(run: str) -> None:
    """A key is 1-250 printable characters without quotes: it goes into tags and into search expressions.

    Raises:
        ValueError: it is not.
    """
    if not re.fullmatch(r"""[^"'`\x00-\x1f]{1,250}""", run):
        raise ValueError(f"{run!r} cannot name a run: use 1 to 250 printable characters and no quotes")


def check_status(status: str) -> None:
    """Assert that a status is one a run can end with."""
    assert status in get_args(Status), f"a run ends as one of {get_args(Status)}, not {status!r}"


def not_started(run: str) -> ValueError:
    """The error for a run that is used before ``start_run``."""
    return ValueError(f"run {run!r} was never started here: call start_run first")
