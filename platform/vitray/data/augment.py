"""From a decoded image to the pixels a step sees: crop, resize, flip, shift, each drawn from the sample's own seed.

The draws of a sample are a row of uniform numbers that depends on (seed, epoch, sample id) alone, so whoever makes the
image makes the same one. OpenCV and numpy only: data tasks never import torch.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from vitray.data.decode import fit
from vitray.data.rng import I64, key, uniforms
from vitray.experiment import AugmentConfig

U8 = npt.NDArray[np.uint8]
_CROP_TRIES = 10
DRAWS = 4 * _CROP_TRIES + 3  # crop: area, ratio, top, left a try; then flip, down, across


def draws(seed: int, epoch: int, sample_ids: I64) -> npt.NDArray[np.float64]:
    """Uniform numbers, shape (samples, DRAWS): row i belongs to (seed, epoch, sample_ids[i])."""
    return uniforms(key("augment", seed, epoch), sample_ids, DRAWS)


def transform(image: U8, out: U8, augment: AugmentConfig | None, u: npt.NDArray[np.float64] | None) -> None:
    """Write into ``out`` (h, w, C) what training (or, without ``augment``, evaluation) sees of ``image`` (H, W, C)."""
    if augment is None or u is None:
        out[...] = fit(image, (out.shape[0], out.shape[1]))
        return
    if augment.crop:
        top, left, height, width = crop_box(image.shape[0], image.shape[1], augment, u)
        _resize(image[top : top + height, left : left + width], out)
    else:
        out[...] = fit(image, (out.shape[0], out.shape[1]))
    if augment.flip and u[-3] < 0.5:
        out[...] = out[:, ::-1].copy()
    if augment.shift:
        span = 2 * augment.shift + 1
        _shift(out, int(u[-2] * span) - augment.shift, int(u[-1] * span) - augment.shift)


def crop_box(height: int, width: int, augment: AugmentConfig, u: npt.NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random-resized crop (Szegedy et al. 2015, as torchvision draws it).

    Area uniform in ``crop_scale``, aspect ratio log-uniform in ``crop_ratio``; after ten misses the largest central
    crop whose ratio is allowed.
    """
    (low, high), (narrow, wide) = augment.crop_scale, augment.crop_ratio
    log_narrow, log_span = math.log(narrow), math.log(wide / narrow)
    for i in range(0, 4 * _CROP_TRIES, 4):
        area = height * width * (low + (high - low) * u[i])
        ratio = math.exp(log_narrow + log_span * u[i + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(u[i + 2] * (height - h + 1)), int(u[i + 3] * (width - w + 1)), h, w
    ratio = min(max(width / height, narrow), wide)
    w = min(width, max(1, round(height * ratio)))
    h = min(height, max(1, round(width / ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def _resize(image: U8, out: U8) -> None:
    height, width = out.shape[:2]
    shrinking = image.shape[0] >= height and image.shape[1] >= width
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    out[...] = resized.reshape(out.shape)  # OpenCV drops a single channel's axis


def _shift(image: U8, down: int, across: int) -> None:
    """Move the pixels in place; what comes in from outside is black."""
    if not down and not across:
        return
    height, width = image.shape[:2]
    moved = np.zeros_like(image)
    if abs(down) < height and abs(across) < width:
        moved[max(down, 0) : height + min(down, 0), max(across, 0) : width + min(across, 0)] = image[
            max(-down, 0) : height + min(-down, 0), max(-across, 0) : width + min(-across, 0)
        ]
    image[...] = moved
