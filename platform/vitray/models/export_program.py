"""What an exported file computes, and what it says of itself.

Shapes: B batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitray import __version__
from vitray.models.package import PackageInfo
from vitray.models.preprocess import normalise
from vitray.models.vit import VisionTransformer


class PixelsToProbabilities(nn.Module):
    """The model with normalisation before it and softmax behind it.

    Decoding and fitting to the model's size stay with the caller: they are not the same in any two libraries.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: VisionTransformer, info: PackageInfo) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(info.mean))
        self.register_buffer("std", torch.tensor(info.std))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> probabilities (B, K)."""
        return self.model(normalise(images, self.mean, self.std)).softmax(dim=1)


def describe(info: PackageInfo, *, preprocessing: bool) -> dict[str, Any]:
    """What a file's reader must know, by name: plain values that JSON holds."""
    (h, w), c, k = info.model.size, info.model.in_chans, info.model.num_classes
    colours = {1: "grey", 3: "RGB"}.get(c or 0, f"{c} channels")
    if preprocessing:
        takes, gives = f"images: uint8 (batch, {h}, {w}, {c}), {colours}", f"probabilities: float32 (batch, {k})"
    else:
        takes = f"images: float32 (batch, {c}, {h}, {w}), {colours}, (pixel / 255 - mean) / std by channel"
        gives = f"logits: float32 (batch, {k}), softmax makes them probabilities"
    return {
        "vitray": __version__,
        "input": takes,
        "output": gives,
        "classes": list(info.classes),
        "mean": list(info.mean),
        "std": list(info.std),
        "image_size": [h, w],
        "model": info.model.model_dump(mode="json"),
        "dataset_fingerprint": info.dataset_fingerprint,
    }


def as_text(facts: Mapping[str, Any]) -> dict[str, str]:
    """For formats whose metadata are strings: a string stays, anything else is JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
