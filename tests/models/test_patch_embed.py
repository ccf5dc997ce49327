"""Patches are what the paper says, and both ways to project them give the same numbers."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.models.patch_embed import PatchEmbed, patches


@pytest.mark.parametrize(
    ("chans", "patch", "size"), [(1, 1, (3, 4)), (1, 2, (8, 8)), (3, 4, (8, 12)), (4, 16, (32, 16))]
)
def test_convolution_and_linear_agree_forward_and_backward(chans: int, patch: int, size: tuple[int, int]) -> None:
    conv, linear = PatchEmbed(chans, patch, 8, "conv"), PatchEmbed(chans, patch, 8, "linear")
    linear.load_state_dict(conv.state_dict())
    x = torch.randn(2, chans, *size)
    a, b = conv(x), linear(x)
    assert a.shape == (2, (size[0] // patch) * (size[1] // patch), 8)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    for out in (a, b):
        out.square().sum().backward()
    torch.testing.assert_close(conv.proj.weight.grad, linear.proj.weight.grad, rtol=1e-5, atol=1e-4)


@settings(max_examples=10)
@given(
    chans=st.integers(1, 5), patch=st.integers(1, 5), h=st.integers(1, 4), w=st.integers(1, 4),
    kind=st.sampled_from(["conv", "linear"]), data=st.data(),
)  # fmt: skip
def test_a_pixel_changes_the_token_of_its_patch_alone(
    chans: int, patch: int, h: int, w: int, kind: Literal["conv", "linear"], data: st.DataObject
) -> None:
    embed, x = PatchEmbed(chans, patch, 8, kind), torch.randn(1, chans, h * patch, w * patch)
    y, column = data.draw(st.integers(0, h * patch - 1)), data.draw(st.integers(0, w * patch - 1))
    changed = x.clone()
    changed[0, data.draw(st.integers(0, chans - 1)), y, column] += 1
    moved = (embed(changed) - embed(x)).abs().amax(-1)[0] > 1e-4
    assert moved.nonzero().flatten().tolist() == [y // patch * w + column // patch]


def test_patches_come_in_reading_order_channel_by_channel() -> None:
    x = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    got = patches(x, 2)
    for row in range(2):
        for column in range(3):
            window = x[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert got[0, row * 3 + column].tolist() == window.flatten().tolist()


def test_channels_last_images_give_the_same_tokens() -> None:
    x = torch.randn(2, 3, 8, 8)
    for kind in ("conv", "linear"):
        embed = PatchEmbed(3, 2, 16, kind)
        torch.testing.assert_close(embed(x), embed(x.to(memory_format=torch.channels_last)), rtol=0, atol=1e-5)
