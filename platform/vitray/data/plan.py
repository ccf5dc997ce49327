"""Where every row goes: which split, which place in it, which shard. Pure functions of what the scan found.

Random choices are keyed hashes of a row's own key, not draws from a generator, so they depend neither on a library's
version nor on who computes them in which order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


def shuffled(keys: Sequence[str], *salt: object) -> list[int]:
    """Positions of ``keys`` in a random order that follows from the keys and the salt alone."""
    secret = hashlib.blake2b(repr(salt).encode(), digest_size=32).digest()

    def rank(position: int) -> tuple[bytes, str]:
        key = keys[position]
        return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=secret, digest_size=16).digest(), key

    return sorted(range(len(keys)), key=rank)


def assign_splits(
    order: Iterable[int], labels: Sequence[int], digests: Sequence[str], fractions: Sequence[float]
) -> list[int]:
    """A split number for every row: stratified by label, rows with equal digests together.

    Goes through the classes one after the other, each in ``order``, and gives what comes next to the split that is
    furthest behind its fraction. So each split's total and its share of every class stay within about a row of the
    fractions, however many small classes there are. The first image of a class goes to split 0, so that no class is
    evaluated without having been trained on.

    Args:
        order: all row numbers in random order.
        labels, digests: per row.
        fractions: per split, summing to 1.
    """
    twins: dict[str, list[int]] = {}
    for row in order:
        twins.setdefault(digests[row], []).append(row)
    by_class: dict[int, list[list[int]]] = {}
    for rows in twins.values():
        by_class.setdefault(labels[rows[0]], []).append(rows)

    split_of = [0] * len(labels)
    filled, placed = [0] * len(fractions), 0
    for label in sorted(by_class):
        for number, rows in enumerate(by_class[label]):
            placed += len(rows)
            behind = [fraction * placed - done for fraction, done in zip(fractions, filled, strict=True)]
            wanted = [split for split, fraction in enumerate(fractions) if fraction > 0]
            split = 0 if number == 0 else max(wanted, key=lambda split: behind[split])
            filled[split] += len(rows)
            for row in rows:
                split_of[row] = split
    return split_of


def cut_shards(sizes: Sequence[int], rows_per_group: int, shard_bytes: int) -> list[range]:
    """The rows of each shard: whole row groups, as many as fit ``shard_bytes`` of images, at least one."""
    shards: list[range] = []
    start, filled = 0, 0
    for first in range(0, len(sizes), rows_per_group):
        group = sum(sizes[first : first + rows_per_group])
        if first > start and filled + group > shard_bytes:
            shards.append(range(start, first))
            start, filled = first, 0
        filled += group
    if len(sizes) > start:
        shards.append(range(start, len(sizes)))
    return shards
