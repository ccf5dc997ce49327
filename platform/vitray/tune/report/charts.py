"""The charts of a report, each by its name, for any width: drawn into the page, and as PNGs for MLflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vitray.plots.drawing import Drawing
from vitray.plots.row_charts import Estimate, differences, importance_bars
from vitray.plots.strip import Scored, strip
from vitray.plots.tradeoff import Priced, tradeoff, tradeoff_legend
from vitray.plots.trial_curves import Curve, Rung, trial_curves
from vitray.tune.dimensions import Choice, Range
from vitray.tune.report import words
from vitray.tune.report.compare import Comparison
from vitray.tune.report.importance import Importances
from vitray.tune.report.sample import Sample, is_number
from vitray.tune.report.view import COSTS, SweepView, Trial, dimension_of
from vitray.tune.rungs import rungs_of

HALF, WIDE, NARROW = 430, 880, 350
_MANY_STOPS = 4


@dataclass(frozen=True)
class Chart:
    """``draw`` takes a width in pixels. Above the PNG stand ``title`` and ``key``, a legend that a page has once."""

    name: str
    title: str
    draw: Callable[[float], Drawing]
    key: Drawing | None = None


def tradeoffs(view: SweepView) -> list[Chart]:
    """Score over each cost that is known of two trials or more."""

    def chart(cost: str, trials: Sequence[Trial]) -> Chart:
        front = {t.name for t in view.front(cost)}
        priced = [
            Priced(t.costs[cost], t.score, title(view, t), t.full, t.name in front, t is view.winner) for t in trials
        ]
        plain = {"gflops": "operations", "latency_ms": "latency"}.get(cost, cost)
        return Chart(
            f"score_by_{cost}",
            f"{view.metric.split(' (')[0].capitalize()} by {plain}",
            lambda width: tradeoff(
                priced, cost=COSTS[cost], score=view.metric, higher=view.higher, best=view.best_name, width=width
            ),
            tradeoff_legend(view.best_name, WIDE),
        )

    found = ((cost, [t for t in view.scored if math.isfinite(t.costs[cost]) and t.costs[cost] > 0]) for cost in COSTS)
    return [chart(cost, trials) for cost, trials in found if trials]


def importance(found: Importances) -> Chart:
    rows = [
        Estimate(
            words.short_key(r.key),
            r.share,
            r.low,
            r.high,
            f"{r.share:.2f}" + ("" if r.sure else ", not sure"),
            f"{words.short_key(r.key)}: {r.share:.2f} ({r.low:.2f} to {r.high:.2f})",
            strong=r.sure,
        )
        for r in found.rows
    ]
    label = "error added by shuffling (1 = variance)"
    return Chart(
        "importance", "How much each parameter mattered", lambda w: importance_bars(rows, label=label, width=w)
    )


def strips(view: SweepView, sample: Sample, keys: Sequence[str]) -> list[Chart]:
    """Scores by the value of each key, after the common epoch."""

    def chart(key: str) -> Chart:
        having = [o for o in sample.observations if key in o.point]
        dimension = dimension_of(view.search, key)
        if sample.is_choice(key) or not all(is_number(o.point[key]) for o in having):
            known = sample.values(key)
            order = [v for v in dimension.values if v in known] if isinstance(dimension, Choice) else known
            labels, held = [words.value(v) for v in order or known], [words.value(o.point[key]) for o in having]
        else:
            labels, held = None, [o.point[key] for o in having]
        trials = [
            Scored(
                value,
                o.score,
                f"{o.record.name}: {words.score(o.score, is_share=view.is_share)} ({words.point(o.point)})",
                view.winner is not None and o.record is view.winner.record,
            )
            for o, value in zip(having, held, strict=True)
        ]
        log, score = isinstance(dimension, Range) and dimension.log, view.metric.split(" (")[0]
        return Chart(
            f"by_{words.short_key(key)}",
            words.short_key(key),
            lambda width: strip(trials, key=words.short_key(key), score=score, values=labels, log=log, width=width),
        )

    return [chart(key) for key in keys]


def comparison(view: SweepView, found: Comparison) -> Chart:
    """Differences to the reference value, in percentage points where the score is a share."""
    scale, unit = (100, "percentage points") if view.is_share else (1, view.metric)
    digits = "1f" if view.is_share else "3g"
    rows = []
    for d in found.rows:
        mean, low, high = d.mean * scale, d.low * scale, d.high * scale
        basis = words.count(d.pairs, "pair") if d.method == "pairs" else f"adjusted, {words.count(d.trials, 'trial')}"
        told = f"{mean:+.{digits}} [{low:+.{digits}}, {high:+.{digits}}]"
        note = f"{told}, {basis}" if d.method != "none" else f"too few trials ({d.trials})"
        brief = f"{told}, {basis.removeprefix('adjusted, ')}" if d.method != "none" else note
        label, clear = words.value(d.value), d.low > 0 or d.high < 0
        rows.append(Estimate(label, mean, low, high, note, f"{label}: {note}", d.method == "adjusted", clear, brief))
    over = f"over {words.value(found.reference)}"
    label, name = f"{unit} {over}, 95 % interval", words.short_key(found.key)
    return Chart(f"compare_{name}", f"{name}: {over}", lambda width: differences(rows, label=label, width=width))


def curves(view: SweepView) -> Chart:
    lines = []
    metric = view.search.metric
    for t in view.trials:
        points = [(r["epoch"], r[metric]) for r in t.record.reports if math.isfinite(r.get(metric, math.nan))]
        stopped = t.record.status == "stopped" and t.record.ended_by != "budget"
        changes = [float(c["epoch"]) for c in t.record.changes]
        lines.append(Curve(points, title(view, t), stopped, t is view.winner, changes))
    ends = [c.points[0][1] for c in lines if c.points] + [t.score for t in view.scored]
    # A loss has no bound: what is far beyond where trials began is cut off.
    worst = (
        None if view.higher or not ends else float(np.percentile(ends, 75) + 0.5 * np.ptp(np.percentile(ends, [5, 75])))
    )
    rungs = rungs_reached(view)
    return Chart(
        "learning_curves",
        "Learning curves",
        lambda w: trial_curves(
            lines,
            rungs,
            score=view.metric,
            higher=view.higher,
            worst=worst,
            best=view.best_name,
            width=w,
            height=380 if w > 500 else 320,
        ),
    )


def rungs_reached(view: SweepView) -> list[Rung]:
    """The scheduler's rungs that trials got to, and the epochs at which it stopped some besides."""
    search, last = view.search, view.base.train.epochs
    records = [t.record for t in view.trials]
    planned = {epoch for epoch, _ in rungs_of(search, last, len(records))} if records else set()
    stops = {r.epoch for r in records if r.status == "stopped" and r.ended_by != "budget" and r.epoch}
    if len(stops - planned) > _MANY_STOPS:  # median stops anywhere: lines at every epoch would say nothing
        stops = set()
    found = []
    for epoch in sorted((planned | stops) - {last}):
        reached = sum(r.epoch >= epoch for r in records)
        if reached:
            found.append(Rung(epoch, reached, sum(r.epoch > epoch for r in records)))
    return found


def title(view: SweepView, trial: Trial) -> str:
    """What a trial's tooltip says."""
    score = words.score(trial.score, is_share=view.is_share)
    return f"{trial.name}: {score} by epoch {trial.record.epoch} ({words.point(trial.record.point)})"
