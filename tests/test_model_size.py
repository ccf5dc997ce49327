"""Formulas of a model's size against the model itself."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.errors import ConfigError
from vitray.model_config import ModelConfig, PosEncoding
from vitray.model_size import count_parameters, flops, flops_by_part, least_memory, parameters_by_part
from vitray.models import VisionTransformer
from vitray.models.cost import memory

RICH: dict[str, Any] = {"registers": 3, "qk_norm": True, "layer_scale": 0.1, "mlp_ratio": 2.6}


@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)), patch=st.integers(1, 4), chans=st.integers(1, 4),
    classes=st.integers(1, 9), heads=st.integers(1, 3), head=st.sampled_from([4, 8]), depth=st.integers(1, 3),
    kind=st.sampled_from(get_args(PosEncoding)), attention=st.sampled_from(["full", "axial"]), rich=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_parameters_are_those_of_the_model(
    size: tuple[int, int], patch: int, chans: int, classes: int, heads: int, head: int, depth: int, kind: str,
    attention: str, rich: bool,
) -> None:  # fmt: skip
    try:
        config = ModelConfig(
            image_size=(size[0] * patch, size[1] * patch), patch_size=patch, in_chans=chans, num_classes=classes,
            embed_dim=heads * head, num_heads=heads, depth=depth, pos_encoding=kind, attention=attention,
            **(RICH if rich else {}),
        )  # fmt: skip
    except ConfigError:
        return
    with torch.device("meta"):
        model = VisionTransformer(config)
    parts = parameters_by_part(config)
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())
    assert parts["patch embedding"] == sum(p.numel() for p in model.patch_embed.parameters())
    assert parts["attention"] + parts["MLP"] == sum(p.numel() for p in model.blocks.parameters())
    assert flops(config).forward == sum(flops_by_part(config).values())
    assert parts.keys() == flops_by_part(config).keys()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_least_memory_is_below_and_near_what_a_step_takes(precision: Any) -> None:
    for kind, attention, rich in product(("learned", "relative", "rope_2d"), ("full", "axial"), (False, True)):
        config = ModelConfig(
            image_size=64, patch_size=8, in_chans=3, num_classes=10, embed_dim=96, num_heads=3, depth=4,
            pos_encoding=kind, attention=attention, **(RICH if rich else {}),
        )  # fmt: skip
        for images in (1, 64):
            taken = memory(config, images, precision).peak
            assert 0.5 * taken < least_memory(config, images, precision) <= taken, (kind, attention, rich, images)
