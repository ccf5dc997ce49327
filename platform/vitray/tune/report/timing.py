"""Where the seconds of trials went, by what their reports say of every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitray.tune.record import TrialRecord, busy_seconds

PARTS = ("start", "data wait", "compute", "evaluation", "checkpoint", "other")
_SLACK_S = 1e-3


@dataclass(frozen=True)
class Spent:
    """Seconds by part. ``other`` is what no report accounts for: decisions, and the epoch that a trial ended in."""

    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def __add__(self, more: Spent) -> Spent:
        return Spent({part: self.parts[part] + more.parts[part] for part in PARTS})


NOTHING = Spent(dict.fromkeys(PARTS, 0.0))


def spent(record: TrialRecord) -> Spent:
    """Where a trial's time went, over all its spans. ``start`` is what passed before the first epoch's clock ran."""
    total = NOTHING
    for begin, end in _spans(record):
        total += _of_span(record, begin, end)
    return total


def _spans(record: TrialRecord) -> list[tuple[float, float]]:
    last = record.reports[-1]["at"] if record.reports else 0.0
    return [(s[0], s[1] if len(s) > 1 else max(s[0], last)) for s in record.spans]


def _of_span(record: TrialRecord, begin: float, end: float) -> Spent:
    parts = dict.fromkeys(PARTS, 0.0)
    reports = [r for r in record.reports if begin - _SLACK_S <= r["at"] <= end + _SLACK_S]
    for report in reports:
        seconds = report.get("epoch_s", 0.0)
        wait = min(1.0, max(0.0, report.get("data_wait", 0.0))) * seconds
        parts["data wait"] += wait
        parts["compute"] += seconds - wait
        parts["evaluation"] += report.get("eval_s", 0.0)
        parts["checkpoint"] += report.get("checkpoint_s", 0.0)
    if reports and "epoch_s" in reports[0]:
        first = reports[0]
        clock = first["at"] - sum(first.get(key, 0.0) for key in ("epoch_s", "eval_s", "checkpoint_s"))
        parts["start"] = max(0.0, clock - begin)
    parts["other"] = max(0.0, end - begin - sum(parts.values()))
    return Spent(parts)


def at_once(records: Sequence[TrialRecord]) -> tuple[float, float]:
    """Seconds in which some trial ran, and how many did at once on average; breaks of the whole sweep do not count."""
    last = max((report["at"] for record in records for report in record.reports), default=0.0)
    busy = busy_seconds(records, last)
    return busy, (sum(record.seconds for record in records) / busy if busy > 0 else 0.0)
