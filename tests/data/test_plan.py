"""Splits, order and shards as properties: stratified, twins together, everything exactly once."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vitray.data.plan import assign_splits, cut_shards, shuffled

FRACTIONS = st.sampled_from([(0.7, 0.1, 0.2), (0.8, 0.2, 0.0), (1.0, 0.0, 0.0), (0.34, 0.33, 0.33)])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), FRACTIONS)
def test_each_split_has_its_share_of_every_class(labels: list[int], fractions: tuple[float, ...]) -> None:
    split_of = assign_splits(range(len(labels)), labels, [str(row) for row in range(len(labels))], fractions)
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
    labels, digests = [label for label, _ in rows], [str(digest) for _, digest in rows]
    split_of = assign_splits(range(len(rows)), labels, digests, fractions)
    assert len(set(zip(digests, split_of, strict=True))) == len(set(digests))


@given(st.lists(st.text(max_size=4), unique=True, max_size=60), st.integers(0, 9))
def test_shuffling_is_a_permutation_that_follows_the_keys(keys: list[str], seed: int) -> None:
    order = shuffled(keys, "rows", seed)
    assert sorted(order) == list(range(len(keys)))
    mirrored = keys[::-1]
    assert [keys[i] for i in order] == [mirrored[i] for i in shuffled(mirrored, "rows", seed)]


def test_seeds_and_purposes_give_unrelated_orders() -> None:
    keys = [f"image-{i}" for i in range(2000)]
    orders = [shuffled(keys, "rows", 0), shuffled(keys, "rows", 1), shuffled(keys, "split", 0)]
    for a in range(3):
        for b in range(a):
            same_place = sum(x == y for x, y in zip(orders[a], orders[b], strict=True))
            assert same_place < 10  # one is expected by chance


@given(st.lists(st.integers(0, 50), max_size=80), st.integers(1, 9), st.integers(1, 200))
def test_shards_hold_all_rows_in_whole_row_groups(sizes: list[int], rows_per_group: int, limit: int) -> None:
    shards = cut_shards(sizes, rows_per_group, limit)
    assert [row for shard in shards for row in shard] == list(range(len(sizes)))
    assert all(len(shard) % rows_per_group == 0 for shard in shards[:-1])
    for shard in shards:
        assert len(shard) <= rows_per_group or sum(sizes[row] for row in shard) <= limit
