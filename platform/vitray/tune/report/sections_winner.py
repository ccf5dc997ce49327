"""The first part of the page: what won, what it scored, and what finding it took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitray.plots.scales import number
from vitray.tune.pareto import front_of
from vitray.tune.report import words
from vitray.tune.report.html import Child, Markup, element, table
from vitray.tune.report.timing import at_once
from vitray.tune.report.view import SweepView, Trial

_EMPTY = "No trial has a score yet."


def winner(view: SweepView) -> Markup:
    """Its scores and its config; who leads, where the sweep has not ended."""
    heading = "The winner" if view.finished else "Leading so far"
    best, standing = view.winner, view.standing
    if best is None or standing is None:
        return section("winner", heading, element("p", _EMPTY), tiles([_took(view)]))
    share, facts = view.is_share, view.saved.facts
    note = f"{words.count(len(standing.scores), 'other seed')}, mean" if standing.repeated else "its best epoch"
    if standing.interval is not None:
        over = "" if standing.repeated else " (over images, not over seeds)"
        note += f"; 95 % interval {words.interval(*standing.interval, is_share=share)}{over}"
    if standing.left_out:
        note += f"; {standing.left_out} repeats failed"
    scores = [_test(facts), (view.metric.capitalize(), words.score(standing.mean, is_share=share), note, False)]
    if not scores[0]:
        del scores[0]
    shown = [s for s in (*scores, _model(facts), _size(best), _took(view)) if s]
    return section(
        "winner",
        heading,
        element("p", element("strong", best.name), ": ", words.point(best.record.point), class_="lead"),
        tiles(shown),
        _cautions(view, best),
        _front(view),
        _config(view, best),
    )


def section(name: str, heading: str, *children: Child) -> Markup:
    return element("section", element("h2", heading), *children, id=name)


def about(text: str) -> Markup:
    """How to read what follows."""
    return element("p", text, class_="about")


Tile = tuple[str, str, str, bool]  # what, the number, a note, and whether it is the one that counts


def tiles(shown: list[Tile]) -> Markup:
    return element(
        "dl",
        [
            element(
                "div",
                element("dt", what),
                element("dd", big, class_="big"),
                element("dd", note, class_="small") if note else None,
                class_="tile main" if main else "tile",
            )
            for what, big, note, main in shown
        ],
        class_="tiles",
    )


def _test(facts: Mapping[str, Any]) -> Tile | None:
    if not isinstance(facts.get("test_accuracy"), int | float):
        return None
    note = ""
    if interval := facts.get("test_interval"):
        note = f"95 % interval {words.interval(*interval, is_share=True)}"
    if samples := facts.get("test_samples"):
        note += f"{', ' if note else ''}{words.count(int(samples), 'image')} that no trial saw"
    return "Test accuracy", words.score(facts["test_accuracy"], is_share=True), note, True


def _model(facts: Mapping[str, Any]) -> Tile | None:
    if not facts.get("model"):
        return None
    alias = f"alias {facts['alias']}" if facts.get("alias") else ""
    return "Registered as", str(facts["model"]).removeprefix("models:/"), alias, False


def _size(best: Trial) -> Tile | None:
    if not math.isfinite(best.costs["parameters"]):
        return None
    operations = f"{number(best.costs['gflops'] * 1e9)}FLOP an image, forward"
    if math.isfinite(best.costs["latency_ms"]):
        operations += f"; latency {best.costs['latency_ms']:.3g} ms"
    return "Parameters", number(best.costs["parameters"]), operations, False


def _took(view: SweepView) -> Tile:
    busy, parallel = at_once([t.record for t in view.all])
    seconds = view.saved.facts.get("seconds")
    wall = float(seconds) if isinstance(seconds, int | float) else busy
    worked = sum(t.worker_seconds for t in view.all)
    hours = f"{worked / 3600:.2g}" if worked < 36_000 else f"{worked / 3600:,.0f}"
    note = f"{hours} worker-hours in {words.count(len(view.all), 'trial')}, {parallel:.1f} at once on average"
    return "Wall time", words.duration(wall), note, False


def _cautions(view: SweepView, best: Trial) -> Markup:
    said = []
    standing = view.standing
    assert standing is not None
    if not standing.repeated and len(view.scored) > 1:
        said.append(
            f"The validation score is the best of {len(view.scored)} trials, so part of it is luck: "
            + (
                "the test score is what to expect."
                if view.saved.facts.get("test_accuracy")
                else "expect a little less."
            )
        )
    elif standing.repeated:
        own = words.score(best.score, is_share=view.is_share)
        said.append(f"In the search it scored {own}; repeats with other seeds show how much of that was luck.")
    runner = next((t for t in view.scored if t is not best), None)
    if runner is not None and not standing.repeated:
        score = words.score(runner.score, is_share=view.is_share)
        said.append(f"Next is {runner.name} with {score} ({words.point(runner.record.point)}).")
    return element("p", " ".join(said), class_="about") if said else Markup()


def _front(view: SweepView) -> Markup:
    """What a search with several objectives found: no one of these is better in all."""
    objectives = view.search.objectives
    if not objectives:
        return Markup()
    experiments = {t.record.index: t.experiment for t in view.trials}
    front = front_of([t.record for t in view.trials], lambda record: experiments[record.index], objectives)
    rows = [
        [
            record.name,
            *(f"{value:,.0f}" if value >= 1e4 else f"{value:.4g}" for value in values),
            words.point(record.point),
        ]
        for record, values in sorted(front, key=lambda pair: pair[1])
    ]
    text = (
        f"{view.search.algorithm} trades off {words.listed(list(objectives))}: no trial beats one of these "
        f"{len(rows)} in all of them. The {view.best_name} is the one of the best {view.metric.split(' (')[0]}."
    )
    shown = table(("trial", *objectives, "point"), rows, numbers=range(1, 1 + len(objectives)))
    return Markup(element("h3", "The front") + about(text) + shown)


def _config(view: SweepView, best: Trial) -> Markup:
    flat, base = best.experiment.flat(), view.base.flat()
    rows = [
        [element("code", key), words.value(held), words.value(base.get(key)) if base.get(key) != held else ""]
        for key, held in flat.items()
        if held is not None
    ]
    return element(
        "details",
        element("summary", "Its whole config"),
        table(("key", "value", "before the search"), rows),
    )
