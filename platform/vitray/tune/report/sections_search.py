"""What the search found out: what scores cost, which parameters mattered, and what their values bring."""

from __future__ import annotations

from vitray.plots.svg import svg
from vitray.plots.tradeoff import tradeoff_legend
from vitray.tune.dimensions import Choice
from vitray.tune.report import charts, words
from vitray.tune.report.charts import HALF, NARROW, WIDE, Chart
from vitray.tune.report.compare import ENOUGH_PAIRS, Comparison, compare
from vitray.tune.report.html import Markup, element, table
from vitray.tune.report.importance import FEWEST, Importances
from vitray.tune.report.sample import Sample
from vitray.tune.report.sections_winner import about, section
from vitray.tune.report.view import COSTS, SweepView, dimension_of


def tradeoff(view: SweepView) -> Markup:
    found = charts.tradeoffs(view)
    heading = f"{view.metric.split(' (')[0].capitalize()} and what it costs"
    if not found:
        return section("tradeoff", heading, about("No trial has a score yet."))
    missing = "" if len(found) == len(COSTS) else " Latency was not measured in this sweep."
    better = "higher" if view.higher else "lower"
    return section(
        "tradeoff",
        heading,
        about(
            f"A dot is a trial, at its best epoch; {better} and further left is better. The dashed line is the Pareto "
            "front: no trial on it is beaten in both by another. Hollow dots were stopped early, so their scores are "
            f"from fewer epochs.{missing}"
        ),
        Markup(svg(tradeoff_legend(view.best_name, HALF), "one")),
        element("div", [drawn_once(c) for c in found], class_="pairs"),
        _front(view),
    )


def importance(view: SweepView, sample: Sample | None, found: Importances | None) -> Markup:
    heading = "How each parameter mattered"
    if sample is None or not view.keys:
        return section("importance", heading, about(_nothing(view)))
    parts = [about(_basis(view, sample))]
    if found is None:
        scored = words.count(len(sample.observations), "scored trial")
        parts.append(
            about(
                f"Importance is left out: there are {scored}, and below {FEWEST} it would be noise."
                if len(sample.observations) < FEWEST
                else "Importance is left out: all trials scored alike."
            )
        )
    else:
        parts += [about(_how_sure(found)), drawn(charts.importance(found))]
    order = [r.key for r in found.rows] if found else view.keys
    strips = [drawn_once(c) for c in charts.strips(view, sample, order)]
    parts += [
        element("h3", "Scores by the value of each parameter"),
        about(
            f"{view.metric.capitalize()} after epoch {sample.epoch}; the bar is the median, the star the "
            f"{view.best_name}. All other parameters vary too."
        ),
        element("div", strips, class_="keys"),
    ]
    return section("importance", heading, *parts)


def comparisons(view: SweepView, sample: Sample | None) -> list[Comparison]:
    """Of every searched choice of which something can be told; positional encodings and patch sizes first."""
    if sample is None:
        return []
    found = []
    for key in view.keys:
        if sample.is_choice(key):
            dimension = dimension_of(view.search, key)
            order = dimension.values if isinstance(dimension, Choice) else ()
            found.append(compare(sample, key, view.keys, view.search, order))
    return [c for c in found if any(d.method != "none" for d in c.rows)]


def pairs(view: SweepView, sample: Sample | None, found: list[Comparison]) -> Markup:
    heading = "Matched comparisons"
    left_out = [k for k in view.keys if sample and sample.is_choice(k) and k not in {c.key for c in found}]
    if sample is None or not found:
        return section("pairs", heading, about(_too_few(left_out) or _nothing(view)))
    unit = "percentage points" if view.is_share else "units"
    exact = any(d.method == "pairs" for c in found for d in c.rows)
    adjusted = any(d.method == "adjusted" for c in found for d in c.rows)
    text = (
        "Every trial sees the same images in the same order, so trials that differ in one parameter alone are matched "
        f"pairs. Differences are in {unit} of {view.metric.split(' (')[0]} after epoch {sample.epoch}, with 95 % "
        "intervals; those in bold are clear of zero. "
    )
    if exact:
        text += "Full dots: the mean over matched pairs (Student's t). "
    if adjusted:
        text += (
            f"Hollow dots: fewer than {ENOUGH_PAIRS} pairs exist, so a linear model of all searched parameters adjusts "
            "for the others; it holds as far as their effects add up. "
        )
    count = sum(len(c.rows) for c in found)
    if count >= 5:
        text += f"One in 20 is clear of zero by chance, and there are {count}."
    text += _early(view, sample)
    blocks = [
        element("div", element("h3", element("code", c.key)), about(_against(c)), drawn(charts.comparison(view, c)))
        for c in found
    ]
    if left_out:
        blocks.append(about(_too_few(left_out)))
    return section("pairs", heading, about(text), *blocks)


def drawn(chart: Chart) -> Markup:
    """For a window and for a phone, of which the style sheet shows one."""
    return Markup(svg(chart.draw(WIDE), "wide") + svg(chart.draw(NARROW), "narrow"))


def drawn_once(chart: Chart) -> Markup:
    """Of a width that fits both."""
    return Markup(svg(chart.draw(HALF), "one"))


def _too_few(keys: list[str]) -> str:
    if not keys:
        return ""
    return (
        f"Left out, since there are too few trials: {words.listed(keys)}. It takes {ENOUGH_PAIRS} matched pairs, or "
        "some trials more than all searched parameters have values."
    )


def _nothing(view: SweepView) -> str:
    if not view.keys:
        return "Left out: no parameter had two values among the trials that began."
    if not view.scored:
        return "Left out: no trial has a score yet."
    return "Left out: no trial has ended yet, or none has a parameter with few values to compare."


def _basis(view: SweepView, sample: Sample) -> str:
    count = len(sample.observations)
    text = f"All trials are compared after epoch {sample.epoch}, which {count} of {count + sample.left_out} reached"
    if view.search.scheduler == "pbt":
        return f"{text}: before any took over another's weights and values.{_early(view, sample)}"
    if any(o.record.status == "stopped" for o in sample.observations):
        text += ": before the scheduler stopped any, since later epochs show survivors alone"
    return f"{text}.{_early(view, sample)}"


def _early(view: SweepView, sample: Sample) -> str:
    last = view.base.train.epochs
    if sample.epoch >= last:
        return ""
    return f" After {sample.epoch} of {last} epochs, what learns fast leads; it need not lead at the end."


def _how_sure(found: Importances) -> str:
    explained = max(0.0, found.explained)
    text = (
        "A parameter matters as much as a forest's predictions get worse when its values are shuffled (permutation "
        f"importance on trials that the forest has not seen; whiskers: the middle 95 % of 40 resamples). From these "
        f"{found.trials} trials it explains {explained:.0%} of the variance of unseen ones: "
    )
    sure = [words.short_key(r.key) for r in found.rows if r.sure]
    if explained < 0.1:
        return text + "next to nothing, so this chart says little. More trials would tell."
    if not sure:
        return text + "too little to be sure of any single parameter with so few trials."
    few = " With so few trials the order is a hint, not a finding." if found.trials < 30 else ""
    return f"{text}{words.listed(sure)} {'matter' if len(sure) > 1 else 'matters'} in nearly every resample.{few}"


def _against(found: Comparison) -> str:
    pairs = sum(d.pairs for d in found.rows)
    return (
        f"Compared with {words.value(found.reference)} ({words.count(found.reference_trials, 'trial')}); "
        f"{words.count(pairs, 'matched pair')} in all."
    )


def _front(view: SweepView) -> Markup:
    rows = []
    for cost in COSTS:
        for t in view.front(cost):
            held = t.costs[cost]
            shown = f"{held:,.0f}" if cost == "parameters" else f"{held:.3g}"
            score = words.score(t.score, is_share=view.is_share)
            rows.append([COSTS[cost], shown, score, t.name, words.point(t.record.point)])
    headers = ("cost", "of it", view.metric, "trial", "point")
    summary = element("summary", "Trials on the front")
    return element("details", summary, table(headers, rows, numbers=(1, 2))) if rows else Markup()
