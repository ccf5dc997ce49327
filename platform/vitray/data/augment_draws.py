"""Which random number decides what: the uniform draws of a sample, and their places in its row.

The row depends on (seed, epoch, sample id) alone, and every decision has its own place, so that turning one kind of
augmentation on or off leaves the others of the same sample as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vitray.data.rng import I64, key, uniforms

Draws = Sequence[float]  # of one sample, each in [0, 1)

BOX_TRIES = 10  # as torchvision
CROP = 0  # for each try: area, ratio, top, left
FLIP = CROP + 4 * BOX_TRIES
DOWN = FLIP + 1
ACROSS = DOWN + 1
JITTER = ACROSS + 1  # order, then brightness, contrast, saturation, hue
ERASE = JITTER + 5  # whether, the seed of random pixels, then as for the crop
POLICY = ERASE + 2 + 4 * BOX_TRIES  # for each operation: which, its sign, its magnitude
DRAWS = POLICY + 3 * 10


def draws(seed: int, epoch: int, sample_ids: I64, count: int = DRAWS) -> npt.NDArray[np.float64]:
    """Uniform numbers, shape (samples, count): row i belongs to (seed, epoch, sample_ids[i]).

    Fewer than ``DRAWS`` are the first of the same numbers.
    """
    return uniforms(key("augment", seed, epoch), sample_ids, count)
