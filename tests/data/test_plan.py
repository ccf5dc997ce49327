"""Splits, order and shards as properties: stratified, twins together, everything exactly once."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitray.data.plan import assign_splits, cut_shards, shuffled

FRACTIONS = st.sampled_from([(0.7, 0.1, 0.2), (0.8, 0.2, 0.0), (1.0, 0.0, 0.0), (0.34, 0.33, 0.33)])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), FRACTIONS)
def test_each_split_has_its_share_of_every_class(labels: list[int], fractions: tuple[float, ...]) -> None:
    rows = np.arange(len(labels))
    split_of = assign_splits(rows, np.array(labels), rows, fractions).tolist()
    classes = Counter(labels)
    pairs = Counter(zip(split_of, labels, strict=True))
    # The first image of a class goes to train, so small classes lean there; beyond that a row or two of rounding.
    for split, fraction in enumerate(fractions):
        assert all(fraction > 0 or pairs[split, label] == 0 for label in classes)
        assert all(abs(pairs[split, label] - fraction * count) <= 3 for label, count in classes.items())
        assert abs(split_of.count(split) - fraction * len(labels)) <= 5
    assert all(pairs[0, label] >= 1 for label in classes)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=100), FRACTIONS)
def test_twins_share_a_split(rows: list[tuple[int, int]], fractions: tuple[float, ...]) -> None:
    labels = np.array([label for label, _ in rows])
    _, twins = np.unique([digest for _, digest in rows], return_inverse=True)
    split_of = assign_splits(np.arange(len(rows)), labels, twins, fractions)
    assert len(set(zip(twins.tolist(), split_of.tolist(), strict=True))) == len(set(twins.tolist()))


@given(st.lists(st.binary(max_size=4), unique=True, max_size=60), st.integers(0, 9))
def test_shuffling_is_a_permutation_that_follows_the_keys(keys: list[bytes], seed: int) -> None:
    order = shuffled(keys, "rows", seed)
    assert sorted(order.tolist()) == list(range(len(keys)))
    mirrored = keys[::-1]
    assert [keys[i] for i in order] == [mirrored[i] for i in shuffled(mirrored, "rows", seed)]


def test_seeds_and_purposes_give_unrelated_orders() -> None:
    keys = [b"image-%d" % i for i in range(2000)]
    orders = [shuffled(keys, "rows", 0), shuffled(keys, "rows", 1), shuffled(keys, "split", 0)]
    for a in range(3):
        for b in range(a):
            same_place = sum(x == y for x, y in zip(orders[a], orders[b], strict=True))
            assert same_place < 10  # one is expected by chance


@given(st.lists(st.integers(0, 50), max_size=80), st.integers(1, 9), st.integers(1, 200))
def test_shards_hold_all_rows_in_whole_row_groups(sizes: list[int], rows_per_group: int, limit: int) -> None:
    shards = cut_shards(np.array(sizes, dtype=np.int64), rows_per_group, limit)
    assert [row for shard in shards for row in shard] == list(range(len(sizes)))
    assert all(len(shard) % rows_per_group == 0 for shard in shards[:-1])
    for shard in shards:
        assert len(shard) <= rows_per_group or sum(sizes[row] for row in shard) <= limit
