"""``vitray train``: one experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vitray.cli.options import address_option, overrides_argument
from vitray.cli.output import emit, note, output_option
from vitray.errors import ConfigError
from vitray.masking import public


@click.command()
@click.argument("config", type=click.Path(), required=False)
@overrides_argument
@click.option("--resume", metavar="NAME", help="Go on with an earlier run from its newest checkpoint.")
@address_option
@output_option
def train(config: str | None, overrides: tuple[str, ...], resume: str | None, address: str | None, output: str) -> None:
    """Train the experiment in CONFIG, a YAML file, with overrides such as model.depth=6.

    The run gets a name (the config's, or name=...) and a folder with its checkpoints; interrupted, it goes on with
    --resume NAME to the very weights it would have had.
    """
    from vitray.cluster.launch import Prepared
    from vitray.cluster.launch import train as run_training
    from vitray.home import Home

    if config is None and resume is None:
        raise ConfigError("needs a config file", where="vitray train", remedy="give one, or --resume NAME")
    if resume is not None and config is not None and "=" in config and not Path(config).exists():
        raise ConfigError(
            "a run goes on as it was begun",
            where=f"vitray train --resume {resume} {config}",
            remedy=f"leave that away; or begin another run with train.init_from={resume}",
        )
    prepared = Prepared.load(config, overrides) if config is not None else None
    home = Home.find()
    note(f"state: {home.root}")
    from vitray.cli.live import TrainBar

    with TrainBar() as bar:
        result = run_training(prepared, home, bar, resume=resume, address=address)
    last = result.last
    facts: dict[str, Any] = {
        "name": result.name,
        "folder": str(result.folder),
        "run": result.run_key,
        "tracking_uri": public(home.tracking_uri),
        "epoch": last.epoch if last else None,
        "metrics": dict(last.metrics) if last else {},
        "checkpoint": last.checkpoint if last else None,
    }
    emit(facts, output, table=lambda: _summary(facts))


def _summary(facts: dict[str, Any]) -> str:
    if facts["epoch"] is None:
        return f"{facts['name']} had already been trained to its end."
    accuracy = facts["metrics"].get("val/accuracy")
    score = f", validation accuracy {accuracy:.4f}" if accuracy is not None else ""
    return (
        f"{facts['name']}: epoch {facts['epoch']}, loss {facts['metrics']['train/loss']:.4f}{score}\n"
        f"weights: {facts['checkpoint']}\n"
        f"next: vitray evaluate {facts['checkpoint']} DATA, or vitray ui to see its curves"
    )
