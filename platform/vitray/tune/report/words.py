"""How the report says values: points, scores, durations, what became of a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitray.masking import public
from vitray.plots.scales import number
from vitray.tune.record import TrialRecord


def value(held: Any) -> str:
    """A config value, short."""
    if isinstance(held, float):
        return f"{held:.4g}"
    if isinstance(held, list | tuple):
        return (" x " if all(isinstance(v, int) for v in held) else ", ").join(map(value, held))
    if isinstance(held, bool):
        return str(held).lower()
    return public(str(held))


def short_key(key: str) -> str:
    """A key without its section."""
    return key.split(".", 1)[-1]


def point(held: Mapping[str, Any]) -> str:
    """A point in one line."""
    return ", ".join(f"{short_key(k)}={value(v)}" for k, v in held.items()) or "as configured"


def score(held: float, *, is_share: bool) -> str:
    """A score; a dash where there is none."""
    if not math.isfinite(held):
        return "-"
    return f"{held:.4f}" if is_share else f"{held:.4g}"


def interval(low: float, high: float, *, is_share: bool) -> str:
    return f"{score(low, is_share=is_share)} to {score(high, is_share=is_share)}"


def duration(seconds: float) -> str:
    """0.42 s, 31 s, 12.3 min, 3.4 h."""
    if seconds < 60:
        return f"{number(seconds, digits=2)} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def count(many: int, what: str) -> str:
    """1 trial, 2 trials."""
    return f"{many:,} {what}" + ("" if many == 1 else "s")


def listed(parts: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def fate(record: TrialRecord) -> str:
    """What became of a trial."""
    if record.status == "stopped":
        by = {"budget": "the budget", None: "the scheduler"}.get(record.ended_by, record.ended_by)
        return f"stopped by {by}"
    if record.status == "failed" and record.failure_class:
        return f"failed: {record.failure_class}"
    return record.status
