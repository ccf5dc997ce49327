"""Whose names a file of weights uses, and what we call the same tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from vitray.errors import DataError

Source = Literal["timm", "torchvision"]

# torchvision's names, in terms of timm's. Its fused projection has the same rows: queries, keys, values.
TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(weight|bias)$", r"blocks.\1.attn.qkv.\2"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)


def to_our_names(weights: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], Source]:
    """Tensors under timm's names, which are ours, and whose names they had."""
    if "patch_embed.proj.weight" in weights:
        return dict(weights), "timm"
    if "encoder.pos_embedding" in weights:
        return {_renamed(name): tensor for name, tensor in weights.items()}, "torchvision"
    raise DataError(
        f"holds no Vision Transformer: neither timm's patch_embed.proj.weight nor torchvision's encoder.pos_embedding "
        f"among its {len(weights)} tensors",
        where=where,
        remedy="give a ViT's weights in timm's or torchvision's naming",
    )


def _renamed(name: str) -> str:
    for pattern, ours in TORCHVISION:
        renamed, count = re.subn(pattern, ours, name)
        if count:
            return renamed
    return name
