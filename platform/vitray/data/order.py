"""The order is a function: which samples make up global step ``s`` follows from (fingerprint, seed, s) alone.

It does not know ranks, tasks or restarts, and holds no list of samples: any step of any epoch is computed where it is
needed. Row groups are permuted, ``window`` of them at a time are open together, and a window hands out one row of each
of its groups before the second of any (a keyed permutation decides which row): rows that lie in one row group, and so
are always read together, are kept out of each other's batches instead of being thrown together epoch after epoch. A
dataset no larger than one window is shuffled as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from vitray.data.rng import I64, Permutation, key

WINDOW = 64  # row groups mixed together when nothing is said


@dataclass(frozen=True)
class Order:
    """The samples of every global step of one split.

    Args:
        fingerprint: of the dataset; another dataset has another order.
        split: name of the split.
        rows: samples in the split.
        rows_per_group: samples in each row group; the last may be short.
        global_batch: samples in a step, over all ranks. An epoch's last step is short rather than dropped.
        seed: another seed has an unrelated order.
        window: row groups mixed together, at least; never fewer than a batch has rows, so that a batch takes no second
            row of a group while others wait.
        shuffle: False gives the stored order, as evaluation wants it.
        align: ranks divide a step at multiples of this many rows; 2 keeps the pairs of mixup and cutmix on one rank.
    """

    fingerprint: str
    split: str
    rows: int
    rows_per_group: int
    global_batch: int
    seed: int = 0
    window: int = WINDOW
    shuffle: bool = True
    align: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.global_batch)

    def epoch_of(self, step: int) -> int:
        return step // self.steps_per_epoch

    def step_span(self, step: int) -> tuple[int, int]:
        """First position in the epoch of this step, and one past its last."""
        first = step % self.steps_per_epoch * self.global_batch
        return first, min(first + self.global_batch, self.rows)

    def rank_span(self, step: int, rank: int, world_size: int) -> tuple[int, int]:
        """The positions of a step that a rank takes: contiguous, as even as can be, possibly none."""
        first, last = self.step_span(step)
        parts = -(-(last - first) // self.align)
        low, high = parts * rank // world_size, parts * (rank + 1) // world_size
        return min(first + low * self.align, last), min(first + high * self.align, last)

    def step_samples(self, step: int) -> I64:
        """Sample ids of a global step, int64 (at most ``global_batch``,)."""
        return self.samples(self.epoch_of(step), np.arange(*self.step_span(step)))

    def rank_samples(self, step: int, rank: int, world_size: int) -> I64:
        """Sample ids that a rank takes in a step; the ranks' ids in rank order are ``step_samples``."""
        return self.samples(self.epoch_of(step), np.arange(*self.rank_span(step, rank, world_size)))

    def samples(self, epoch: int, positions: npt.ArrayLike) -> I64:
        """Sample ids at positions of an epoch: a bijection of ``range(rows)`` for every epoch."""
        p = np.asarray(positions, dtype=np.int64)
        if not self.shuffle or self.rows <= 1 or not p.size:
            return p
        shuffle = _epoch(self, epoch)
        return shuffle.whole(p) if self._windows == 1 else shuffle.windowed(p)

    @cached_property
    def _groups(self) -> int:
        return -(-self.rows // self.rows_per_group)

    @cached_property
    def _windows(self) -> int:
        return max(1, self._groups // max(self.window, self.global_batch))  # so that none is narrower


class _EpochShuffle:
    """One epoch's permutation of a split: constants worked out once, positions mapped in bulk."""

    def __init__(self, order: Order, epoch: int) -> None:
        self._order = order
        self._key = key(order.fingerprint, order.split, order.seed, epoch)
        rows, size = order.rows, order.rows_per_group
        self._whole = Permutation(rows, key(self._key, "rows"))
        self._group_at = Permutation(order._groups, key(self._key, "groups"))
        self._row_at = Permutation(size, key(self._key, "rows of a group"))
        self._last_rows = rows - (order._groups - 1) * size
        self._last_row_at = Permutation(self._last_rows, key(self._key, "rows of the last group"))
        self._missing = size - self._last_rows  # by which the last group is short of the others
        self._last_slot = int(self._group_at.inverse(order._groups - 1))

    def whole(self, p: I64) -> I64:
        return self._whole(p)

    def windowed(self, p: I64) -> I64:
        """Position -> (window, layer, slot) -> (row group, row).

        Window k holds the slots from ``k * groups // windows`` on; a layer is one row of each of its groups.
        """
        order, size = self._order, self._order.rows_per_group
        groups, windows = order._groups, order._windows
        after_last = self._last_slot * size + self._last_rows
        slot = np.where(p >= after_last, p + self._missing, p) // size
        k = ((slot + 1) * windows - 1) // groups
        first_slot, next_slot = k * groups // windows, (k + 1) * groups // windows
        width = next_slot - first_slot
        local = p - (first_slot * size - np.where(first_slot > self._last_slot, self._missing, 0))
        short = self._last_slot - first_slot  # the short group's slot in this window, if it is in it
        has_short = (short >= 0) & (short < width) & (self._missing > 0)
        # Layers that every group has, then those that the short group no longer has.
        full_rows = np.where(has_short, self._last_rows * width, size * width)
        rest, narrow = np.maximum(local - full_rows, 0), np.maximum(width - 1, 1)
        in_full = local < full_rows
        layer = np.where(in_full, local // width, self._last_rows + rest // narrow)
        column = np.where(in_full, local % width, rest % narrow)
        column = column + ((~in_full) & (column >= short))
        group = self._group_at(first_slot + column)
        row = np.empty_like(group)
        is_last = group == groups - 1
        row[~is_last] = self._row_at(layer[~is_last], tweak=group[~is_last])
        row[is_last] = self._last_row_at(layer[is_last])
        return group * size + row


@lru_cache(maxsize=32)
def _epoch(order: Order, epoch: int) -> _EpochShuffle:
    return _EpochShuffle(order, epoch)
