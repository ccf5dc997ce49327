"""Every kind of model learns, in float32 and in bfloat16."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from small_models import ENCODINGS
from torch import Tensor

from vitray.model_config import ModelConfig
from vitray.models import VisionTransformer

pytestmark = pytest.mark.slow

ATTENTIONS, POOLS = ("full", "axial"), ("cls", "mean")


def model_of(width: int = 32, **changes: str) -> VisionTransformer:
    """For 8 x 8 grey pixels in patches of 2."""
    return VisionTransformer(
        ModelConfig(
            image_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=width, depth=2, num_heads=4, **changes
        )
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "attention", "pool"), list(product(ENCODINGS, ATTENTIONS, POOLS)))
def test_every_combination_overfits_64_images(kind: str, attention: str, pool: str) -> None:
    """Noise with labels drawn at random: nothing helps but to remember each. Takes 17 to 40 steps of the 100."""
    model = model_of(pos_encoding=kind, attention=attention, pool=pool)
    images, labels = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0, fused=True)

    def right() -> int:
        with torch.no_grad():
            return int(model.eval()(images).argmax(1).eq(labels).sum())

    assert right() < 30
    for step in range(100):
        F.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 4 and right() == 64:
            return
    pytest.fail(f"only {right()} of 64 images are remembered")


def losses(kind: str, attention: str, autocast: bool) -> Tensor:
    """Of 50 steps on real digits, always from the same weights."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)
    model = model_of(64, pos_encoding=kind, attention=attention)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4, weight_decay=0.05, fused=True)
    found = []
    for x, y in list(zip(images.split(32), labels.split(32), strict=True))[:50]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.detach())
    return torch.stack(found)


@pytest.mark.parametrize(("kind", "attention"), list(product(ENCODINGS, ATTENTIONS)))
def test_bfloat16_losses_stay_within_2_percent_of_float32_at_every_step(kind: str, attention: str) -> None:
    """At each of 50 steps, not on average. Near zero any difference is large, but the losses end at 1.3 or more."""
    low, full = losses(kind, attention, True), losses(kind, attention, False)
    assert not torch.equal(low, full), "autocast had no effect"
    assert full[-5:].mean() < full[:5].mean(), "it learns meanwhile"
    assert ((low - full).abs() / full).max() < 0.02
