"""Small models: the tests are about numbers, not sizes."""

from __future__ import annotations

from typing import Any, get_args

import torch

from vitray.model_config import ModelConfig, PosEncoding
from vitray.models import VisionTransformer

ENCODINGS: tuple[str, ...] = get_args(PosEncoding)


def small_config(**changes: Any) -> ModelConfig:
    """A rectangular grid of 3 x 4 patches, two heads of width 8."""
    values: dict[str, Any] = {
        "image_size": (6, 8), "patch_size": 2, "in_chans": 3, "num_classes": 5,
        "embed_dim": 16, "depth": 2, "num_heads": 2,
    }  # fmt: skip
    return ModelConfig(**values | changes)


def small_vit(**changes: Any) -> VisionTransformer:
    """A model whose every parameter is random, so that no zero hides a mistake."""
    model = VisionTransformer(small_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def images(model: VisionTransformer, batch: int = 2) -> torch.Tensor:
    assert model.config.in_chans is not None
    return torch.randn(batch, model.config.in_chans, *model.config.size)
