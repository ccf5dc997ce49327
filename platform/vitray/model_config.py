"""The shape of a Vision Transformer: its config, and models of known sizes by name.

Imports neither Ray, torch nor MLflow, so that a config is checked in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vitray.config_base import ImageSize, Probability, Section
from vitray.errors import ConfigError, nearest

# An order of magnitude beyond the largest models there are (ViT-22B: 6,144 features, 48 blocks): a slip of the hand
# gets an answer at once, instead of numbers that no machine can multiply.
LARGEST, MOST = 65_536, 1_024
Size = Annotated[int, Field(gt=0, le=LARGEST)]  # pixels or features
Count = Annotated[int, Field(gt=0, le=MOST)]
Classes = Annotated[int, Field(gt=0, le=2**31)]

PosEncoding = Literal["none", "learned", "sinusoidal", "sinusoidal_2d", "relative", "rope_2d"]
COMPUTED: tuple[PosEncoding, ...] = ("sinusoidal", "sinusoidal_2d", "rope_2d")  # by a formula, from places on a grid


def divisors(n: int) -> list[int]:
    """In rising order."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def sides(size: ImageSize) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _closest(value: int, valid: Sequence[int]) -> str:
    below = [v for v in valid if v < value][-1:]
    above = [v for v in valid if v > value][:1]
    return " or ".join(str(v) for v in below + above)


# Width, depth and heads by name: timm's for the vit_ family, and small ones for images of a few hundred pixels.
PRESETS: dict[str, tuple[int, int, int]] = {
    "vit_nano": (64, 4, 4),
    "vit_micro": (128, 6, 4),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}


class ModelConfig(Section):
    """A Vision Transformer's shape. Sizes in pixels; ``image_size`` is a side or (height, width).

    ``pos_grid``: the grid of patches (down, across) that computed positions count in; None, the model's own. A model
    that begins with weights made for another grid keeps their places by counting in theirs.
    """

    image_size: Size | tuple[Size, Size] | None = None
    patch_size: Size = 16
    in_chans: Size | None = None
    num_classes: Classes | None = None
    embed_dim: Size = 192
    depth: Count = 12
    num_heads: Count = 3
    mlp_ratio: Annotated[float, Field(gt=0, le=MOST)] = 4.0
    pos_encoding: PosEncoding = "learned"
    pos_grid: tuple[Size, Size] | None = None
    attention: Literal["full", "axial"] = "full"
    pool: Literal["cls", "mean"] = "cls"
    patch_embed: Literal["conv", "linear"] = "conv"
    dropout: Probability = 0.0
    attn_dropout: Probability = 0.0
    drop_path: Probability = 0.0
    registers: Annotated[int, Field(ge=0, le=MOST)] = 0
    layer_scale: Annotated[float, Field(gt=0)] | None = None
    qk_norm: bool = False

    @classmethod
    def preset(cls, name: str, *, patch_size: int = 16, **changes: Any) -> ModelConfig:
        """A model of a known size, e.g. ``ModelConfig.preset("vit_base", patch_size=32, pool="mean")``.

        Raises:
            ConfigError: no such preset, or a change that does not fit.
        """
        if name not in PRESETS:
            raise ConfigError(f"there is no preset {name!r}", where="model", remedy=nearest(name, PRESETS))
        embed_dim, depth, num_heads = PRESETS[name]
        size = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
        return cls(**size | {"patch_size": patch_size} | changes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width); the model must be resolved."""
        assert self.image_size is not None, "image_size is filled in by Experiment.resolve"
        return sides(self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across)."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    @property
    def reference_grid(self) -> tuple[int, int]:
        """Patches (down, across) of the grid that computed positions count in."""
        return self.pos_grid or self.grid

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        """Width before heads, so that whatever an error offers is enough to mend it."""
        self._check_width()
        self._check_heads()
        self._check_patch()
        if self.pos_grid is not None and self.pos_encoding not in COMPUTED:
            raise ValueError(
                f"pos_grid means nothing to pos_encoding {self.pos_encoding}, which computes no places; leave it unset,"
                f" or choose one of {', '.join(COMPUTED)}"
            )
        if int(self.embed_dim * self.mlp_ratio) < 1:
            smallest = math.ceil(1e6 / self.embed_dim) / 1e6
            raise ValueError(
                f"mlp_ratio {self.mlp_ratio:g} of embed_dim {self.embed_dim} leaves the MLP no hidden feature; "
                f"the smallest that does: {smallest:g}"
            )
        return self

    def _check_width(self) -> None:
        multiple, why = {
            "rope_2d": (4, "rotates pairs on two axes"),
            "sinusoidal_2d": (4, "gives each axis sines and cosines"),
            "sinusoidal": (2, "pairs sines with cosines"),
        }.get(self.pos_encoding, (1, ""))
        if self.embed_dim % multiple:
            step = multiple * self.num_heads if self.pos_encoding == "rope_2d" else math.lcm(multiple, self.num_heads)
            low = self.embed_dim // step * step
            fit = " or ".join(str(width) for width in (low, low + step) if 0 < width <= LARGEST)
            raise ValueError(
                f"{self.pos_encoding} {why}, so embed_dim must be a multiple of {multiple}, not {self.embed_dim}; "
                f"embed_dim that fit: {fit}"
            )

    def _check_heads(self) -> None:
        width, heads = self.embed_dim, self.num_heads
        rotary = self.pos_encoding == "rope_2d"
        fit = [h for h in divisors(width) if h <= MOST and not (rotary and width // h % 4)]
        if width % heads:
            raise ValueError(
                f"num_heads {heads} does not divide embed_dim {width}; nearest that do: {_closest(heads, fit)}"
            )
        if heads not in fit:
            raise ValueError(
                f"rope_2d rotates pairs on two axes, so embed_dim / num_heads must be a multiple of 4, not "
                f"{width // heads}; num_heads that fit: {', '.join(map(str, fit))}"
            )

    def _check_patch(self) -> None:
        for side in set(self.size) if self.image_size is not None else ():
            if side % self.patch_size:
                common = [d for d in divisors(self.size[0]) if self.size[1] % d == 0]
                raise ValueError(
                    f"patch_size {self.patch_size} does not divide image_size {side}; "
                    f"nearest that do: {_closest(self.patch_size, common)}"
                )
