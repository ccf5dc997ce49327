"""What a search may spend, and whether it is spent."""

from __future__ import annotations

from collections.abc import Sequence

from vitray.search_config import BudgetConfig
from vitray.tune.record import TrialRecord, busy_seconds


def over_budget(budget: BudgetConfig, records: Sequence[TrialRecord], ranks: int, now: float) -> str | None:
    """Which part of a budget is spent, in words; None while there is some left."""
    searched = [r for r in records if r.kind == "search"]
    ended = sum(r.ended for r in searched)
    if budget.trials is not None and ended >= budget.trials:
        return f"{ended} trials have ended"
    if budget.minutes is None and budget.worker_hours is None:
        return None
    hours = sum((span[1] if len(span) > 1 else now) - span[0] for r in searched for span in r.spans) * ranks / 3600
    if budget.worker_hours is not None and hours >= budget.worker_hours:
        return f"{hours:.3g} worker-hours are spent"
    seconds = busy_seconds(searched, now)
    if budget.minutes is not None and seconds >= 60 * budget.minutes:
        return f"{seconds / 60:.3g} minutes are over"
    return None
