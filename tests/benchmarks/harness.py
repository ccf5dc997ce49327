"""What the benchmarks share: hardware and versions for the record, medians, and the two forms of output.

A benchmark runs us and our peers on the same work in one run, interleaved over several rounds, and reports medians,
ratios and CPU-seconds. Ratios are always such that more is better for us.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Row:
    """One comparison. ``ratio`` above 1 means that we are better; ``goal`` is the ratio wanted, or None."""

    metric: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.ratio >= self.goal


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="one round, to see that it runs")
    parser.add_argument("--output", choices=["table", "json"], default="table")
    return parser


def say(text: str) -> None:
    """Progress goes to stderr; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def hardware() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{_cpu_model()}, {psutil.cpu_count()} CPUs, {memory:.0f} GiB, {_gpu()}"


def versions(*names: str) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def less_is_better(
    metric: str, unit: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, goal: float | None = None
) -> Row:
    """A row of medians of times, costs and the like."""
    a, b = statistics.median(ours), statistics.median(peer)
    return Row(metric, unit, a, b, peer_name, b / a, goal)


def more_is_better(
    metric: str, unit: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, goal: float | None = None
) -> Row:
    """A row of medians of rates."""
    a, b = statistics.median(ours), statistics.median(peer)
    return Row(metric, unit, a, b, peer_name, a / b, goal)


def cpu_seconds() -> float:
    """CPU time that the whole machine has spent; differences are honest only where nothing else runs."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def publish(name: str, rows: Sequence[Row], output: str, package_versions: dict[str, str]) -> None:
    """Print the result on stdout."""
    result: dict[str, Any] = {
        "name": name,
        "hardware": hardware(),
        "versions": package_versions,
        "date": datetime.date.today().isoformat(),
        "rows": [{**asdict(row), "met": row.met} for row in rows],
    }
    if output == "json":
        print(json.dumps(result, indent=2))
        return
    print(
        f"{name}, {result['date']}: {result['hardware']}; " + ", ".join(f"{k} {v}" for k, v in package_versions.items())
    )
    for row in rows:
        verdict = "" if row.goal is None else f"  goal {row.goal:g}x: {'met' if row.met else 'missed'}"
        print(
            f"  {row.metric}: {row.ours:.4g} {row.unit} against {row.peer:.4g} ({row.peer_name}): "
            f"{row.ratio:.3g}x{verdict}"
        )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
