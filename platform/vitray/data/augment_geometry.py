"""Augmentations that move pixels: crop and resize, shift, shear, rotate. Images are uint8 (H, W, C)."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from vitray.augment_config import AugmentConfig
from vitray.data.augment_draws import BOX_TRIES, CROP, Draws
from vitray.data.decode import interpolation

U8 = npt.NDArray[np.uint8]


def crop_box(height: int, width: int, augment: AugmentConfig, u: Draws) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random-resized crop (Szegedy et al. 2015, as torchvision draws it).

    Area uniform in ``crop_scale``, aspect ratio log-uniform in ``crop_ratio``; after ten misses the largest central
    crop whose ratio is allowed.
    """
    (low, high), (narrow, wide) = augment.crop_scale, augment.crop_ratio
    log_narrow, log_span = math.log(narrow), math.log(wide / narrow)
    for i in range(CROP, CROP + 4 * BOX_TRIES, 4):
        area = height * width * (low + (high - low) * u[i])
        ratio = math.exp(log_narrow + log_span * u[i + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(u[i + 2] * (height - h + 1)), int(u[i + 3] * (width - w + 1)), h, w
    ratio = min(max(width / height, narrow), wide)
    w = min(width, max(1, round(height * ratio)))
    h = min(height, max(1, round(width / ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def resize_into(image: U8, out: U8) -> None:
    """Resize ``image`` to the size of ``out`` (C-contiguous) and write it there, without a copy between."""
    height, width = out.shape[:2]
    cv2.resize(image, (width, height), dst=out, interpolation=interpolation(image, (height, width)))


def shift(image: U8, down: int, across: int) -> U8:
    """The pixels moved; what comes in from outside is black."""
    height, width = image.shape[:2]
    moved = np.zeros_like(image)
    if abs(down) < height and abs(across) < width:
        moved[max(down, 0) : height + min(down, 0), max(across, 0) : width + min(across, 0)] = image[
            max(-down, 0) : height + min(-down, 0), max(-across, 0) : width + min(-across, 0)
        ]
    return moved


def shear_x(image: U8, slope: float) -> U8:
    """Row y moved left by ``slope * y`` pixels, the top edge fixed; black comes in."""
    return _warp(image, [[1, slope, slope / 2], [0, 1, 0]])


def shear_y(image: U8, slope: float) -> U8:
    """Column x moved up by ``slope * x`` pixels, the left edge fixed; black comes in."""
    return _warp(image, [[1, 0, 0], [slope, 1, slope / 2]])


def rotate(image: U8, degrees: float) -> U8:
    """Turned counter-clockwise about the centre; black comes in."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    return _warp(image, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def _warp(image: U8, source: list[list[float]]) -> U8:
    """Nearest neighbour, as the policies' papers have it; ``source`` is where in ``image`` each new pixel lies."""
    moved = cv2.warpAffine(
        image, np.array(source), (image.shape[1], image.shape[0]), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    return moved.reshape(image.shape)  # OpenCV drops a single channel's axis
