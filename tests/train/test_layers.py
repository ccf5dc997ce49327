"""Fine-tuning's parts: which weights are kept, and how much slower each layer learns."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from vitray.errors import ConfigError
from vitray.experiment import Experiment, ModelConfig, OptimConfig, TrainConfig
from vitray.model_config import PosEncoding
from vitray.models import VisionTransformer
from vitray.train.layers import freeze
from vitray.train.optim import make_optimizer

DEPTH = 3
RELATIVE = {"pos_encoding": "relative", "registers": 1, "pool": "mean"}  # cls asks no patch for its bias in the end


def vit(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    shape = {"image_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 12, "num_heads": 3}
    return VisionTransformer(ModelConfig(**shape | {"depth": DEPTH} | changes))


def step(model: VisionTransformer, optimizer: torch.optim.Optimizer, count: int = 2) -> dict[str, torch.Tensor]:
    """Train on noise; returns what changed in each parameter."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        model(torch.randn(4, 1, 8, 8, generator=generator)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def scales(model: VisionTransformer, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    name_of = {id(p): name for name, p in model.named_parameters()}
    return {name_of[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("decay", [0.5, 0.75])
def test_layers_are_scaled_as_timm_does_but_for_the_last_norm(decay: float) -> None:
    ours = vit(registers=2)
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=8, patch_size=4, in_chans=1, num_classes=3, embed_dim=12, depth=DEPTH, num_heads=3, reg_tokens=2,
    )  # fmt: skip
    name_of = {id(p): name for name, p in theirs.named_parameters()}
    groups = param_groups_layer_decay(theirs, 0.05, theirs.no_weight_decay(), layer_decay=decay)
    expected = {name_of[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    found = scales(ours, make_optimizer(ours, OptimConfig(layer_decay=decay)))
    # timm counts it to the last block; BEiT's own code and MAE's, which timm follows in the rest, to the head.
    for name in ("norm.weight", "norm.bias"):
        assert (found.pop(name), expected.pop(name)) == (1.0, decay)
    assert found == expected
    assert found["blocks.0.norm1.weight"] == decay**DEPTH
    assert found["patch_embed.proj.weight"] == found["cls_token"] == decay ** (DEPTH + 1)


@pytest.mark.parametrize("decay", [1.0, 0.75])
def test_weight_decay_is_as_without_layers(decay: float) -> None:
    model = vit(**RELATIVE)
    groups = make_optimizer(model, OptimConfig(layer_decay=decay, weight_decay=0.3)).param_groups
    decays = {id(p) for group in groups for p in group["params"] if group["weight_decay"] == 0.3}
    assert decays == {
        id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
    }  # as test_optim.py says in full
    if decay == 1:
        assert [(group["lr_scale"], group["weight_decay"]) for group in groups] == [(1.0, 0.3), (1.0, 0.0)]


def test_each_block_row_of_a_relative_table_learns_at_its_blocks_rate() -> None:
    """Adam's first step is the rate itself wherever there is a gradient, so a row's step tells its rate."""
    plain, slow = vit(**RELATIVE), vit(**RELATIVE)
    whole = step(plain, make_optimizer(plain, OptimConfig()), count=1)
    part = step(slow, make_optimizer(slow, OptimConfig(layer_decay=0.5)), count=1)
    for name in ("position.offset", "position.patch_to_prefix"):
        for block in range(DEPTH):
            expected = whole[name][block] * 0.5 ** (DEPTH - block)
            torch.testing.assert_close(part[name][block], expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        part["blocks.0.mlp.fc1.bias"], whole["blocks.0.mlp.fc1.bias"] * 0.5**3, rtol=1e-3, atol=1e-6
    )
    torch.testing.assert_close(part["head.weight"], whole["head.weight"])


@pytest.mark.parametrize("encoding", get_args(PosEncoding))
def test_all_but_the_head_stays(encoding: str) -> None:
    model = vit(pos_encoding=encoding)
    freeze(model, TrainConfig(freeze="all_but_head", init_from="x"))
    optimizer = make_optimizer(model, OptimConfig())
    assert set(scales(model, optimizer)) == {"head.weight", "head.bias"}
    moved = {name for name, change in step(model, optimizer).items() if change.any()}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize("attention", ["full", "axial"])
@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("count", [1, 2, DEPTH])
@pytest.mark.parametrize("encoding", ["learned", "relative"])
def test_the_first_blocks_stay_and_the_others_learn(encoding: str, count: int, decay: float, attention: str) -> None:
    model = vit(pos_encoding=encoding, registers=1, attention=attention, pool="mean")
    freeze(model, TrainConfig(freeze=f"first_{count}", init_from="x"))
    optimizer = make_optimizer(model, OptimConfig(layer_decay=decay))
    for name, change in step(model, optimizer).items():
        if name.startswith("position."):
            assert not change[:count].any(), name
            # The last block's prefix tokens do not count in the mean over patches.
            assert all(row.any() for row in change[count : None if "prefix" not in name else -1]), name
        elif name.startswith(("norm.", "head.", *(f"blocks.{block}." for block in range(count, DEPTH)))):
            assert change.any(), name
        else:
            assert not change.any(), name
            assert name not in scales(model, optimizer)


def test_kept_rows_do_not_count_when_gradients_are_clipped() -> None:
    model = vit(**RELATIVE)
    freeze(model, TrainConfig(freeze="first_2", init_from="x"))
    model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    gradient = dict(model.named_parameters())["position.offset"].grad
    assert gradient is not None
    assert not gradient[:2].any()
    assert gradient[2].any()


def experiment(**train: Any) -> Experiment:
    return Experiment(data={"path": "x"}, model={"depth": 4}, train=train)


def test_freezing_needs_weights_and_blocks_that_are_there() -> None:
    with pytest.raises(ConfigError, match=r"without train\.init_from it would keep random weights"):
        experiment(freeze="all_but_head")
    with pytest.raises(ConfigError, match=r"first_5, but model\.depth is 4; first_4 or all_but_head keep every block"):
        experiment(freeze="first_5", init_from="weights")
    deep = experiment(freeze="first_4", init_from="weights")
    with pytest.raises(ConfigError, match=r"model\.depth is 2"):
        deep.with_values({"model.depth": 2})
    for wrong in ("first_0", "first_", "all", "first_1.5"):
        with pytest.raises(ConfigError, match=r"train\.freeze"):
            experiment(freeze=wrong, init_from="weights")
