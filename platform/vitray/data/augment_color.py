"""Augmentations that change values where they stand, on uint8 (H, W, C) with C 1 or 3 (RGB).

The same formulas as torchvision's (and so PIL's), rounded to the nearest value rather than down. What concerns colour
leaves a grayscale image as it is.
"""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import numpy.typing as npt

from vitray.augment_config import ColorJitterConfig
from vitray.data.augment_draws import JITTER, Draws

U8 = npt.NDArray[np.uint8]

_EYE = np.eye(3)
_LUMA = np.array([[0.2989, 0.587, 0.114]] * 3)
_ORDERS = tuple(itertools.permutations(range(4)))


def jitter(image: U8, config: ColorJitterConfig, u: Draws) -> U8:
    """Brightness, contrast, saturation and hue changed by drawn amounts, in a drawn order."""
    hue = config.hue * (2 * u[JITTER + 4] - 1)
    for part in _ORDERS[int(u[JITTER] * len(_ORDERS))]:
        if part == 0 and config.brightness:
            image = brightness(image, _factor(config.brightness, u[JITTER + 1]))
        elif part == 1 and config.contrast:
            image = contrast(image, _factor(config.contrast, u[JITTER + 2]))
        elif part == 2 and config.saturation:
            image = saturation(image, _factor(config.saturation, u[JITTER + 3]))
        elif part == 3 and config.hue:
            image = turn_hue(image, hue)
    return image


def _factor(strength: float, u: float) -> float:
    low, high = max(0.0, 1 - strength), 1 + strength
    return low + (high - low) * u


def brightness(image: U8, factor: float) -> U8:
    """Times ``factor``."""
    return cv2.convertScaleAbs(image, alpha=factor).reshape(image.shape)


def contrast(image: U8, factor: float) -> U8:
    """Away from (``factor`` > 1) or towards the image's mean luminance."""
    gray = image if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * cv2.mean(gray)[0]).reshape(image.shape)


def saturation(image: U8, factor: float) -> U8:
    """Away from (``factor`` > 1) or towards each pixel's luminance."""
    if image.shape[2] == 1:
        return image
    return cv2.transform(image, factor * _EYE + (1 - factor) * _LUMA)


def turn_hue(image: U8, turns: float) -> U8:
    """Every hue turned by a part of the colour circle.

    In float32, since 8 bits of hue are too few: a full turn would come back up to five grey levels off.
    """
    if image.shape[2] == 1:
        return image
    hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    cv2.add(hsv, (turns % 1 * 360, 0, 0, 0), dst=hsv)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv)
    return cv2.convertScaleAbs(hsv)


def sharpness(image: U8, factor: float) -> U8:
    """Away from (``factor`` > 1) or towards the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13.

    The outermost pixels stay as they are, and so do images without an inside.
    """
    if min(image.shape[:2]) <= 2:
        return image
    # The smoothed image is nine parts of a 3x3 mean, which OpenCV computes five times faster, and four of the image.
    rest = (1 - factor) / 13
    sharp = cv2.addWeighted(image, factor + 4 * rest, cv2.blur(image, (3, 3)), 9 * rest, 0).reshape(image.shape)
    for edge in (0, -1):
        sharp[edge], sharp[:, edge] = image[edge], image[:, edge]
    return sharp


def posterize(image: U8, bits: int) -> U8:
    """Only the ``bits`` highest bits kept."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: U8, threshold: float) -> U8:
    """Values from ``threshold`` on inverted."""
    bright = cv2.threshold(image, math.ceil(threshold) - 1, 255, cv2.THRESH_BINARY)[1]
    return image ^ bright.reshape(image.shape)


def autocontrast(image: U8) -> U8:
    """Each channel stretched to reach from 0 to 255; a channel of one value stays."""
    table = np.empty((1, 256, image.shape[2]), np.uint8)
    for c, plane in enumerate(cv2.split(image)):
        low, high = cv2.minMaxLoc(plane)[:2]
        scale = 255 / (high - low) if high > low else 1.0
        table[0, :, c] = np.clip(np.rint((_VALUES - (low if high > low else 0)) * scale), 0, 255)
    return cv2.LUT(image, table).reshape(image.shape)


def equalize(image: U8) -> U8:
    """Each channel mapped so that its values become equally frequent, by PIL's integer formula."""
    table = np.empty((1, 256, image.shape[2]), np.uint8)
    for c in range(image.shape[2]):
        counts = cv2.calcHist([image], [c], None, [256], [0, 256]).ravel().astype(np.int64)
        step = (counts.sum() - counts[np.nonzero(counts)[0][-1]]) // 255
        below = np.cumsum(counts) - counts
        table[0, :, c] = np.minimum((below + step // 2) // step, 255) if step else _VALUES
    return cv2.LUT(image, table).reshape(image.shape)


_VALUES = np.arange(256)
