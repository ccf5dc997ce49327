"""Which parameters decay, and the learning rate as a function."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitray.experiment import ModelConfig, OptimConfig
from vitray.model_config import PosEncoding
from vitray.models import VisionTransformer
from vitray.train.optim import lr_at, make_optimizer

CONFIG = OptimConfig(lr=1.0, warmup_epochs=2.0, min_lr_ratio=0.1, weight_decay=0.3)


def groups_of(**model: Any) -> tuple[set[str], set[str], VisionTransformer]:
    """Names of the parameters that decay, and of those that do not."""
    shape = {
        "image_size": 8,
        "patch_size": 2,
        "in_chans": 1,
        "num_classes": 3,
        "embed_dim": 16,
        "num_heads": 2,
        "depth": 2,
    }
    vit = VisionTransformer(ModelConfig(**shape | model))
    optimizer = make_optimizer(vit, CONFIG)
    name_of = {id(p): name for name, p in vit.named_parameters()}
    decay, still = ({name_of[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(name_of)
    assert decay | still == set(name_of.values())
    return decay, still, vit


@pytest.mark.parametrize("attention", ["full", "axial"])
@pytest.mark.parametrize("encoding", get_args(PosEncoding))
def test_only_the_matrices_of_the_network_decay(encoding: str, attention: str) -> None:
    decay, still, vit = groups_of(
        pos_encoding=encoding, attention=attention, registers=2, layer_scale=0.1, qk_norm=True
    )
    matrices = {
        f"{name}.weight"
        for name, module in vit.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert decay == matrices
    norms = {name for name, module in vit.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert {f"{name}.weight" for name in norms} <= still
    assert {"cls_token", "reg_token"} <= still
    positions = {name for name, _ in vit.named_parameters() if name.startswith("pos")}
    assert positions <= still
    assert bool(positions) == (encoding in ("learned", "relative"))


def test_a_linear_patch_embedding_decays_as_well() -> None:
    assert "patch_embed.proj.weight" in groups_of(patch_embed="linear")[0]


def test_decay_without_a_gradient_shrinks_matrices_and_nothing_else() -> None:
    decay, _, vit = groups_of(pos_encoding="learned")
    optimizer = make_optimizer(vit, CONFIG)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in vit.named_parameters():
        expected = 0.7 if name in decay else 1.0
        assert torch.allclose(parameter, torch.full_like(parameter, expected)), name


def lr(step: int, total: int = 100, per_epoch: int = 10, **changes: float) -> float:
    return lr_at(step, total_steps=total, steps_per_epoch=per_epoch, config=CONFIG.model_copy(update=changes))


def test_warm_up_is_linear_from_the_first_step_to_the_peak() -> None:
    assert [lr(step) for step in range(20)] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert lr(19) == lr(20) == 1.0


def test_the_cosine_ends_at_the_lowest_rate_at_the_last_step() -> None:
    assert lr(99) == pytest.approx(0.1)
    middle = 20 + 79 / 2
    assert (lr(math.floor(middle)) + lr(math.ceil(middle))) / 2 == pytest.approx(0.55)
    assert lr(50) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 30 / 79)))


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert lr(0, warmup_epochs=0.0) == 1.0
    assert lr(99, warmup_epochs=0.0) == pytest.approx(0.1)


def test_a_warm_up_longer_than_half_the_run_is_cut() -> None:
    assert lr(49, warmup_epochs=1000.0) == 1.0
    assert lr(99, warmup_epochs=1000.0) == pytest.approx(0.1)


@given(st.integers(1, 300), st.integers(1, 50), st.floats(0, 20), st.floats(0, 1))
def test_for_any_run_the_rate_rises_to_the_peak_then_falls_and_stays_in_bounds(
    total: int, per_epoch: int, warmup: float, ratio: float
) -> None:
    rates = [lr(s, total, per_epoch, warmup_epochs=warmup, min_lr_ratio=ratio) for s in range(total)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert all(0 < a <= 1 + 1e-12 for a in rates if ratio > 0)
    assert all(a <= b for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[peak:]))
    if total > 2:
        assert rates[-1] == pytest.approx(ratio, abs=1e-9)
