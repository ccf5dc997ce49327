"""Random erasing (Zhong et al. 2017, "Random Erasing Data Augmentation"): a box of the image loses its content."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vitray.augment_config import ErasingConfig
from vitray.data.augment_draws import BOX_TRIES, ERASE, Draws
from vitray.data.rng import mix

U8 = npt.NDArray[np.uint8]


def erase(image: U8, config: ErasingConfig, u: Draws) -> None:
    """With the configured probability, overwrite a box of ``image`` (H, W, C) in place."""
    if u[ERASE] >= config.probability:
        return
    top, left, h, w = erasing_box(image.shape[0], image.shape[1], config, u)
    box = image[top : top + h, left : left + w]
    if config.value == "random":
        # Hashes of a counter: three times faster than setting up a generator for a few thousand pixels.
        counters = np.uint64(u[ERASE + 1] * 2**63) + np.arange(-(-box.size // 8), dtype=np.uint64)
        box[...] = mix(counters).view(np.uint8)[: box.size].reshape(box.shape)
    else:
        box[...] = 0


def erasing_box(height: int, width: int, config: ErasingConfig, u: Draws) -> tuple[int, int, int, int]:
    """Top, left, height, width, drawn as torchvision does; after ten boxes that would not fit, an empty one."""
    (low, high), (flat, tall) = config.scale, config.ratio
    log_flat, log_span = math.log(flat), math.log(tall / flat)
    for i in range(ERASE + 2, ERASE + 2 + 4 * BOX_TRIES, 4):
        area = height * width * (low + (high - low) * u[i])
        ratio = math.exp(log_flat + log_span * u[i + 1])
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            return int(u[i + 2] * (height - h + 1)), int(u[i + 3] * (width - w + 1)), h, w
    return 0, 0, 0, 0
