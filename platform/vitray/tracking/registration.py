"""Registering a model: once per run and name, whatever happens in between.

Each of the steps (logged model, files, version, alias) is looked up before it is done, by the tag ``vitray.run``, so
a process that is killed anywhere and starts over ends with one logged model and one version. The alias is moved
before the version is marked complete, and never again after: a later repeat must not undo somebody's promotion.
"""

from __future__ import annotations

import json
import math
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitray.errors import DataError, StoreAwayError
from vitray.masking import masked_values, public
from vitray.tracking.aliases import move_alias
from vitray.tracking.card_text import cut, filled
from vitray.tracking.mlflow_client import asking, connect, is_server
from vitray.tracking.pyfunc_artifact import save_pyfunc
from vitray.tracking.server import RUN_TAG
from vitray.tracking.versions import METRIC_TAG, MODEL_TAG

COMPLETE_TAG = "vitray.complete"
ANSWERS = "image (PNG or JPEG bytes, base64, path, uint8 pixels) -> label, probability, top, error; top_k=3"


def register_model(
    tracking_uri: str,
    *,
    name: str,
    package: Path,
    run: str,
    tags: Mapping[str, str],
    description: str,
    alias: str | None = "champion",
    metrics: Mapping[str, float] | None = None,
    about: str = "",
) -> int:
    """Register the package folder as a version of ``name``; a second call for the same run returns the same version.

    Args:
        package: folder with ``model.safetensors`` and ``model.json``; becomes an MLflow pyfunc without pickle or code.
        run: key of the run it came from, which MLflow must have already (flush the tracker first).
        alias: name that from now on means this version; None for no alias.
        metrics: shown with the version, e.g. ``{"test/accuracy": 0.97}``.
        description: of the version, Markdown. ``VERSION_HERE`` and ``RUN_HERE`` in it become the version's number and
            MLflow's id of the run, which are not known before.
        about: of all versions, if the name is new; goes on after "trained with vitray".

    Raises:
        TrackingError: the store does not answer, or does not have the run (:class:`StoreAwayError`).
        DataError: the folder is not a package.
    """
    info = _read_info(package)
    with asking(tracking_uri):
        client = connect(tracking_uri)
        found = client.search_model_versions(f"name = '{name}' and tags.`{RUN_TAG}` = '{run}'")
        version = found[0] if found else None
        if version is None:
            source_run = _find_run(client, tracking_uri, run)
            model = _logged_model(client, source_run, name, package, info, run)
            if not any(m.name == name for m in client.search_registered_models(f"name = '{name}'")):
                _create_name(client, name, about, info)
            version = client.create_model_version(
                name=name,
                # not models:/<id>: a database store resolves that through MLflow's global address, not through ours
                source=model.artifact_location,
                run_id=source_run.info.run_id,
                tags={RUN_TAG: run, **_facts(package, info), **_metric_tags(metrics), **masked_values(tags)},
                description=cut(description),
                model_id=model.model_id,
            )
            if not is_server(tracking_uri):  # a server does it itself
                link = json.dumps([{"name": name, "version": int(version.version)}])
                client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": link})
        if COMPLETE_TAG not in version.tags:
            written = filled(description, str(version.version), str(version.run_id))
            client.update_model_version(name, version.version, cut(written))
            if alias is not None:
                move_alias(client, name, alias, int(version.version), "registered")
            client.set_model_version_tag(name, version.version, COMPLETE_TAG, "true")
    return int(version.version)


def _create_name(client: Any, name: str, about: str, info: Mapping[str, Any]) -> None:
    from mlflow.exceptions import MlflowException

    classes = info["classes"]
    few = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
    text = f"Vision Transformer image classifiers, trained with vitray{about}. {len(classes)} classes: {few}."
    try:
        client.create_registered_model(name, {"task": "image-classification"}, cut(text))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
            raise


def _find_run(client: Any, tracking_uri: str, run: str) -> Any:
    experiments = [e.experiment_id for e in client.search_experiments()]
    found = client.search_runs(experiments, filter_string=f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
    if not found:
        raise StoreAwayError(  # time mends it: what waits is being sent
            f"MLflow does not have the run {run!r} yet",
            where=public(tracking_uri),
            remedy="flush the tracker before registering, and check that the server is up",
        )
    return found[0]


def _logged_model(client: Any, run: Any, name: str, package: Path, info: dict[str, Any], key: str) -> Any:
    """The run's logged model, complete with files; one that a killed process left half done is completed."""
    experiment = run.info.experiment_id
    known = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run.info.run_id}'")
    model = next((m for m in known if m.tags.get(RUN_TAG) == key and m.name == name), None)
    if model is None:
        model = client.create_logged_model(
            experiment,
            name=name,
            source_run_id=run.info.run_id,
            tags={RUN_TAG: key},
            params={f"model.{k}": str(v) for k, v in info["model"].items()},
        )
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory() as folder:
            client.log_model_artifacts(model.model_id, str(save_pyfunc(Path(folder) / "model", package, info, model)))
        _link(client, run, model)
        model = client.finalize_logged_model(model.model_id, "READY")
    return model


def _link(client: Any, run: Any, model: Any) -> None:
    """Show the model as the run's output, with the run's own metrics: the same points, so the run gains none."""
    from mlflow.entities import LoggedModelOutput, Metric

    run_id, model_id = run.info.run_id, model.model_id
    if model_id not in [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    points = [
        Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id, run_id=run_id)
        for m in run.data.to_proto().metrics
        if math.isfinite(m.value) and not m.key.startswith("system/")
    ]
    client.log_batch(run_id, metrics=points)


def _read_info(package: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads((package / "model.json").read_text(encoding="utf-8"))
        info["model"], info["classes"], info["dataset_fingerprint"]
        weights = (package / "model.safetensors").is_file()
    except (OSError, ValueError, KeyError, TypeError):
        weights = False
    if not weights:
        raise DataError("is not a model package", where=str(package), remedy="give a folder made by save_package")
    return info


def _facts(package: Path, info: dict[str, Any]) -> dict[str, str]:
    """What a list of models shows of each: its shape, size, classes and data."""
    shape = {f"{MODEL_TAG}{key}": str(value) for key, value in info["model"].items()}
    return {
        **shape,
        "vitray.parameters": str(count_parameters(package / "model.safetensors")),
        "vitray.bytes": str(sum((package / file).stat().st_size for file in ("model.safetensors", "model.json"))),
        "vitray.signature": ANSWERS,
        "vitray.classes": str(len(info["classes"])),
        "vitray.dataset_fingerprint": str(info["dataset_fingerprint"]),
    }


def _metric_tags(metrics: Mapping[str, float] | None) -> dict[str, str]:
    return {f"{METRIC_TAG}{key}": repr(float(value)) for key, value in (metrics or {}).items()}


def count_parameters(weights: Path) -> int:
    """How many numbers a safetensors file holds, from its header alone."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
