"""``vitray models``: browse the model registry, and change it."""

from __future__ import annotations

import click

from vitray.cli.models_change import delete, promote, rollback
from vitray.cli.models_compare import compare
from vitray.cli.models_cost import cost
from vitray.cli.models_explain import explain
from vitray.cli.models_export import export_
from vitray.cli.models_view import as_dict, details, model_page, models_table
from vitray.cli.output import emit, grid, note, output_option
from vitray.home import Home
from vitray.masking import public


@click.group()
def models() -> None:
    """Browse the model registry, and change it; what a model costs, attends to, and exports.

    The registry is the one of $MLFLOW_TRACKING_URI, else the embedded one of $VITRAY_HOME or the nearest .vitray.
    """


@models.command("list")
@output_option
def list_(output: str) -> None:
    """Every registered version: what it is, how good, how old."""
    from vitray.tracking.registry import list_models

    uri = Home.find().tracking_uri
    found = list_models(uri)
    if not found:
        remedy = "train one with: vitray quickstart, or set VITRAY_HOME or MLFLOW_TRACKING_URI"
        note(f"no models yet in {public(uri)}\n  -> {remedy}")
    emit([as_dict(v) for v in found], output, table=lambda: models_table(found) if found else "")


@models.command()
@click.argument("model")
@output_option
def show(model: str, output: str) -> None:
    """All that is known of MODEL: NAME@alias, NAME/version, or NAME for its champion."""
    from vitray.tracking.registry import alias_moves, show_model

    uri = Home.find().tracking_uri
    found = show_model(uri, model)
    moves = alias_moves(uri, found)
    facts = {**as_dict(found), **details(found), "alias_history": moves, "tracking_uri": public(uri)}
    emit(facts, output, table=lambda: model_page(found, public(uri), moves))


@models.command()
@click.argument("model")
@click.argument("dest", type=click.Path())
@output_option
def pull(model: str, dest: str, output: str) -> None:
    """Copy MODEL (NAME@alias, NAME/version, or NAME for its champion) into the new folder DEST.

    DEST then holds model.safetensors, model.json and MODEL_CARD.md; `vitray predict DEST ...` reads it without MLflow.
    """
    from vitray.tracking.registry import download, show_model

    uri = Home.find().tracking_uri
    found = show_model(uri, model)
    folder = download(found.uri, dest, tracking_uri=uri, card=found.description)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    emit(
        {"model": found.uri, "path": str(folder.resolve()), "files": files},
        output,
        table=lambda: grid([[str(folder / name), f"{size:,}"] for name, size in files.items()], ["file", "bytes"]),
    )


for command in (compare, cost, delete, explain, export_, promote, rollback):
    models.add_command(command)
