"""Registering a model: once per run and name, whatever happens in between.

Each of the steps (logged model, files, version, alias) is looked up before it is done, by the tag ``vitray.run``, so
a process that is killed anywhere and starts over ends with one logged model and one version. The alias is moved
before the version is marked complete, and never again after: a later repeat must not undo somebody's promotion.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitray.errors import DataError, TrackingError
from vitray.tracking.mlflow_client import asking, connect, is_server, load_mlflow
from vitray.tracking.server import RUN_TAG
from vitray.tracking.versions import METRIC_TAG, MODEL_TAG

COMPLETE_TAG = "vitray.complete"
LOADER = "vitray.inference.mlflow_model"
# What prediction imports. Given explicitly: MLflow would otherwise run the model in a subprocess to find out.
REQUIREMENTS = ("vitray", "mlflow", "numpy", "opencv-python-headless", "pandas", "pydantic", "safetensors", "torch")


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
) -> int:
    """Register the package folder as a version of ``name``; a second call for the same run returns the same version.

    Args:
        package: folder with ``model.safetensors`` and ``model.json``; becomes an MLflow pyfunc without pickle or code.
        run: key of the run it came from, which MLflow must have already (flush the tracker first).
        alias: name that from now on means this version; None for no alias.
        metrics: shown with the version, e.g. ``{"test/accuracy": 0.97}``.

    Raises:
        TrackingError: the store does not answer, or does not have the run.
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
                _create_name(client, name)
            version = client.create_model_version(
                name=name,
                # not models:/<id>: a database store resolves that through MLflow's global address, not through ours
                source=model.artifact_location,
                run_id=source_run.info.run_id,
                tags={RUN_TAG: run, **_facts(package, info), **_metric_tags(metrics), **tags},
                description=description,
                model_id=model.model_id,
            )
            if not is_server(tracking_uri):  # a server does it itself
                link = json.dumps([{"name": name, "version": int(version.version)}])
                client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": link})
        if COMPLETE_TAG not in version.tags:
            if alias is not None:
                client.set_registered_model_alias(name, alias, version.version)
            client.set_model_version_tag(name, version.version, COMPLETE_TAG, "true")
    return int(version.version)


def _create_name(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Vision Transformer image classifiers, trained with vitray.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
            raise


def _find_run(client: Any, tracking_uri: str, run: str) -> Any:
    experiments = [e.experiment_id for e in client.search_experiments()]
    found = client.search_runs(experiments, filter_string=f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
    if not found:
        raise TrackingError(
            f"MLflow does not have the run {run!r} yet",
            where=tracking_uri,
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
            client.log_model_artifacts(model.model_id, str(_save(Path(folder) / "model", package, info, model)))
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
        if math.isfinite(m.value)
    ]
    client.log_batch(run_id, metrics=points)


def _save(path: Path, package: Path, info: dict[str, Any], model: Any) -> Path:
    """An MLflow pyfunc around the package: loader by name, data by copy, nothing pickled, nothing run."""
    mlflow = load_mlflow()
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    data = path.parent / "package"
    data.mkdir(parents=True)
    for file in ("model.safetensors", "model.json"):  # these two and nothing else that may lie beside them
        (data / file).symlink_to((package / file).resolve())
    signature = ModelSignature(
        # Any: encoded bytes, base64 text, a file path or a uint8 array, of any size and number of rows
        inputs=Schema([ColSpec(AnyType(), "image")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "label", required=False),
                ColSpec(DataType.double, "probability", required=False),
                ColSpec(DataType.string, "top"),
                ColSpec(DataType.string, "error", required=False),
            ]
        ),
        params=ParamSchema([ParamSpec("top_k", DataType.long, 3)]),
    )
    mlflow.pyfunc.save_model(
        path=str(path),
        loader_module=LOADER,
        data_path=str(data),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            model_id=model.model_id,
            run_id=model.source_run_id,
        ),
        signature=signature,
        input_example=pd.DataFrame({"image": [_example(info)]}),
        pip_requirements=[f"{name}=={_installed(name)}" for name in REQUIREMENTS],
        metadata={"classes": info["classes"], "dataset_fingerprint": info["dataset_fingerprint"]},
    )
    return path


def _installed(distribution: str) -> str:
    """Its version, without a local part such as ``+cu130`` that a package index does not have."""
    return importlib.metadata.version(distribution).partition("+")[0]


def _example(info: dict[str, Any]) -> bytes:
    """A PNG of the model's size: a ramp from black to white."""
    import numpy as np

    from vitray.data.decode import encode_png
    from vitray.experiment import ModelConfig

    config = ModelConfig(**info["model"])
    (height, width), channels = config.size, config.in_chans or 1
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    return encode_png(np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (height, width, channels))))


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
