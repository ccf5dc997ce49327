"""RandAugment (Cubuk et al. 2019) and TrivialAugment (Müller & Hutter 2021), with torchvision's operations and ranges.

Written on OpenCV rather than by way of torchvision: data tasks then need no torch (3.6 s and 520 MB a process), every
choice is a draw of the sample instead of torch's global random state (which the training loop of the same process
uses too), and an image takes a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from vitray.augment_config import AugmentConfig
from vitray.data import augment_color as color
from vitray.data import augment_geometry as geometry
from vitray.data.augment_draws import POLICY, Draws

U8 = npt.NDArray[np.uint8]
Name = Literal["randaugment", "trivialaugment"]

LEVELS = 30  # magnitudes go from 0 to this

# The strongest magnitudes of RandAugment and TrivialAugment; a level takes its part of them, in either direction.
SIGNED: dict[str, tuple[float, float]] = {
    "ShearX": (0.3, 0.99),
    "ShearY": (0.3, 0.99),
    "TranslateX": (150 / 331, 32),  # RandAugment's are parts of the side, TrivialAugment's pixels
    "TranslateY": (150 / 331, 32),
    "Rotate": (30, 135),
    "Brightness": (0.9, 0.99),
    "Color": (0.9, 0.99),
    "Contrast": (0.9, 0.99),
    "Sharpness": (0.9, 0.99),
}
OPERATIONS = ("Identity", *SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize")

_APPLY: dict[str, Callable[[U8, float], U8]] = {
    "Identity": lambda image, _: image,
    "ShearX": geometry.shear_x,
    "ShearY": geometry.shear_y,
    "TranslateX": lambda image, pixels: geometry.shift(image, 0, int(pixels)),
    "TranslateY": lambda image, pixels: geometry.shift(image, int(pixels), 0),
    "Rotate": geometry.rotate,
    "Brightness": lambda image, change: color.brightness(image, 1 + change),
    "Color": lambda image, change: color.saturation(image, 1 + change),
    "Contrast": lambda image, change: color.contrast(image, 1 + change),
    "Sharpness": lambda image, change: color.sharpness(image, 1 + change),
    "Posterize": lambda image, bits: color.posterize(image, int(bits)),
    "Solarize": color.solarize,
    "AutoContrast": lambda image, _: color.autocontrast(image),
    "Equalize": lambda image, _: color.equalize(image),
}


def apply_policy(image: U8, config: AugmentConfig, u: Draws) -> U8:
    """``image`` (H, W, C) after the operations that the draws select; it is itself left alone."""
    if config.policy == "trivialaugment":
        return apply_operation(
            image, "trivialaugment", _pick(u[POLICY]), int(u[POLICY + 2] * (LEVELS + 1)), u[POLICY + 1]
        )
    if config.policy == "randaugment":
        for at in range(POLICY, POLICY + 3 * config.randaugment.num_ops, 3):
            image = apply_operation(image, "randaugment", _pick(u[at]), config.randaugment.magnitude, u[at + 1])
    return image


def _pick(u: float) -> str:
    return OPERATIONS[int(u * len(OPERATIONS))]


def apply_operation(image: U8, policy: Name, operation: str, level: int, u_sign: float) -> U8:
    """One operation at a level of 0 to ``LEVELS``; signed ones go backwards where ``u_sign`` is below a half."""
    return _APPLY[operation](image, magnitude(policy, operation, level, u_sign, image.shape[:2]))


def magnitude(policy: Name, operation: str, level: int, u_sign: float, size: tuple[int, ...]) -> float:
    """What a level means: a slope, pixels, degrees, a change of a factor, bits, or a threshold."""
    trivial = policy == "trivialaugment"
    if operation in SIGNED:
        value = SIGNED[operation][trivial] * level / LEVELS
        if operation.startswith("Translate") and not trivial:
            value *= size[operation == "TranslateX"]
        return -value if u_sign < 0.5 else value
    if operation == "Posterize":
        return 8 - round(level * (6 if trivial else 4) / LEVELS)
    if operation == "Solarize":
        return 255 * (1 - level / LEVELS)
    return 0.0
