"""One pre-norm encoder block.

Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitray.model_config import ModelConfig
from vitray.models.attention import Attention, AxialAttention, Layout
from vitray.models.drop_path import DropPath
from vitray.models.mlp import Mlp


class LayerScale(nn.Module):
    """Scale each channel of a branch by a learned ``gamma``, small at first (Touvron et al. 2021, CaiT, equation 3)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2021, equations 2 and 3)."""

    def __init__(self, config: ModelConfig, drop_path: float) -> None:
        super().__init__()
        dim = config.embed_dim
        attention = AxialAttention if config.attention == "axial" else Attention
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention(
            dim,
            config.num_heads,
            attn_drop=config.attn_dropout,
            proj_drop=config.dropout,
            qk_norm=config.qk_norm,
        )
        self.ls1 = LayerScale(dim, config.layer_scale) if config.layer_scale else nn.Identity()
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.dropout)
        self.ls2 = LayerScale(dim, config.layer_scale) if config.layer_scale else nn.Identity()
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), layout)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
