"""``vitray models``: browse the model registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitray.cli.models_cost import cost
from vitray.cli.models_explain import explain
from vitray.cli.models_export import export_
from vitray.cli.output import age, emit, grid, note, output_option
from vitray.home import Home

if TYPE_CHECKING:
    from vitray.tracking.registry import ModelVersion


@click.group()
def models() -> None:
    """Browse the model registry; what a model costs, attends to, and exports.

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
        note(
            f"no models yet in {uri}\n  -> train one with: vitray quickstart, or set VITRAY_HOME or MLFLOW_TRACKING_URI"
        )
    emit([_as_dict(v) for v in found], output, table=lambda: _table(found) if found else "")


@models.command()
@click.argument("model")
@output_option
def show(model: str, output: str) -> None:
    """All that is known of MODEL: NAME@alias, NAME/version, or NAME for its champion."""
    from vitray.tracking.registry import show_model

    uri = Home.find().tracking_uri
    found = show_model(uri, model)
    emit({**_as_dict(found), **_details(found), "tracking_uri": uri}, output, table=lambda: _page(found, uri))


@models.command()
@click.argument("model")
@click.argument("dest", type=click.Path())
@output_option
def pull(model: str, dest: str, output: str) -> None:
    """Copy MODEL (NAME@alias, NAME/version, or NAME for its champion) into the new folder DEST.

    DEST then holds model.safetensors and model.json, which `vitray predict DEST ...` reads without MLflow.
    """
    from vitray.tracking.registry import download, show_model

    uri = Home.find().tracking_uri
    found = show_model(uri, model)
    folder = download(found.uri, dest, tracking_uri=uri)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    emit(
        {"model": found.uri, "path": str(folder.resolve()), "files": files},
        output,
        table=lambda: grid([[str(folder / name), f"{size:,}"] for name, size in files.items()], ["file", "bytes"]),
    )


@models.command()
@click.argument("name")
@click.argument("version", type=int)
@click.option("--alias", default="champion", show_default=True, help="The name that shall mean this version.")
@output_option
def promote(name: str, version: int, alias: str, output: str) -> None:
    """Let NAME@ALIAS mean VERSION from now on."""
    from vitray.tracking.registry import list_models, set_alias

    uri = Home.find().tracking_uri
    before = next((v.version for v in list_models(uri, name) if alias in v.aliases), None)
    found = set_alias(uri, name, version, alias)
    was = f", which was version {before}" if before not in (None, version) else ""
    emit(
        {**_as_dict(found), "alias": alias, "was": before},
        output,
        table=lambda: f"models:/{name}@{alias} is version {version} now{was}",
    )


def _shape(version: ModelVersion) -> dict[str, Any]:
    keys = {"patch": "patch_size", "depth": "depth", "heads": "num_heads", "encoding": "pos_encoding"}
    texts = {short: version.model.get(key) for short, key in keys.items()}
    return {short: int(text) if text and text.isdigit() else text for short, text in texts.items()}


def _as_dict(version: ModelVersion) -> dict[str, Any]:
    parameters = version.tags.get("vitray.parameters")
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "test_accuracy": version.metrics.get("test/accuracy"),
        "parameters": int(parameters) if parameters else None,
        **_shape(version),
        "dataset": _dataset(version),
        "created_ms": version.created_ms,
        "uri": version.uri,
    }


def _details(version: ModelVersion) -> dict[str, Any]:
    return {
        "description": version.description,
        "metrics": version.metrics,
        "run": version.run,
        "mlflow_run_id": version.run_id,
        "tags": dict(version.tags),
        "source": version.source,
    }


def _dataset(version: ModelVersion) -> str:
    return version.tags.get("vitray.dataset") or version.tags.get("vitray.dataset_fingerprint", "?")[:12]


def _table(found: list[ModelVersion]) -> str:
    rows = []
    for version in found:
        facts = _as_dict(version)
        rows.append(
            [
                version.name,
                version.version,
                ", ".join(version.aliases),
                "" if facts["test_accuracy"] is None else f"{facts['test_accuracy']:.4f}",
                "" if facts["parameters"] is None else f"{facts['parameters']:,}",
                "/".join(str(value or "?") for value in _shape(version).values()),
                _dataset(version),
                age(version.created_ms / 1000),
            ]
        )
    headers = ["name", "version", "aliases", "test accuracy", "parameters", "patch/depth/heads/encoding"]
    return grid(rows, [*headers, "dataset", "age"])


def _page(version: ModelVersion, uri: str) -> str:
    facts = {k: v for k, v in _as_dict(version).items() if k not in ("created_ms", "aliases", "test_accuracy")}
    rows: list[tuple[str, Any]] = [*facts.items()]
    rows.insert(2, ("aliases", ", ".join(version.aliases)))
    rows += [("age", age(version.created_ms / 1000)), ("run", version.run), ("registry", uri)]
    rows += [(name, f"{value:.6g}") for name, value in sorted(version.metrics.items())]
    shown = ("vitray.metric.", "vitray.model.", "vitray.parameters", "vitray.complete", "vitray.run")
    rows += [item for item in sorted(version.tags.items()) if not item[0].startswith(shown)]
    text = grid([[key, "" if value is None else value] for key, value in rows], [version.uri, ""])
    return f"{text}\n\n{version.description}" if version.description else text


models.add_command(cost)
models.add_command(explain)
models.add_command(export_)
