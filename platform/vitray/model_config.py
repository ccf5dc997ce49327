"""The shape of a Vision Transformer: its config, and models of known sizes by name.

Imports neither Ray, torch nor MLflow, so that a config is checked in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vitray.config_base import ImageSize, Positive, Probability, Section
from vitray.errors import ConfigError, nearest

PosEncoding = Literal["none", "learned", "sinusoidal", "sinusoidal_2d", "relative", "rope_2d"]


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
    """A Vision Transformer's shape. Sizes in pixels; ``image_size`` is a side or (height, width)."""

    image_size: ImageSize | None = None
    patch_size: Positive = 16
    in_chans: Positive | None = None
    num_classes: Positive | None = None
    embed_dim: Positive = 192
    depth: Positive = 12
    num_heads: Positive = 3
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    pos_encoding: PosEncoding = "learned"
    attention: Literal["full", "axial"] = "full"
    pool: Literal["cls", "mean"] = "cls"
    patch_embed: Literal["conv", "linear"] = "conv"
    dropout: Probability = 0.0
    attn_dropout: Probability = 0.0
    drop_path: Probability = 0.0
    registers: Annotated[int, Field(ge=0)] = 0
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

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.embed_dim % self.num_heads:
            heads = divisors(self.embed_dim)
            if self.pos_encoding == "rope_2d":
                heads = [h for h in heads if self.embed_dim // h % 4 == 0] or heads
            raise ValueError(
                f"num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}; "
                f"nearest that do: {_closest(self.num_heads, heads)}"
            )
        if self.image_size is not None:
            for side in set(self.size):
                if side % self.patch_size:
                    common = [d for d in divisors(self.size[0]) if self.size[1] % d == 0]
                    raise ValueError(
                        f"patch_size {self.patch_size} does not divide image_size {side}; "
                        f"nearest that do: {_closest(self.patch_size, common)}"
                    )
        width, head = self.embed_dim, self.embed_dim // self.num_heads
        if self.pos_encoding == "rope_2d" and head % 4:
            fit = [h for h in divisors(width) if width // h % 4 == 0]
            advice = f"num_heads that fit: {', '.join(map(str, fit))}" if fit else self._widths(4 * self.num_heads)
            raise ValueError(
                f"rope_2d rotates pairs on two axes, so embed_dim / num_heads must be a multiple of 4, not {head}; "
                f"{advice}"
            )
        if self.pos_encoding == "sinusoidal_2d" and width % 4:
            raise ValueError(
                f"sinusoidal_2d gives each axis sines and cosines, so embed_dim must be a multiple of 4, not {width}; "
                f"{self._widths(math.lcm(4, self.num_heads))}"
            )
        if self.pos_encoding == "sinusoidal" and width % 2:
            raise ValueError(
                f"sinusoidal pairs sines with cosines, so embed_dim must be even, not {width}; "
                f"{self._widths(math.lcm(2, self.num_heads))}"
            )
        return self

    def _widths(self, multiple: int) -> str:
        low = self.embed_dim // multiple * multiple
        return f"embed_dim that fit: {' or '.join(str(v) for v in (low, low + multiple) if v)}"
