"""A model package as MLflow keeps one: a pyfunc with a named loader and two files of data. No pickle, no code."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from vitray.tracking.mlflow_client import load_mlflow

LOADER = "vitray.inference.mlflow_model"
# What prediction imports. Given explicitly: MLflow would otherwise run the model in a subprocess to find out.
REQUIREMENTS = ("vitray", "mlflow", "numpy", "opencv-python-headless", "pandas", "pydantic", "safetensors", "torch")


def save_pyfunc(path: Path, package: Path, info: dict[str, Any], model: Any) -> Path:
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
