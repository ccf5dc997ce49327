"""Costs against torch's own counters. Parameters against timm and torchvision: test_parity.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import small_config
from torch.utils.flop_counter import FlopCounterMode

from vitray.errors import ConfigError
from vitray.model_config import PRESETS, ModelConfig
from vitray.models import VisionTransformer
from vitray.models.cost import cost, flops, memory

pytestmark = pytest.mark.slow

IMAGENET: dict[str, Any] = {"image_size": 224, "in_chans": 3, "num_classes": 1000}


def test_presets_take_changes_and_offer_the_nearest_name() -> None:
    config = ModelConfig.preset("vit_nano", patch_size=2, image_size=8, pos_encoding="rope_2d", depth=2)
    assert (config.embed_dim, config.depth, config.patch_size, config.pos_encoding) == (64, 2, 2, "rope_2d")
    with pytest.raises(ConfigError, match="vit_base"):
        ModelConfig.preset("vit_bas")
    with pytest.raises(ConfigError, match="does not divide"):
        ModelConfig.preset("vit_base", image_size=225)
    for name in PRESETS:
        ModelConfig.preset(name, image_size=224, pos_encoding="rope_2d")
        ModelConfig.preset(name, image_size=224, pos_encoding="sinusoidal_2d")


@pytest.mark.parametrize("attention", ["full", "axial"])
@pytest.mark.parametrize("kind", ["learned", "relative", "rope_2d"])
@pytest.mark.parametrize(
    "changes", [{}, {"registers": 4, "qk_norm": True, "layer_scale": 0.1, "patch_embed": "linear"}]
)
def test_flops_are_those_of_torchs_counter(kind: str, attention: str, changes: dict[str, Any]) -> None:
    config = ModelConfig.preset("vit_tiny", **IMAGENET, pos_encoding=kind, attention=attention, depth=2, **changes)
    with torch.device("meta"):
        model, images, labels = VisionTransformer(config), torch.empty(2, 3, 224, 224), torch.empty(2, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        loss = F.cross_entropy(model(images), labels)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    ours = flops(config)
    assert ours.forward == pytest.approx(forward.get_total_flops() / 2, rel=0.01)
    assert ours.training == pytest.approx((forward.get_total_flops() + backward.get_total_flops()) / 2, rel=0.01)


def test_fused_attention_recomputes_half_its_forward() -> None:
    config = small_config(image_size=32, patch_size=2)
    model, images = VisionTransformer(config), torch.randn(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    ours = flops(config)
    assert ours.training + ours.recomputed == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


def measured(config: ModelConfig, batch: int, autocast: bool) -> tuple[int, int]:
    """(Peak bytes alive in the second step, optimizer bytes) by the profiler's record of every allocation."""
    model = VisionTransformer(config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = torch.randn(batch, 3, *config.size), torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    held = sum(p.numel() * 4 for p in model.parameters())
    state = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if t.ndim)
    return held + state + peak, state


@pytest.mark.parametrize(
    ("autocast", "changes"),
    [
        (False, {}),
        (True, {}),
        (True, {"attention": "axial"}),
        (False, {"pos_encoding": "relative"}),
        (True, {"pos_encoding": "rope_2d", "dropout": 0.1}),
    ],
)
def test_memory_is_within_15_percent_of_the_measured_peak(autocast: bool, changes: dict[str, Any]) -> None:
    config = ModelConfig.preset("vit_nano", image_size=32, patch_size=2, in_chans=3, num_classes=10, **changes)
    peak, state = measured(config, 2, autocast)
    ours = memory(config, 2, "bfloat16" if autocast else "float32")
    assert ours.optimizer == state
    assert ours.peak == pytest.approx(peak, rel=0.15)


def test_cost_grows_as_it_must() -> None:
    small, large = (cost(small_config(depth=depth), 8) for depth in (2, 6))
    assert large.parameters > small.parameters
    assert large.memory.activations > 2.5 * small.memory.activations
    assert cost(small_config(depth=6), 16).memory.activations == pytest.approx(2 * large.memory.activations, rel=0.05)
    huge = memory(ModelConfig.preset("vit_huge", patch_size=14, **IMAGENET), 1)
    assert huge.peak >= 4 * huge.parameters, "weights, gradients and two moments"


def test_a_gpus_fused_kernels_keep_no_logits_whatever_is_added_to_them() -> None:
    def kept(device: Any = "cuda", **changes: Any) -> int:
        return memory(small_config(image_size=32, **changes), 64, "bfloat16", device).activations

    assert kept(attn_dropout=0.1) == kept()
    assert kept(pos_encoding="relative") < 1.1 * kept(), "the bias itself, once for all images"
    assert kept("cpu") > 2 * kept()
