"""The charts of where the time went."""

from __future__ import annotations

from vitray.plots.row_charts import Stack, stacks
from vitray.tune.report import words
from vitray.tune.report.charts import Chart
from vitray.tune.report.timing import NOTHING, PARTS, Spent, spent
from vitray.tune.report.view import SweepView, Trial

MOST_BARS = 40


def time_by_outcome(view: SweepView) -> tuple[Chart, dict[str, Spent]]:
    """Worker-time of trials by what became of them, and by what it went into."""
    groups: dict[str, list[Trial]] = {
        "trained to the end": [t for t in view.trials if t.record.status == "done"],
        "stopped early": [t for t in view.trials if t.record.status == "stopped"],
        "failed": [t for t in view.all if t.record.status == "failed"],
        "not at their end": [t for t in view.all if t.record.status == "running"],
        "repeats": [t for t in view.repeats if t.record.status in ("done", "stopped")],
        "final retraining": [t for t in view.finals if t.record.status in ("done", "stopped")],
    }
    totals = {name: sum((_weighted(t) for t in trials), NOTHING) for name, trials in groups.items() if trials}
    whole = sum(s.total for s in totals.values()) or 1.0
    notes = {name: f"{words.duration(s.total)}, {s.total / whole:.0%}" for name, s in totals.items()}
    rows = [_stack(f"{name} ({len(groups[name])})", s, notes[name]) for name, s in totals.items()]
    return _stacked("time_by_outcome", "Where the time went", rows, 20), totals


def time_by_trial(view: SweepView) -> Chart | None:
    """The trials that took longest, a bar each."""
    trials = sorted((t for t in view.all if t.record.spans), key=lambda t: -t.worker_seconds)[:MOST_BARS]
    if not trials:
        return None
    rows = []
    for t in trials:
        s = _weighted(t)
        fate = {"done": "", "stopped": f", stopped at {t.record.epoch}"}.get(t.record.status, f", {t.record.status}")
        rows.append(_stack(t.name, s, words.duration(s.total) + fate))
    return _stacked("time_by_trial", "Where the time went, by trial", rows, 12)


def _stacked(name: str, heading: str, rows: list[Stack], bar: float) -> Chart:
    longest = max((sum(r.parts) for r in rows), default=0.0)
    unit, size = ("hours", 3600.0) if longest >= 7200 else ("minutes", 60.0) if longest >= 120 else ("seconds", 1.0)
    scaled = [Stack(r.label, [p / size for p in r.parts], r.titles, r.note) for r in rows]
    return Chart(name, heading, lambda w: stacks(scaled, parts=PARTS, label=f"worker-time ({unit})", bar=bar, width=w))


def _stack(label: str, s: Spent, note: str) -> Stack:
    whole = s.total or 1.0
    titles = [f"{label}, {part}: {words.duration(s.parts[part])} ({s.parts[part] / whole:.0%})" for part in PARTS]
    return Stack(label, [s.parts[part] for part in PARTS], titles, note)


def _weighted(trial: Trial) -> Spent:
    """A trial's seconds times its ranks."""
    ranks = trial.worker_seconds / trial.record.seconds if trial.record.seconds else 1.0
    return Spent({part: seconds * ranks for part, seconds in spent(trial.record).parts.items()})
