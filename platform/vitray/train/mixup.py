"""MixUp (Zhang et al. 2018) whose partners and weights follow from the position in the global batch.

Rows 2i and 2i+1 of a step are partners, with one weight a pair drawn from (seed, step, i), so that a changed number of
ranks mixes the same images in the same proportions. The order aligns ranks to pairs where mixup is on.
"""

from __future__ import annotations

import numpy as np
import torch

from vitray.data.rng import key


def pair_weights(seed: int, step: int, first_row: int, rows: int, alpha: float) -> torch.Tensor:
    """Weight of each row's own image, float32 (rows,), for rows ``first_row ..`` of a step; in [0.5, 1]."""
    assert first_row % 2 == 0, "a rank starts at a pair"
    pairs = (first_row + rows + 1) // 2
    generator = np.random.Generator(np.random.Philox(key=key("mixup", seed, step)))
    drawn = generator.beta(alpha, alpha, size=pairs)[first_row // 2 :]
    return torch.from_numpy(np.repeat(np.maximum(drawn, 1 - drawn), 2)[:rows].astype(np.float32))


def partners(rows: int) -> torch.Tensor:
    """Index of each row's partner, int64 (rows,); a row left over is its own."""
    index = torch.arange(rows) ^ 1
    return torch.where(index < rows, index, torch.arange(rows))
