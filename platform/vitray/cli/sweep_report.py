"""``vitray sweep report``: one page that says what a sweep found, and what that took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vitray.cli.output import emit, grid, note, output_option


@click.command()
@click.argument("name")
@click.option("--to", type=click.Path(path_type=Path), help="The file to write; by default report.html in its folder.")
@output_option
def report(name: str, to: Path | None, output: str) -> None:
    """Write the report of the sweep NAME: one HTML file that opens anywhere, for a sweep in any state."""
    from vitray.errors import ConfigError
    from vitray.home import Home
    from vitray.tune.report.page import write_report
    from vitray.tune.report.view import SweepView
    from vitray.tune.state import load_sweep

    if to is not None and to.is_dir():
        raise ConfigError("is a folder", where=str(to), remedy=f"name a file, such as {to / 'report.html'}")
    saved = load_sweep(Home.find().runs, name)
    view = SweepView.of(saved)
    path = write_report(view, to)
    if saved.status in ("running", "interrupted"):
        note(f"{name} is {saved.status}: the report shows what is known so far")
    facts = _facts(view, path)
    emit(facts, output, table=lambda: grid([(k, v) for k, v in facts.items() if v is not None], ("what", "value")))


def _facts(view: Any, path: Path) -> dict[str, Any]:
    """What ``--output json`` prints."""
    standing = view.standing
    return {
        "report": str(path.absolute()),
        "name": view.saved.name,
        "status": view.saved.status,
        "trials": len(view.trials),
        "best": standing.trial.name if standing else None,
        "metric": view.search.metric,
        "value": standing.mean if standing else None,
        "test_accuracy": view.saved.facts.get("test_accuracy"),
    }
