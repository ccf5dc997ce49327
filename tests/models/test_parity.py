"""The same model as timm's and torchvision's: parameters, logits and gradients, at the sizes that people use.

How close is close: logits are compared at weights that make them of size 1 and at timm's own start, where they are
smaller. There float32 itself is off by 1e-6 (against float64), so 1e-5 leaves room for another order of summation and
none for another formula: the epsilon of the norms alone (1e-5 for 1e-6), or GELU by tanh, is seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from vitray.model_config import PRESETS, ModelConfig
from vitray.models import VisionTransformer
from vitray.models.cost import count_parameters
from vitray.models.pretrained import load_pretrained, to_our_names

pytestmark = pytest.mark.slow

IMAGENET: dict[str, Any] = {"image_size": 224, "in_chans": 3, "num_classes": 1000}
SMALL = [name for name in PRESETS if name in ("vit_nano", "vit_micro")]  # ours alone
TIMMS = [name for name in PRESETS if name not in SMALL]
TORCHVISIONS = [("vit_base", 16), ("vit_base", 32), ("vit_large", 16), ("vit_large", 32), ("vit_huge", 14)]


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Weights that keep activations and logits of size 1, and nothing at zero or one that could hide a mistake."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            is_scale = name.endswith("weight")
            parameter.normal_(mean=float(is_scale), std=0.1)
        elif "pos" in name or "token" in name:
            parameter.normal_(std=0.5)
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5)


def ours_like(preset: str, patch: int, **changes: Any) -> VisionTransformer:
    """Ours on the meta device, to be given weights."""
    with torch.device("meta"):
        return VisionTransformer(ModelConfig.preset(preset, patch_size=patch, **IMAGENET | changes)).eval()


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
@pytest.mark.parametrize("preset", TIMMS)
def test_presets_have_timms_parameters(preset: str, patch: int) -> None:
    """Built by timm under that name where it has it: ViT-Ti/16 and so on."""
    name = f"{preset}_patch{patch}_224"
    with torch.device("meta"):
        if name in timm.list_models():
            theirs = timm.create_model(name, num_classes=1000, weight_init="skip")
        else:
            known = "14" if preset == "vit_huge" else "16"
            changes = {"patch_size": patch, "num_classes": 1000, "weight_init": "skip"}
            theirs = timm.create_model(f"{preset}_patch{known}_224", **changes)
    assert shapes(ours_like(preset, patch)) == shapes(theirs)
    config = ModelConfig.preset(preset, patch_size=patch, **IMAGENET)
    assert count_parameters(config) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(("size", "patch"), [(8, 1), (8, 2), (32, 4), (64, 8)])
@pytest.mark.parametrize("preset", SMALL)
def test_the_small_presets_have_the_parameters_of_timms_class(preset: str, size: int, patch: int) -> None:
    dim, depth, heads = PRESETS[preset]
    with torch.device("meta"):
        theirs = TimmViT(
            img_size=size, patch_size=patch, in_chans=1, num_classes=10, embed_dim=dim, depth=depth, num_heads=heads
        )
    shape: dict[str, Any] = {"image_size": size, "in_chans": 1, "num_classes": 10}
    assert shapes(ours_like(preset, patch, **shape)) == shapes(theirs)
    config = ModelConfig.preset(preset, patch_size=patch, **shape)
    assert count_parameters(config) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(("preset", "patch"), TORCHVISIONS)
def test_presets_have_torchvisions_parameters(preset: str, patch: int) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"vit_{preset[4]}_{patch}")
    renamed, source = to_our_names(dict(theirs.named_parameters()), "torchvision")
    assert source == "torchvision"
    assert {name: tuple(p.shape) for name, p in renamed.items()} == shapes(ours_like(preset, patch))
    config = ModelConfig.preset(preset, patch_size=patch, **IMAGENET)
    assert count_parameters(config) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("patch", [16, 32])
@pytest.mark.parametrize("preset", ["vit_tiny", "vit_small", "vit_base"])
@torch.no_grad()
def test_timms_weights_give_timms_logits(preset: str, patch: int) -> None:
    x = torch.randn(1, 3, 224, 224)
    theirs = timm.create_model(f"{preset}_patch16_224", patch_size=patch).eval()
    for start in ("timm's", "random"):
        if start == "random":
            randomize(theirs)
        features = theirs.forward_features(x)
        for pool, theirs.global_pool in (("cls", "token"), ("mean", "avg")):
            ours = ours_like(preset, patch, pool=pool)
            ours.load_state_dict(theirs.state_dict(), assign=True)
            wanted = theirs.forward_head(features)
            torch.testing.assert_close(ours(x), wanted, rtol=0, atol=1e-5)
            assert start == "timm's" or 0.5 < wanted.std() < 2
        theirs.load_state_dict(ours.state_dict())  # and the way back


@pytest.mark.parametrize("patch", [16, 32])
@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_logits(patch: int, tmp_path: Path) -> None:
    x, file = torch.randn(1, 3, 224, 224), tmp_path / "w.safetensors"
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"vit_b_{patch}").eval()
    theirs = theirs.to_empty(device="cpu")
    randomize(theirs)
    save_file(theirs.state_dict(), file)
    ours = ours_like("vit_base", patch).to_empty(device="cpu")
    report = load_pretrained(ours, file)
    file.unlink()  # a third of a gigabyte
    assert (report.source, report.adapted) == ("torchvision", ())
    logits = theirs(x)
    torch.testing.assert_close(ours(x), logits, rtol=0, atol=1e-5)
    assert 0.5 < logits.std() < 2


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    F.cross_entropy(model.train()(x), y).backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None for g in found.values())
    return {name: g for name, g in found.items() if g is not None}


def check_gradients(ours: VisionTransformer, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Within 1e-4, absolute and of each parameter's largest gradient: small ones do not pass for being small."""
    assert mine.keys() == theirs.keys() == dict(ours.named_parameters()).keys()
    for name, gradient in theirs.items():
        largest = gradient.abs().max().item()
        assert largest > 1e-7, f"{name} has no gradient to compare"
        difference = (mine[name] - gradient).abs().max().item()
        assert difference < 1e-4, name
        assert difference < 1e-4 * largest, name


@pytest.mark.parametrize(("preset", "patch", "pool"), [("vit_tiny", 16, "cls"), ("vit_small", 32, "mean")])
@pytest.mark.parametrize("start", ["timm's", "random"])
def test_one_steps_gradients_are_timms(preset: str, patch: int, pool: str, start: str) -> None:
    theirs = timm.create_model(f"{preset}_patch16_224", patch_size=patch)
    theirs.global_pool = "token" if pool == "cls" else "avg"
    if start == "random":
        randomize(theirs)
    ours = ours_like(preset, patch, pool=pool)
    ours.load_state_dict({name: t.clone() for name, t in theirs.state_dict().items()}, assign=True)
    x, y = torch.randn(2, 3, 224, 224), torch.tensor([3, 500])
    check_gradients(ours, gradients(ours, x, y), gradients(theirs, x, y))


def test_one_steps_gradients_are_torchvisions() -> None:
    theirs = torchvision.models.get_model("vit_b_32")
    randomize(theirs)
    ours = ours_like("vit_base", 32)
    weights, _ = to_our_names({name: t.clone() for name, t in theirs.state_dict().items()}, "torchvision")
    ours.load_state_dict(weights, assign=True)
    x, y = torch.randn(2, 3, 224, 224), torch.tensor([3, 500])
    check_gradients(ours, gradients(ours, x, y), to_our_names(gradients(theirs, x, y), "torchvision")[0])


@pytest.mark.parametrize("fault", ["epsilon", "gelu"])
@torch.no_grad()
def test_the_tolerance_sees_small_faults(fault: str) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", patch_size=32).eval()
    randomize(theirs)
    ours = ours_like("vit_tiny", 32)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    x = torch.randn(1, 3, 224, 224)
    for block in theirs.blocks:
        if fault == "epsilon":
            block.norm1.eps = block.norm2.eps = 1e-5
        else:
            block.mlp.act = nn.GELU(approximate="tanh")
    assert (ours(x) - theirs(x)).abs().max() > 2e-5
