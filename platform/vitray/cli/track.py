"""``vitray track``: what was reported and is not in MLflow yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitray.cli.output import age, emit, grid, note, output_option
from vitray.errors import TrackingError
from vitray.home import Home
from vitray.masking import public

if TYPE_CHECKING:
    from vitray.tracking.waiting import SpoolFolder, Synced, Waiting


@click.group()
def track() -> None:
    """What training reported and MLflow does not have yet.

    Reports go to a spool on disk first, so a server that is away costs nothing. They are brought to it by the process
    that took them, by the next one that tracks, or by `vitray track sync`.
    """


@track.command()
@output_option
def status(output: str) -> None:
    """The runs whose reports lie in the spool."""
    from vitray.tracking.waiting import SpoolFolder

    home = Home.find()
    found = SpoolFolder.look(home.spool)
    facts = {
        "spool": str(found.folder),
        "tracking_uri": public(home.tracking_uri),
        "runs": [waiting.as_json() for waiting in found.runs],
        "refused": found.refused,
        "finished": found.finished,
        "finished_bytes": found.finished_bytes,
    }
    emit(facts, output, table=lambda: _table(found, public(home.tracking_uri)))
    if found.refused:
        note(f"{found.refused} reports were refused by MLflow for good; see {found.folder / 'refused.jsonl'}")


@track.command()
@click.option("--here", is_flag=True, help="Also bring here what was reported while another MLflow was named.")
@click.option(
    "--again", multiple=True, metavar="RUN", help="Send a finished run again, which the server has lost; ALL for all."
)
@output_option
def sync(here: bool, again: tuple[str, ...], output: str) -> None:
    """Bring to MLflow now all that waits; what it has it does not take twice. Exit code 1 if it takes not all of it."""
    from vitray.tracking.waiting import sync as sync_now

    home = Home.find()
    runs = None if not again else [] if "ALL" in again else list(again)
    note(f"bringing {home.spool} to {public(home.tracking_uri)}")
    done = sync_now(home.tracking_uri, home.spool, home.artifacts, here=here, again=runs)
    facts = {"tracking_uri": public(home.tracking_uri), **vars(done)}
    emit(facts, output, table=lambda: f"delivered: {done.delivered} run{'' if done.delivered == 1 else 's'}")
    _say_what_is_left(done)
    if done.obstacle:
        remedy = "start the server or correct MLFLOW_TRACKING_URI, and call this again; nothing is lost"
        error = TrackingError(f"does not take everything: {done.obstacle}", where=facts["tracking_uri"], remedy=remedy)
        error.exit_code = 1
        raise error


def _say_what_is_left(done: Synced) -> None:
    if done.held:
        few = ", ".join(done.held[:3]) + (", ..." if len(done.held) > 3 else "")
        note(f"{len(done.held)} runs are in progress, and their own process delivers them: {few}")
    for store in sorted({store for _, store in done.elsewhere}):
        count = sum(other == store for _, other in done.elsewhere)
        note(
            f"{count} runs were reported to {store}\n"
            "  -> set MLFLOW_TRACKING_URI to it and call this again, or bring them here with --here"
        )


def _table(found: SpoolFolder, here: str) -> str:
    lines = [f"spool: {found.folder}", f"store: {here}"]
    if not any(run.waiting for run in found.runs):
        lines.append("nothing waits")
    if found.runs:
        headers = ("run", "waiting", "of", "since", "state", "store")
        lines += ["", grid([_row(run, here) for run in found.runs], headers)]
    if found.finished:
        lines += ["", f"finished and delivered: {found.finished} runs, {found.finished_bytes:,} bytes compressed"]
    return "\n".join(lines)


def _row(run: Waiting, here: str) -> tuple[Any, ...]:
    since = age(run.since_ms / 1000) if run.since_ms else ""
    state = "in progress" if run.held else "ended" if run.ended else "broken off"
    return run.run, run.waiting, run.records, since, state, "" if run.store in (None, here) else run.store
