"""The order as a function: exact, random access, the same for every world size, well shuffled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.data.order import Order
from vitray.data.rng import Permutation, key, uniforms

orders = st.builds(
    Order,
    fingerprint=st.text(max_size=8),
    split=st.just("train"),
    rows=st.integers(1, 700),
    rows_per_group=st.integers(1, 40),
    global_batch=st.integers(1, 90),
    seed=st.integers(0, 2**31),
    window=st.integers(1, 40),
    align=st.integers(1, 3),
)


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_permutation_is_a_bijection_with_an_inverse(n: int, seed: int) -> None:
    permutation = Permutation(n, seed)
    values = permutation(np.arange(n))
    assert np.array_equal(np.sort(values), np.arange(n))
    assert np.array_equal(permutation.inverse(values), np.arange(n))


def test_small_permutations_are_uniform() -> None:
    """All 24 orders of four things come up equally often (chi-squared, 23 degrees of freedom)."""
    tweaks = np.repeat(np.arange(24_000), 4)
    values = Permutation(4, key("uniform"))(np.tile(np.arange(4), 24_000), tweak=tweaks).reshape(-1, 4)
    _, counts = np.unique(values @ np.array([64, 16, 4, 1]), return_counts=True)
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 60  # p < 1e-4 above


def test_uniforms_depend_on_their_own_id_alone() -> None:
    both = uniforms(7, [3, 900], 4)
    assert np.array_equal(both[1:], uniforms(7, [900], 4))
    many = uniforms(7, np.arange(20_000), 2)
    assert abs(many.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many.T)[0, 1]) < 0.02
    assert 0 <= many.min() < many.max() < 1


@settings(max_examples=60)
@given(orders, st.integers(0, 5))
def test_every_sample_exactly_once_an_epoch(order: Order, epoch: int) -> None:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    seen = np.concatenate([order.step_samples(step) for step in steps])
    assert np.array_equal(np.sort(seen), np.arange(order.rows))


@settings(max_examples=50)
@given(orders, st.integers(0, 200))
def test_ranks_of_every_world_size_share_the_same_global_batch(order: Order, step: int) -> None:
    whole = order.step_samples(step)
    for world_size in (1, 2, 3, 4, 8):
        parts = [order.rank_samples(step, rank, world_size) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(parts), whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 2 * order.align - 1


@pytest.mark.parametrize("window", [4, 1000])
def test_seeds_and_epochs_are_unrelated(window: int) -> None:
    def ranks(seed: int, epoch: int) -> np.ndarray:
        order = Order("f", "train", rows=4096, rows_per_group=32, global_batch=64, seed=seed, window=window)
        return np.argsort(order.samples(epoch, np.arange(4096)))

    base = ranks(0, 0)
    for other in (ranks(1, 0), ranks(0, 1), np.arange(4096)):
        # 4 groups a window: 32 windows whose order alone has a standard error of about 0.18
        assert abs(np.corrcoef(base, other)[0, 1]) < (0.55 if window == 4 else 0.08)


def meetings(order: Order, epochs: int) -> tuple[float, float, float]:
    """How often two samples meet in a batch, against a full shuffle: of one row group, next to each other, any two."""
    rows, batch = order.rows, order.global_batch
    group = np.arange(rows) // order.rows_per_group
    one, other = np.random.default_rng(0).choice(rows, (2, 4000))
    one, other = one[one != other], other[one != other]
    same_group = next_door = any_two = pairs = 0.0
    for epoch in range(epochs):
        step = np.empty(rows, dtype=np.int64)
        step[order.samples(epoch, np.arange(rows))] = np.arange(rows) // batch
        _, together = np.unique(step * (group[-1] + 1) + group, return_counts=True)
        same_group += (together * (together - 1) / 2).sum()
        next_door += (step[1:] == step[:-1]).sum()
        any_two += (step[one] == step[other]).sum()
        sizes = np.bincount(step)
        pairs += (sizes * (sizes - 1) / 2).sum()
    chance = pairs / epochs / (rows * (rows - 1) / 2)
    members = np.bincount(group)
    return (
        same_group / epochs / (members * (members - 1) / 2).sum() / chance,
        next_door / epochs / (rows - 1) / chance,
        any_two / epochs / len(one) / chance,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "size", "batch", "window"),
    [
        (1258, 64, 128, 64),  # digits: one window, shuffled as a whole
        (8_000, 8, 32, 64),  # a thousand row groups, windows wider than a batch
        (8_000, 8, 128, 64),  # a batch larger than the window asked for
        (8_000, 8, 300, 16),
        (7_993, 8, 64, 1),  # a last group that is short
    ],
)
def test_two_samples_meet_hardly_more_often_than_under_a_full_shuffle(
    rows: int, size: int, batch: int, window: int
) -> None:
    order = Order("f", "train", rows, rows_per_group=size, global_batch=batch, window=window)
    same_group, next_door, any_two = meetings(order, epochs=200)
    assert same_group <= 1.5
    assert next_door <= 1.5
    assert 0.9 < any_two < 1.1


def test_rows_of_a_group_do_not_meet_in_a_batch_of_the_window() -> None:
    order = Order("f", "train", rows=64 * 1000, rows_per_group=64, global_batch=64, window=64)
    groups = [order.step_samples(step) // 64 for step in range(order.steps_per_epoch)]
    repeated = sum(len(g) - len(np.unique(g)) for g in groups)
    # Only where a window's edge falls inside a batch can a group appear twice.
    assert repeated < 0.01 * order.rows


def test_stored_order_without_shuffle() -> None:
    order = Order("f", "val", rows=10, rows_per_group=4, global_batch=4, shuffle=False)
    assert order.step_samples(2).tolist() == [8, 9]


def test_any_step_of_ten_billion_samples_is_known_at_once() -> None:
    order = Order("f", "train", rows=10**10, rows_per_group=64, global_batch=256)
    step = 10**8 + 12_345
    assert len(np.unique(order.step_samples(step))) == 256
    tail = Order("f", "train", rows=10**10, rows_per_group=64, global_batch=256).step_samples(step)
    assert np.array_equal(tail, order.step_samples(step))
