"""Packages to export, and exported files as their own libraries read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package

EXTRAS: dict[str, Any] = {
    "registers": 2,
    "pool": "mean",
    "patch_embed": "linear",
    "qk_norm": True,
    "layer_scale": 0.1,
    "dropout": 0.3,
    "attn_dropout": 0.3,
    "drop_path": 0.3,
}


def package_of(model: VisionTransformer, folder: Path) -> Path:
    info = PackageInfo(
        model=model.config,
        classes=("zero", "één", 'two "2"', "3", "4", "5", "6")[: model.config.num_classes],
        mean=(0.1, 0.2, 1 / 3),
        std=(0.3, 0.2, 0.1),
        dataset_fingerprint="f" * 64,
    )
    return save_package(folder, model.state_dict(), info)


def pt2_of(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def onnx_of(path: Path) -> Callable[[Tensor], Tensor]:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["output"], {"images": x.numpy()})[0])


READERS = {"pt2": pt2_of, "onnx": onnx_of}


def facts_of(path: Path) -> dict[str, Any]:
    """What a file says of itself, as its own library tells it."""
    if path.suffix == ".pt2":
        extra = {"vitray.json": ""}
        torch.export.load(path, extra_files=extra)
        return dict(json.loads(extra["vitray.json"]))
    if path.suffix == ".onnx":
        import onnxruntime

        text = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta()
        found = dict(text.custom_metadata_map)
    else:
        with safe_open(path, framework="pt") as file:
            found = dict(file.metadata())
    plain = ("vitray", "input", "output", "dataset_fingerprint", "format")
    return {name: value if name in plain else json.loads(value) for name, value in found.items()}
