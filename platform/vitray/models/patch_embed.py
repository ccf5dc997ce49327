"""Cut an image into square patches and project each to a token.

Shapes: B batch, C channels, H x W pixels, P patch side, h x w = H/P x W/P patches, N = h*w, D width.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Linear projection of flattened patches (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", equation 1).

    A convolution whose stride is its kernel and a matrix product over flattened patches are the same sum in another
    order. Both ways keep the weight in the convolution's shape (D, C, P, P) under timm's name ``proj``, so weights
    interchange between them and with timm.
    """

    def __init__(
        self, in_chans: int, patch_size: int, embed_dim: int, kind: Literal["conv", "linear"] = "conv"
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.kind = kind
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, D), patches in reading order: left to right, then top to bottom."""
        if self.kind == "conv":
            return self.proj(images).flatten(2).transpose(1, 2)
        return F.linear(patches(images, self.patch_size), self.proj.weight.flatten(1), self.proj.bias)


def patches(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, N, C*P*P): each patch flattened channel by channel, as a convolution's kernel is."""
    b, c, height, width = images.shape
    p = patch_size
    blocks = images.reshape(b, c, height // p, p, width // p, p)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(b, (height // p) * (width // p), c * p * p)
