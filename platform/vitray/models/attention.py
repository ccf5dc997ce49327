"""Self-attention over all tokens, or along the two axes of the image.

Shapes: B batch, E prefix tokens (class token, registers), h x w patches, N = h*w, T = E + N tokens, D width, A heads,
K = D/A head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitray.models.attend import attend
from vitray.models.position import AxialBias, Rotation
from vitray.models.resize import Grid


class Layout(NamedTuple):
    """Where the tokens lie and what their positions do to attention."""

    grid: Grid
    prefix: int
    rotation: Rotation | None = None
    full_bias: Tensor | None = None
    axial_bias: AxialBias | None = None


class Attention(nn.Module):
    """Multi-head self-attention over all tokens (Vaswani et al. 2017, section 3.2.2); with one head, single-head.

    ``qk_norm`` normalises queries and keys per head before the product (Dehghani et al. 2023, ViT-22B, equation 4).
    """

    def __init__(
        self, dim: int, num_heads: int, *, attn_drop: float = 0.0, proj_drop: float = 0.0, qk_norm: bool = False
    ):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.attn_drop = attn_drop
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        mixed = self.mix(*self.project(x, layout), layout)
        return self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(x.shape)))

    def project(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> queries, keys and values, (B, A, T, K) each; the first two normalised and rotated."""
        b, t, d = x.shape
        heads = (b, t, self.num_heads, d // self.num_heads)
        # Split along the width: backward then joins three gradients in one pass, where a stack would need two.
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)  # autocast normalises in float32
        if layout.rotation is not None:
            q, k = layout.rotation(q), layout.rotation(k)
        return q, k, v

    @property
    def dropout(self) -> float:
        return self.attn_drop if self.training else 0.0

    def mix(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """(B, A, T, K) three times -> (B, A, T, K): every token attends to every token, O(T^2)."""
        return attend(q, k, v, layout.full_bias, self.dropout)


class AxialAttention(Attention):
    """Attention along height, then along width (Ho et al. 2019; Wang et al. 2020, Axial-DeepLab), O(N sqrt N).

    With one set of queries, keys and values a block, so that parameters and checkpoints are those of full attention:

    - height: every patch attends within its column, y = softmax(q k^T / sqrt(K)) v;
    - width: every patch attends within its row to what the first step gathered, z = softmax(q k^T / sqrt(K)) y.

    The product of the two reaches every patch from every other in a single block. Prefix tokens (class token,
    registers) belong to no row: they are extra keys in every column and row, so every patch sees them, and they attend
    to all tokens at once, exactly as under full attention, which costs O(N) each.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        e, (h, w), bias = layout.prefix, layout.grid, layout.axial_bias
        prefix = attend(q[:, :, :e], k, v, bias.prefix if bias else None, self.dropout)
        q2, k2, v2 = (x[:, :, e:].unflatten(2, (h, w)) for x in (q, k, v))  # (B, A, h, w, K)
        kp, vp = k[:, :, :e], v[:, :, :e]

        q_, k_, v_ = (x.permute(0, 3, 1, 2, 4) for x in (q2, k2, v2))  # (B, w, A, h, K)
        y = self._lines(q_, k_, v_, kp, vp, bias.height if bias else None).permute(0, 2, 3, 1, 4)  # (B, A, h, w, K)
        q_, k_, v_ = (x.transpose(1, 2) for x in (q2, k2, y))  # (B, h, A, w, K)
        z = self._lines(q_, k_, v_, kp, vp, bias.width if bias else None).transpose(1, 2)  # (B, A, h, w, K)
        return torch.cat((prefix, z.flatten(2, 3)), dim=2)

    def _lines(self, q: Tensor, k: Tensor, v: Tensor, kp: Tensor, vp: Tensor, bias: Tensor | None) -> Tensor:
        """Attention within each line, prefix tokens as extra keys. (B, L, A, n, K), prefix (B, A, E, K)."""
        batch, lines = q.shape[:2]
        k, v = (
            torch.cat((extra[:, None].expand(-1, lines, -1, -1, -1), own), dim=3).flatten(0, 1)
            for extra, own in ((kp, k), (vp, v))
        )
        return attend(q.flatten(0, 1), k, v, bias, self.dropout).unflatten(0, (batch, lines))
