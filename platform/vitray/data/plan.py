"""Where every row goes: which split, which place in it, which shard. Pure functions of what the scan found.

Random choices are keyed hashes of a row's own key, not draws from a generator, so they depend neither on a library's
version nor on who computes them in which order. All is arrays: ten million rows are a few hundred megabytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from vitray.data.rng import I64


def shuffled(keys: Iterable[bytes], *salt: object) -> I64:
    """Positions of ``keys`` in a random order that follows from the keys and the salt alone. Keys are unique."""
    secret = hashlib.blake2b(repr(salt).encode(), digest_size=32).digest()
    ranks = bytearray()
    for key in keys:
        ranks += hashlib.blake2b(key, key=secret, digest_size=16).digest()
    high, low = np.frombuffer(ranks, ">u8").reshape(-1, 2).T
    return np.lexsort((low, high))


def assign_splits(order: I64, labels: I64, twins: I64, fractions: Sequence[float]) -> npt.NDArray[np.int8]:
    """A split number for every row: stratified by label, twins together.

    Goes through the classes one after the other, each in ``order``, and gives what comes next to the split that is
    furthest behind its fraction. So each split's total and its share of every class stay within about a row of the
    fractions, however many small classes there are. The first image of a class goes to split 0, so that no class is
    evaluated without having been trained on.

    Args:
        order: all row numbers in random order.
        labels: per row.
        twins: per row, a number from 0 on that it shares with the rows of equal bytes.
        fractions: per split, summing to 1.
    """
    _, first = np.unique(twins[order], return_index=True)  # per set of twins, the place in the order of its first row
    sizes, label_of = np.bincount(twins), labels[order[first]]
    sequence = np.lexsort((first, label_of))
    wanted = [split for split, fraction in enumerate(fractions) if fraction > 0]
    split_of = np.zeros(len(first), dtype=np.int8)
    filled, placed, current = [0] * len(fractions), 0, None
    # Memory views give one Python number at a time, where a list would make them all.
    for twin, size, label in zip(sequence.data, sizes[sequence].data, label_of[sequence].data, strict=True):
        placed += size
        split = 0
        if label == current:
            split = max(wanted, key=lambda split: fractions[split] * placed - filled[split])
        current = label
        filled[split] += size
        split_of[twin] = split
    return split_of[twins]


def cut_shards(sizes: I64, rows_per_group: int, shard_bytes: int) -> list[range]:
    """The rows of each shard: whole row groups, as many as fit ``shard_bytes`` of images, at least one."""
    shards: list[range] = []
    start, filled = 0, 0
    for number, group in enumerate(group_bytes(sizes, rows_per_group).tolist()):
        first = number * rows_per_group
        if first > start and filled + group > shard_bytes:
            shards.append(range(start, first))
            start, filled = first, 0
        filled += group
    if len(sizes) > start:
        shards.append(range(start, len(sizes)))
    return shards


def group_bytes(sizes: I64, rows_per_group: int) -> I64:
    """The bytes of each row group."""
    if not len(sizes):
        return np.empty(0, np.int64)
    return np.add.reduceat(sizes, np.arange(0, len(sizes), rows_per_group))
