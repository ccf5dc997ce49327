"""95 % intervals: of a share, of a mean over few seeds, and of the difference of two models on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence

_Z = 1.959963984540054  # of the normal distribution at 97.5 %


def wilson(share: float, count: int) -> tuple[float, float]:
    """Of a share (0..1) of ``count`` samples: the score interval of Wilson 1927, which unlike the normal one stays
    within [0, 1]."""
    centre = (share + _Z * _Z / (2 * count)) / (1 + _Z * _Z / count)
    half = _Z / (1 + _Z * _Z / count) * math.sqrt(share * (1 - share) / count + _Z * _Z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean of two or more values, by Student's t: wide where there are few."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    count = len(values)
    mean = math.fsum(values) / count
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
    half = float(stdtrit(count - 1, 0.975)) * spread / math.sqrt(count)
    return mean - half, mean + half


def of_paired_difference(gained: int, lost: int, count: int) -> tuple[float, float]:
    """Of the difference of two models' accuracies on the same ``count`` images, of which only the first had ``gained``
    right and only the second ``lost``.

    Bonett and Price 2012: Wald's with one more image on either side, which keeps its coverage where few images
    differ, as they do between two good models.
    """
    first, second = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = _Z * math.sqrt((first + second - (first - second) ** 2) / (count + 2))
    return max(-1.0, first - second - half), min(1.0, first - second + half)
