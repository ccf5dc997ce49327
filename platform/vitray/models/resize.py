"""Fit learned tensors to another patch size or grid.

Shapes: D width, C channels, P x P the patch, N patches, h x w patches, L blocks, A heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def resize_table(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Interpolate a position table (1, 1 + N, D) bicubically to another grid; the class token's row is kept.

    Dosovitskiy et al. 2021, section 3.2, with an antialiasing filter when the grid shrinks.
    """
    if old == new:
        return table
    h, w = old
    image = table[:, 1:].reshape(1, h, w, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image.float(), new, mode="bicubic", antialias=True).to(table.dtype)
    return torch.cat((table[:, :1], resized.flatten(2).transpose(1, 2)), dim=1)


def resize_offsets(table: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate a table by offset (L, A, 2 h - 1, 2 w - 1) or (L, A, 2 h - 1) to the offsets of another grid.

    The outermost offsets are the image's own size and stay so, as in Liu et al. 2021 (Swin), section 3.2.
    """
    if table.shape[2:] == tuple(size):
        return table
    mode = "bicubic" if table.ndim == 4 else "linear"
    return F.interpolate(table.float(), tuple(size), mode=mode, align_corners=True).to(table.dtype)


def resize_kernel(kernel: Tensor, patch_size: int) -> Tensor:
    """Resize a patch embedding (D, C, P, P) so that resized patches give the same tokens (Beyer et al. 2023, FlexiViT).

    If x is a patch and B the matrix that resizes it, the paper's equation 4 asks for <x, w> = <B x, w'>, which
    w' = pinv(B)^T w solves: exactly when the patch grows, in the least-squares sense when it shrinks. Interpolating the
    kernel like an image instead would scale every token by the change in pixels.
    """
    d, c, p, _ = kernel.shape
    if p == patch_size:
        return kernel
    basis = torch.eye(p * p, dtype=torch.float64).reshape(p * p, 1, p, p)
    resized = F.interpolate(basis, (patch_size, patch_size), mode="bilinear", antialias=True)
    inverse = torch.linalg.pinv(resized.reshape(p * p, -1))  # of B^T, so (new, old)
    flat = kernel.detach().cpu().double().reshape(d, c, p * p) @ inverse.T
    return flat.reshape(d, c, patch_size, patch_size).to(kernel)
