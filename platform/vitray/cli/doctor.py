"""``vitray doctor``: what is wrong with this machine or cluster, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vitray.cli.options import address_option
from vitray.cli.output import emit, grid, output_option
from vitray.errors import EXIT_FAILED
from vitray.home import Home

if TYPE_CHECKING:
    from vitray.cluster.doctor import Finding

_SIGNS = {"ok": "ok", "warning": "WARN", "blocks": "FAIL"}


@click.command()
@click.argument("config", type=click.Path(), required=False)
@click.argument("overrides", nargs=-1, metavar="[section.key=value ...]")
@click.option("--data", metavar="DATASET", help="A dataset that must be readable on every machine.")
@click.option("--experiment", metavar="NAME", help="An experiment of MLflow that must take runs.")
@click.option(
    "--node-timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds for each machine."
)
@address_option
@output_option
@click.pass_context
def doctor(
    context: click.Context,
    config: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    experiment: str | None,
    node_timeout: float,
    address: str | None,
    output: str,
) -> None:
    """Say what is wrong with this machine or, with --address, with every machine of a cluster; and what to do.

    With a CONFIG, its dataset and its MLflow experiment are looked at as well. With the address of a dashboard
    (http://HEAD:8265) the cluster looks at itself, as a job. Exit code 1 if something blocks.
    """
    from vitray.cluster.doctor import BLOCKS, Question, examine

    if config is not None:
        from vitray.experiment import Experiment

        wanted = Experiment.load(config, overrides)
        data, experiment = data or wanted.data.path, experiment or wanted.tracking.experiment
    found = examine(Question(Home.find(), address, data, experiment, node_timeout))
    counts = {state: sum(one.state == state for one in found) for state in _SIGNS}
    facts = {"findings": [one.as_json() for one in found], **counts}
    emit(facts, output, table=lambda: _table(found, counts))
    if any(one.state == BLOCKS for one in found):
        context.exit(EXIT_FAILED)


def _table(found: Sequence[Finding], counts: dict[str, int]) -> str:
    shown = [one.as_json() for one in found]
    rows = [(_SIGNS[str(one["state"])], one["check"], one["where"], one["what"]) for one in shown]
    if not any(row[2] for row in rows):
        text = grid([(sign, check, what) for sign, check, _, what in rows], ("", "check", "found"))
    else:
        text = grid(rows, ("", "check", "machine", "found"))
    remedies = [f"  {one['check']}{_at(one['where'])}: {one['remedy']}" for one in shown if one["remedy"]]
    if not remedies:
        return f"{text}\n\nnothing is wrong"
    return "\n".join([text, "", f"{counts['blocks']} block, {counts['warning']} warn; what to do:", *remedies])


def _at(where: str | None) -> str:
    return f" on {where}" if where else ""
