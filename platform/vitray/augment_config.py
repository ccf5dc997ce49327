"""Training-time augmentation as config sections: what may be set, and within which ranges.

A range that is not possible is refused at construction, before any image is read.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vitray.config_base import Section

Chance = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]
Range = tuple[float, float]


def _check_range(name: str, values: Range, *, most: float | None = None) -> None:
    low, high = values
    if not 0 < low <= high <= (high if most is None else most):
        limit = "" if most is None else f" <= {most}"
        raise ValueError(f"{name} must satisfy 0 < low <= high{limit}, not {values}")


class ColorJitterConfig(Section):
    """Random brightness, contrast, saturation and hue, in a random order, as torchvision's ColorJitter draws them.

    A strength ``s`` draws its factor from [max(0, 1 - s), 1 + s]; ``hue`` turns by at most that part of the circle.
    """

    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class ErasingConfig(Section):
    """Random erasing (Zhong et al. 2017): with ``probability``, a box becomes black (0) or random pixels.

    ``scale`` is the box's part of the image's area, ``ratio`` its height over its width.
    """

    probability: Chance = 0.0
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    value: Literal[0, "random"] = 0

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        _check_range("scale", self.scale, most=1)
        _check_range("ratio", self.ratio)
        return self


class RandAugmentConfig(Section):
    """``num_ops`` operations an image, at ``magnitude`` of 0 to 30 (Cubuk et al. 2019)."""

    num_ops: Annotated[int, Field(ge=1, le=10)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class AugmentConfig(Section):
    """Training-time augmentation; each part off by default, drawn per sample from (seed, epoch, sample id).

    Applied in the order of the keys here. ``shift`` is in pixels of the image that training
    sees. ``randaugment`` counts only with ``policy: randaugment``.
    """

    crop: bool = False
    crop_scale: Range = (0.08, 1.0)
    crop_ratio: Range = (3 / 4, 4 / 3)
    flip: bool = False
    shift: Annotated[int, Field(ge=0)] = 0
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    randaugment: RandAugmentConfig = RandAugmentConfig()
    color_jitter: ColorJitterConfig = ColorJitterConfig()
    erasing: ErasingConfig = ErasingConfig()

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        _check_range("crop_scale", self.crop_scale, most=1)
        _check_range("crop_ratio", self.crop_ratio)
        return self
