"""Positional encodings: how a token learns where its patch lies.

Shapes: h x w patches, N = h*w, E prefix tokens (the class token, then registers), T = E + N, D width, A heads,
K = D/A head width. Patch n lies in row y = n // w and column x = n % w.

An encoding can act in three places, and :class:`Position` has a method for each: it adds a table to the tokens before
the first block (absolute encodings), adds a bias to the attention logits (relative), or rotates queries and keys
(rotary). The model calls all three; an encoding answers None where it does nothing. Whatever follows from a formula
is computed for the grid at hand, so it is never stale, saved or broadcast; what was learned for one grid is
interpolated to another.

An image of another size is the same picture, coarser or finer. So a place is its part of the picture: lengths are in
patches of a reference grid h0 x w0, that of the model's own images unless ``pos_grid`` names another, and on h x w
patches the centre of row y lies at (y + 1/2) h0/h - 1/2. Learned tables are interpolated so ever since the ViT paper;
formulas follow (as in EVA-02's rotary encoding and in position interpolation, Chen et al. 2023). To count patches
instead would continue the picture beyond its edge, where no training has been: trained on digits of 6 x 6 patches and
asked at 9 x 9, such models answer 0.1 to 0.5 of them right, instead of 0.6 to 0.95
(tests/models/test_other_resolution.py).

A class token has no place in the image. Tutorials often number it as position 0, which shifts every patch by one and
gives the class token a meaningless place; here formulas give it (and registers) zeros, an unrotated query and key, or
an offset-free bias of their own. Only ``learned`` gives the class token a row, because ViT and timm's weights have it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitray.model_config import ModelConfig
from vitray.models.resize import Grid, resize_offsets, resize_table


class Rotation(NamedTuple):
    """Cosines and sines (T, K/2) of each token's angles; feature i is paired with feature i + K/2."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate (..., T, K): each pair (a, b) becomes (a cos - b sin, a sin + b cos). Keeps the dtype."""
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * self.cos - b * self.sin, a * self.sin + b * self.cos), dim=-1).to(x.dtype)


class AxialBias(NamedTuple):
    """Biases of the three attentions that make axial attention: in a column, in a row, and from the prefix."""

    height: Tensor  # (A, h, E + h)
    width: Tensor  # (A, w, E + w)
    prefix: Tensor  # (A, E, T)


class Position(nn.Module):
    """``none``: no encoding, and the interface of all others. Without one, a ViT sees a bag of patches."""

    qk_bias_std = 0.0  # how the biases of queries and keys start

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.depth = config.embed_dim, config.num_heads, config.depth
        self.grid: Grid = config.grid
        self.reference: Grid = config.reference_grid
        self.prefix = 1 + config.registers

    def places(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and column (N,) of every patch of ``grid`` in reading order, in patches of the reference grid."""
        y, x = coordinates(grid, device)
        (h, w), (h0, w0) = grid, self.reference
        return (y + 0.5) * (h0 / h) - 0.5, (x + 0.5) * (w0 / w) - 0.5

    def new_table(self) -> nn.Parameter | None:
        """The parameter ``pos_embed`` that the model must own; it has timm's name, so it cannot live in here."""
        return None

    def init_weights(self, pos_embed: Tensor | None) -> None:
        """Fill the parameters of this encoding, so that place starts with as much weight as content."""

    def table(self, grid: Grid, pos_embed: Tensor | None, device: torch.device) -> Tensor | None:
        """What is added to the tokens, (T, D) or (1, T, D)."""
        return None

    def rotation(self, grid: Grid, device: torch.device) -> Rotation | None:
        """What queries and keys are rotated by."""
        return None

    def full_bias(self, grid: Grid, block: int) -> Tensor | None:
        """What is added to the logits of full attention in a block, (A, T, T): row the query, column the key."""
        return None

    def axial_bias(self, grid: Grid, block: int) -> AxialBias | None:
        """What is added to the logits of axial attention in a block."""
        return None


class Learned(Position):
    """One trained vector a position (Dosovitskiy et al. 2021, equation 1: z_0 = [x_class; x_p E] + E_pos).

    The class token has a row of its own, as in the paper. Registers have none (Darcet et al. 2024). Another grid gets
    the patch rows by bicubic interpolation, as in the paper's section 3.2; the class token's row stays.
    """

    def new_table(self) -> nn.Parameter:
        h, w = self.grid
        return nn.Parameter(torch.empty(1, 1 + h * w, self.embed_dim))

    def init_weights(self, pos_embed: Tensor | None) -> None:
        assert pos_embed is not None
        nn.init.trunc_normal_(pos_embed, std=0.5)  # about what the sinusoids have

    def table(self, grid: Grid, pos_embed: Tensor | None, device: torch.device) -> Tensor:
        assert pos_embed is not None
        table = resize_table(pos_embed, self.grid, grid)
        if self.prefix == 1:
            return table
        return torch.cat((table[:, :1], table.new_zeros(1, self.prefix - 1, self.embed_dim), table[:, 1:]), dim=1)


class Sinusoidal(Position):
    """Fixed sines and cosines over the sequence of patches (Vaswani et al. 2017, section 3.5).

    PE(n, 2i) = sin(n / 10000^(2i/D)), PE(n, 2i+1) = cos(n / 10000^(2i/D)), patches numbered from 0 in reading order.

    A number is row and column in one, so on another grid it means another place. There a patch gets the number that its
    centre has on the reference grid: that grid's width times the row it lies in, plus its column, a broken number.
    """

    def table(self, grid: Grid, pos_embed: Tensor | None, device: torch.device) -> Tensor:
        (h, w), (h0, w0) = grid, self.reference
        row = (2 * torch.arange(h, device=device) + 1) * h0 // (2 * h)  # in whole numbers: no rounding at the borders
        numbers = row.repeat_interleave(w) * w0 + self.places(grid, device)[1]
        angles = torch.outer(numbers, frequencies(self.embed_dim // 2, base=10000.0, device=device))
        interleaved = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
        return F.pad(interleaved, (0, 0, self.prefix, 0))


class Sinusoidal2d(Position):
    """Fixed sines and cosines of row and column (Chen, Xie and He 2021, MoCo v3; He et al. 2022, MAE).

    With f_i = 10000^(-i/(D/4)) for 0 <= i < D/4, PE(y, x) = [sin(y f), cos(y f), sin(x f), cos(x f)]. Some tutorials
    code y by sines alone and x by cosines alone; then a shift is no rotation of the code, which is what sinusoids are
    for.
    """

    def table(self, grid: Grid, pos_embed: Tensor | None, device: torch.device) -> Tensor:
        f = frequencies(self.embed_dim // 4, base=10000.0, device=device)
        y, x = (torch.outer(c, f) for c in self.places(grid, device))
        return F.pad(torch.cat((y.sin(), y.cos(), x.sin(), x.cos()), dim=-1), (0, 0, self.prefix, 0))


class Relative(Position):
    """A learned bias on the logits by the 2-D offset from query to key (Liu et al. 2021, Swin, equation 4).

    softmax(Q K^T / sqrt(K) + B), B[a, n, m] = table[a, y_m - y_n, x_m - x_n], a table for every block and head. As in
    BEiT (Bao et al. 2022) prefix tokens have offset-free biases: prefix to patch, patch to prefix, prefix to prefix.
    Axial attention meets offsets along one axis at a time, so it keeps a table for each axis.

    The tables start at random with logits of standard deviation 2: from zero, where Swin starts, attention is blind to
    place, and a short training never learns to look.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        (h, w), prefix = self.grid, self.prefix
        shape = (self.depth, self.num_heads)
        self.axial = config.attention == "axial"
        if self.axial:
            self.height = nn.Parameter(torch.empty(*shape, 2 * h - 1))
            self.width = nn.Parameter(torch.empty(*shape, 2 * w - 1))
        else:
            self.offset = nn.Parameter(torch.empty(*shape, 2 * h - 1, 2 * w - 1))
        self.prefix_to_patch = nn.Parameter(torch.empty(*shape, prefix))
        self.patch_to_prefix = nn.Parameter(torch.empty(*shape, prefix))
        self.prefix_to_prefix = nn.Parameter(torch.empty(*shape, prefix, prefix))

    def init_weights(self, pos_embed: Tensor | None) -> None:
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=2.0)

    def full_bias(self, grid: Grid, block: int) -> Tensor:
        h, w = grid
        table = resize_offsets(self.offset[block, None], (2 * h - 1, 2 * w - 1))[0]
        # Every h x w window of the table is one query's view; the last window belongs to the first query. Windows are
        # views, so this needs no index table, and its backward is a plain sum instead of a scatter.
        patches = table.unfold(1, h, 1).unfold(2, w, 1).flip(1, 2).reshape(-1, h * w, h * w)
        left = self.patch_to_prefix[block, :, None].expand(-1, h * w, -1)
        return torch.cat((self._from_prefix(h * w, block), torch.cat((left, patches), dim=2)), dim=1)

    def axial_bias(self, grid: Grid, block: int) -> AxialBias:
        h, w = grid
        height, width = self._line(self.height[block], h, block), self._line(self.width[block], w, block)
        return AxialBias(height, width, self._from_prefix(h * w, block))

    def _line(self, table: Tensor, length: int, block: int) -> Tensor:
        """(A, 2 h - 1) -> (A, length, E + length): the bias within one column or row."""
        line = resize_offsets(table[None], (2 * length - 1,))[0].unfold(1, length, 1).flip(1)
        return torch.cat((self.patch_to_prefix[block, :, None].expand(-1, length, -1), line), dim=2)

    def _from_prefix(self, patches: int, block: int) -> Tensor:
        """(A, E, T): the rows of the prefix tokens."""
        to_patches = self.prefix_to_patch[block, :, :, None].expand(-1, -1, patches)
        return torch.cat((self.prefix_to_prefix[block], to_patches), dim=2)


class Rope2d(Position):
    """Axial rotary encoding of queries and keys (Su et al. 2021, RoFormer; Heo et al. 2024, RoPE-ViT, section 3.2).

    With theta_t = 100^(-t/(K/4)) for 0 <= t < K/4, pair t of a head's K/2 feature pairs is rotated by y theta_t and
    pair K/4 + t by x theta_t, so that q . k depends on the offset alone. The base is 100, not 10000: a row has tens of
    patches, not thousands of words. Which features form a pair is a convention; here i goes with i + K/2, two
    contiguous halves. Prefix tokens are not rotated.

    Rotating content that is still random tells little about place, so the biases of queries and keys start at random:
    rotated against each other they make a pattern over offsets, different in every block and head.
    """

    qk_bias_std = 2.0

    def rotation(self, grid: Grid, device: torch.device) -> Rotation:
        f = frequencies(self.embed_dim // self.num_heads // 4, base=100.0, device=device)
        angles = torch.cat([torch.outer(c, f) for c in self.places(grid, device)], dim=-1)
        angles = F.pad(angles, (0, 0, self.prefix, 0))
        return Rotation(angles.cos(), angles.sin())


def frequencies(count: int, *, base: float, device: torch.device | None = None) -> Tensor:
    """base^(-i/count) for 0 <= i < count."""
    return torch.exp(torch.arange(count, device=device) * (-math.log(base) / count))


def coordinates(grid: Grid, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Row and column (N,) of every patch in reading order."""
    y, x = torch.meshgrid(*(torch.arange(n, device=device).float() for n in grid), indexing="ij")
    return y.flatten(), x.flatten()


KINDS: dict[str, type[Position]] = {
    "none": Position,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "sinusoidal_2d": Sinusoidal2d,
    "relative": Relative,
    "rope_2d": Rope2d,
}


def build_position(config: ModelConfig) -> Position:
    """The encoding that ``config.pos_encoding`` names."""
    return KINDS[config.pos_encoding](config)
