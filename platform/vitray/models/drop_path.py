"""Stochastic depth: skip a block's branch for some samples while training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero a residual branch per sample with probability ``p`` and scale the rest by 1/(1-p) (Huang et al. 2016).

    Draws from torch's global generator and keeps no state, so a training loop that reseeds it at every step decides
    every draw.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.p == 0.0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], *[1] * (x.ndim - 1)), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:g}"
