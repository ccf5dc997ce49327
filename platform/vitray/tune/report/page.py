"""The report of a sweep: one HTML file that needs nothing but itself, and its charts as PNGs."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path

from vitray.errors import VitrayError
from vitray.files import write_whole
from vitray.masking import public
from vitray.plots.drawing import stacked
from vitray.plots.svg import stylesheet
from vitray.tune.report import charts, sections_runs, sections_search, sections_winner, time_charts, words
from vitray.tune.report.charts import Chart
from vitray.tune.report.html import Markup, element, joined
from vitray.tune.report.style import CSS, SCRIPT
from vitray.tune.report.view import SweepView
from vitray.tune.state import SavedSweep

_STATES = {
    "done": "finished",
    "running": "still running: this page shows it as it was when it was written",
    "interrupted": "interrupted: what is here is what was known by then",
    "failed": "failed",
}
_PARTS = {
    "winner": "Winner",
    "tradeoff": "Cost",
    "importance": "Parameters",
    "pairs": "Comparisons",
    "curves": "Learning curves",
    "time": "Time",
    "failures": "Failures",
    "trials": "All trials",
}


def write_report(sweep: SavedSweep | SweepView, to: Path | None = None) -> Path:
    """Write a sweep's report, by default as ``report.html`` in its folder; a file that is there is replaced.

    Raises:
        ConfigError: the sweep's config is not one that this version knows.
        VitrayError: the file cannot be written.
    """
    view = _view(sweep)
    path = to or view.saved.folder / "report.html"
    text = page(view)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise VitrayError(
            f"cannot be written: {error.strerror or error}", where=str(path), remedy="name another file with --to"
        ) from None
    return path


def report_figures(sweep: SavedSweep | SweepView, folder: Path) -> Path:
    """The report's charts as PNGs in a folder, which is returned; those of an earlier call are replaced."""
    from vitray.plots.figure import save  # matplotlib: half a second
    from vitray.plots.raster import figure_of

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for chart in _charts(_view(sweep)):
        drawn = chart.draw(charts.WIDE)
        save(figure_of(stacked(chart.key, drawn) if chart.key else drawn, chart.title), folder / f"{chart.name}.png")
    return folder


def page(view: SweepView) -> str:
    """The whole document."""
    seen = view.sample
    body = [
        sections_winner.winner(view),
        sections_search.tradeoff(view),
        sections_search.importance(view, seen, view.importances),
        sections_search.pairs(view, seen, sections_search.comparisons(view, seen)),
        sections_runs.curves(view),
        sections_runs.time(view),
        sections_runs.failures(view),
        sections_runs.trials(view),
    ]
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # Nothing may be fetched, and no script but this one runs: whatever a name or an error message holds.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; base-uri 'none'"
    head = [
        Markup(f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width,initial-scale=1">'),
        element("title", f"{view.saved.name}: sweep report"),
        element("style", Markup(stylesheet() + CSS)),
    ]
    content = [_header(view), element("main", *body), _footer(view), element("script", Markup(SCRIPT))]
    return "<!doctype html>\n" + element("html", element("head", *head), element("body", *content), lang="en") + "\n"


def _header(view: SweepView) -> Markup:
    saved, search = view.saved, view.search
    states = [t.record.status for t in view.trials]
    counts = [f"{states.count(s)} {s}" for s in ("done", "stopped", "failed", "running", "pending") if s in states]
    known = saved.status if saved.status in _STATES else "failed"
    badge = element("span", saved.status, class_=f"badge {known}")
    trials, epochs = words.count(len(view.trials), "trial"), words.count(view.base.train.epochs, "epoch")
    lead = (
        f"{trials} ({', '.join(counts) or 'none began'}) of at most {epochs} on {public(view.base.data.path)}; "
        f"algorithm {search.algorithm}, scheduler {search.scheduler}, compared by {view.metric}."
    )
    more = [element("p", lead, class_="lead")]
    if known != "done":
        more.append(element("p", f"This sweep is {_STATES[known]}."))
    if known in ("interrupted", "failed"):
        more.append(element("p", "To go on: ", element("code", f"vitray sweep resume {saved.name}")))
    links = [element("a", text, href=f"#{name}") for name, text in _PARTS.items()]
    return element("header", element("h1", saved.name, " ", badge), *more, element("nav", links, aria_label="Sections"))


def _footer(view: SweepView) -> Markup:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(view.saved.time))
    said = f"State of {when}; dataset fingerprint {view.saved.fingerprint}. Written by "
    return element("footer", element("p", joined(said), element("code", f"vitray sweep report {view.saved.name}")))


def _view(sweep: SavedSweep | SweepView) -> SweepView:
    """A view that is at hand saves what takes long: the importances."""
    return sweep if isinstance(sweep, SweepView) else SweepView.of(sweep)


def _charts(view: SweepView) -> list[Chart]:
    """All that there is something to draw of, in the page's order."""
    found = charts.tradeoffs(view)
    seen = view.sample
    if seen is not None:
        found += [charts.importance(view.importances)] if view.importances else []
        found += [charts.comparison(view, c) for c in sections_search.comparisons(view, seen)]
    if any(t.record.reports for t in view.trials):
        found.append(charts.curves(view))
    if (by_trial := time_charts.time_by_trial(view)) is not None:
        found += [time_charts.time_by_outcome(view)[0], by_trial]
    return found
