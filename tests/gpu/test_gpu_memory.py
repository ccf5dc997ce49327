"""A step's memory on a GPU is what models/cost.py says it is."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vitray.model_config import ModelConfig
from vitray.models import VisionTransformer
from vitray.models.cost import memory

pytestmark = pytest.mark.gpu


def peak(config: ModelConfig, batch: int, autocast: bool, gpu: torch.device) -> int:
    """Most bytes alive at once in the second step, input images and what was there before not counted."""
    assert config.in_chans is not None
    images = torch.randn(batch, config.in_chans, *config.size, device=gpu)
    labels = torch.zeros(batch, dtype=torch.long, device=gpu)
    before = torch.cuda.memory_allocated(gpu)
    model = VisionTransformer(config).to(gpu)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats(gpu)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cuda.max_memory_allocated(gpu) - before


@pytest.mark.parametrize(
    ("autocast", "changes"),
    [
        (False, {}),
        (True, {}),
        (True, {"attention": "axial"}),
        (True, {"pos_encoding": "relative"}),
        (False, {"pos_encoding": "relative"}),
        (True, {"pos_encoding": "rope_2d", "dropout": 0.1}),
    ],
)
def test_memory_is_within_15_percent_of_the_measured_peak(
    gpu: torch.device, autocast: bool, changes: dict[str, Any]
) -> None:
    config = ModelConfig.preset("vit_tiny", image_size=224, in_chans=3, num_classes=1000, **changes)
    peak(config.model_copy(update={"depth": 1}), 2, autocast, gpu)  # libraries take their workspaces for good
    gc.collect()
    measured = peak(config, 64, autocast, gpu)
    ours = memory(config, 64, "bfloat16" if autocast else "float32", device="cuda")
    assert ours.peak == pytest.approx(measured, rel=0.15)
