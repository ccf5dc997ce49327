"""How the trials ran: learning curves, where the time went, what failed, and a table of all."""

from __future__ import annotations

import math

from vitray.masking import masked
from vitray.tune.report import charts, time_charts, words
from vitray.tune.report.html import Markup, element, joined, table
from vitray.tune.report.sections_search import drawn
from vitray.tune.report.sections_winner import about, section
from vitray.tune.report.timing import spent
from vitray.tune.report.view import SweepView, Trial

_CLASSES = {
    "oom": "out of memory",
    "nan": "the loss was not a number",
    "lost": "workers or their node were lost",
    "hanging": "ranks hung",
    "code": "an error of the code",
}
_SHOWN_REASON = 400  # characters


def curves(view: SweepView) -> Markup:
    heading = "Learning curves"
    if not any(t.record.reports for t in view.trials):
        return section("curves", heading, about("No trial has reported yet."))
    stopped = sum(t.record.status == "stopped" and t.record.ended_by != "budget" for t in view.trials)
    text = f"A line is a trial. Scheduler: {view.search.scheduler}. "
    if stopped:
        text += f"{words.count(stopped, 'trial')} stopped early, each at its cross. "
    if charts.rungs_reached(view):
        text += "Dotted lines are the epochs at which trials were compared, with how many went on."
    if any(t.record.changes for t in view.trials):
        text += " A diamond is where a trial went on from another's weights."
    return section("curves", heading, about(text), drawn(charts.curves(view)))


def time(view: SweepView) -> Markup:
    heading = "Where the time went"
    by_trial = time_charts.time_by_trial(view)
    if by_trial is None:
        return section("time", heading, about("No trial has begun yet."))
    by_outcome, totals = time_charts.time_by_outcome(view)
    whole = sum(s.total for s in totals.values()) or 1.0
    waste = sum(totals[name].total for name in ("stopped early", "failed") if name in totals)
    starts = [t.record.start_s for t in view.all if t.record.start_s is not None and t.record.warm]
    text = (
        f"{words.duration(whole)} of worker-time, of which {waste / whole:.0%} went into trials that were stopped or "
        "failed: what the search paid to find out. "
    )
    if starts:
        median = sorted(starts)[len(starts) // 2]
        text += f"In a warm group a trial's first step was done {words.duration(median)} after its start (median)."
    shown = min(time_charts.MOST_BARS, sum(bool(t.record.spans) for t in view.all))
    more = element(
        "details",
        element("summary", f"By trial: the {shown} that took longest"),
        drawn(by_trial),
        open=shown <= 16,
    )
    parts = about(
        "start: until the first epoch's clock ran; other: decisions, and the epoch that a trial was ended in. Time in "
        "which no driver ran does not count."
    )
    return section("time", heading, about(text), drawn(by_outcome), more, parts)


def failures(view: SweepView) -> Markup:
    failed = [t for t in view.all if t.record.status == "failed"]
    retried = [t for t in view.all if t.record.retries]
    parts: list[Markup] = []
    if not failed:
        parts.append(element("p", "No trial failed."))
    else:
        by_class: dict[str, list[Trial]] = {}
        for t in failed:
            by_class.setdefault(t.record.failure_class or "unknown", []).append(t)
        order = sorted(by_class.items(), key=lambda pair: -len(pair[1]))
        said = [f"{words.count(len(ts), 'trial')}: {_CLASSES.get(name, name)}" for name, ts in order]
        parts.append(element("p", "; ".join(said) + "."))
        rows = [
            [name, link(t), _reason(t), str(t.record.epoch), words.point(t.record.point)]
            for name, trials in order
            for t in trials
        ]
        parts.append(table(("class", "trial", "reason", "epochs done", "point"), rows, numbers=(3,), class_="failures"))
    if retried:
        rows = [[link(t), "; ".join(masked(r) for r in t.record.retries), words.fate(t.record)] for t in retried]
        parts += [element("h3", "Tried again"), table(("trial", "what was changed", "then"), rows)]
    return section("failures", "Failures", *parts)


def trials(view: SweepView) -> Markup:
    """Every trial that was proposed; a click on a heading sorts."""
    keys = view.keys
    headers = ["trial", "state", view.search.metric, "epochs", *map(words.short_key, keys)]
    headers += ["parameters", "GFLOP", "time", "start", "data wait"]
    rows = [_row(view, t, keys) for t in sorted(view.all, key=lambda t: _place(view, t))]
    numbers = (2, 3, *range(4 + len(keys), 9 + len(keys)))
    shown = table(headers, rows, numbers=numbers, class_="sortable")
    return section("trials", "All trials", about("Click a heading to sort."), shown)


def link(trial: Trial) -> Markup:
    return element("a", trial.name, href=f"#{_anchor(trial)}")


def _row(view: SweepView, t: Trial, keys: list[str]) -> list[Markup]:
    record, parts = t.record, spent(t.record)
    point = record.begun_with if not record.changes else record.point
    kind = "" if record.kind == "search" or record.kind in t.name else f" ({record.kind})"
    waited = parts.parts["data wait"] / parts.total if parts.total else math.nan
    score = words.score(t.score, is_share=view.is_share)
    return [
        element("span", t.name + kind, id=_anchor(t), class_="won" if t is view.winner else None),
        joined(words.fate(record)),
        _cell(score, t.score),
        joined(str(record.epoch)),
        *(_cell(words.value(held), held) if (held := point.get(key)) is not None else Markup() for key in keys),
        _cell(f"{t.costs['parameters']:,.0f}", t.costs["parameters"]),
        _cell(f"{t.costs['gflops']:.3g}", t.costs["gflops"]),
        _cell(words.duration(record.seconds), record.seconds),
        _cell(words.duration(record.start_s), record.start_s) if record.start_s is not None else Markup(),
        _cell(f"{waited:.0%}", waited) if math.isfinite(waited) else Markup(),
    ]


def _cell(shown: str, by: object) -> Markup:
    """A cell that sorts by a number which it does not show in full."""
    if isinstance(by, float) and not math.isfinite(by):
        return element("span", "-", data_sort="")
    return element("span", shown, data_sort=f"{by:.9g}" if isinstance(by, float) else str(by))


def _place(view: SweepView, t: Trial) -> tuple[bool, float, int]:
    """The winner first, then by score; without one, by number."""
    if not math.isfinite(t.score):
        return (True, math.inf, t.record.index)
    return (t is not view.winner, -t.score if view.higher else t.score, t.record.index)


def _anchor(trial: Trial) -> str:
    return f"t{trial.record.index}"


def _reason(t: Trial) -> str:
    text = masked(t.record.failure or "no reason was recorded")
    return text if len(text) <= _SHOWN_REASON else text[: _SHOWN_REASON - 1] + "…"
