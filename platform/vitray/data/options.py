"""What a preparation can be asked for, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from vitray.data.manifest import SPLITS
from vitray.data.sources.source import Splits
from vitray.errors import DataError, nearest

FRACTIONS = (0.7, 0.1, 0.2)
_SIDE = 10_000


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """See :func:`vitray.data.prepare.prepare`. Raises DataError for what cannot be meant."""

    seed: int
    size: int | None
    rows_per_group: int
    shard_mb: float
    splits: Splits
    fractions: tuple[float, float, float] | None
    max_bad_fraction: float
    max_pixels: int

    def __post_init__(self) -> None:
        _between("seed", self.seed, 0, 2**63 - 1, "0 will do")
        if self.size is not None:
            _between("size", self.size, 1, _SIDE, "it is the shorter side in pixels, for example 256")
        _between("rows_per_group", self.rows_per_group, 1, 2**20, "64 suits most")
        _between("max_pixels", self.max_pixels, 1, 2**40, "64000000 suits most")
        if not 0 < self.shard_mb <= 1e6:  # NaN is not, either
            raise DataError(
                f"must be above 0 and at most 1,000,000, not {self.shard_mb}", where="shard_mb", remedy="64 suits most"
            )
        _between("max_bad_fraction", self.max_bad_fraction, 0, 1, "0.02 is 2 %")
        if self.splits not in get_args(Splits):
            raise DataError(
                f"cannot be {self.splits!r}", where="splits", remedy=nearest(str(self.splits), get_args(Splits))
            )
        if self.fractions is not None:
            _check_fractions(self.fractions)

    @property
    def shares(self) -> tuple[float, float, float]:
        """The share of each split, when all images are divided by fractions."""
        return self.fractions or FRACTIONS


def _between(name: str, value: float, least: float, most: float, remedy: str) -> None:
    if not least <= value <= most:
        kind = f"at least {least}" if value < least else f"at most {most:,}"
        raise DataError(f"must be {kind}, not {value}", where=name, remedy=remedy)


def _check_fractions(fractions: tuple[float, ...]) -> None:
    good = len(fractions) == len(SPLITS) and all(math.isfinite(f) and f >= 0 for f in fractions)
    if not good or abs(sum(fractions) - 1) >= 1e-6 or fractions[0] == 0:
        raise DataError(
            f"must be three shares that sum to 1, the first above 0, not {','.join(map(str, fractions))}",
            where="fractions",
            remedy="0.7,0.1,0.2 are the shares of train, val and test",
        )
