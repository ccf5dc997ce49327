"""From a decoded image to the pixels a step sees: crop, flip, shift, policy, colour, erasing, in this order.

Each is drawn from the sample's own numbers (see ``augment_draws``), so whoever makes the image makes the same one.
OpenCV and numpy only: data tasks never import torch.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vitray.augment_config import AugmentConfig
from vitray.data.augment_color import jitter
from vitray.data.augment_draws import ACROSS, CROP, DOWN, DRAWS, ERASE, FLIP, JITTER, POLICY, Draws, draws
from vitray.data.augment_erasing import erase
from vitray.data.augment_geometry import crop_box, resize_into, shift
from vitray.data.augment_policy import apply_policy
from vitray.data.decode import fit
from vitray.data.rng import I64

__all__ = ["DRAWS", "Augmenter", "crop_box", "draws", "transform"]

U8 = npt.NDArray[np.uint8]


class Augmenter:
    """A config made ready for many images. Holds no state, so threads may share it.

    Use: ``rows = augmenter.draws(seed, epoch, ids)``, then ``augmenter.apply(image, out, rows[i])`` for image i.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        color = config.color_jitter
        self._jitters = any((color.brightness, color.contrast, color.saturation, color.hue))
        self._policy = config.policy != "none"
        self._erases = config.erasing.probability > 0
        # Each row of draws is made only as long as its last number in use.
        self._count = next(
            count
            for count, used in (
                (POLICY + 3 * max(1, config.randaugment.num_ops), self._policy),
                (POLICY, self._erases),
                (ERASE, self._jitters),
                (JITTER, config.shift > 0),
                (DOWN, config.flip),
                (FLIP, config.crop),
                (CROP, True),
            )
            if used
        )

    def draws(self, seed: int, epoch: int, sample_ids: I64) -> list[list[float]]:
        """The numbers of each sample, as Python floats: those of numpy are slow one at a time."""
        return draws(seed, epoch, sample_ids, self._count).tolist()

    def crop_box(self, height: int, width: int, u: Draws) -> tuple[int, int, int, int]:
        """Top, left, height, width of what :meth:`apply` looks at in an image of this size (needs ``config.crop``)."""
        return crop_box(height, width, self.config, u)

    def apply(self, image: U8, out: U8, u: Draws) -> None:
        """Write into ``out`` (h, w, C), C-contiguous, what training sees of ``image`` (H, W, C); both uint8."""
        config = self.config
        if config.crop:
            top, left, height, width = crop_box(image.shape[0], image.shape[1], config, u)
            resize_into(image[top : top + height, left : left + width], out)
        else:
            out[...] = fit(image, (out.shape[0], out.shape[1]))
        if config.flip and u[FLIP] < 0.5:
            cv2.flip(out, 1, dst=out)
        if config.shift:
            span = 2 * config.shift + 1
            out[...] = shift(out, int(u[DOWN] * span) - config.shift, int(u[ACROSS] * span) - config.shift)
        if self._policy:
            out[...] = apply_policy(out, config, u)
        if self._jitters:
            out[...] = jitter(out, config.color_jitter, u)
        if self._erases:
            erase(out, config.erasing, u)


def transform(image: U8, out: U8, augment: AugmentConfig | None, u: npt.NDArray[np.float64] | None) -> None:
    """One image: what training (or, without ``augment``, evaluation) sees of ``image``, written into ``out``."""
    if augment is None or u is None:
        out[...] = fit(image, (out.shape[0], out.shape[1]))
    else:
        Augmenter(augment).apply(image, out, u.tolist())
