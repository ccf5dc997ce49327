"""MixUp's partners and weights as functions of the position in the global batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitray.data.order import Order
from vitray.train.mixup import pair_weights, partners


@given(st.integers(1, 60))
def test_partners_are_pairs_and_a_row_left_over_is_its_own(rows: int) -> None:
    index = partners(rows)
    assert torch.equal(index[index], torch.arange(rows))
    alone = (index == torch.arange(rows)).nonzero().flatten().tolist()
    assert alone == ([rows - 1] if rows % 2 else [])
    assert (index // 2).tolist() == (torch.arange(rows) // 2).tolist()


@given(
    st.integers(1, 90), st.integers(1, 40), st.integers(0, 30), st.integers(0, 2**40), st.floats(0.05, 3),
    st.integers(1, 5),
)  # fmt: skip
def test_any_number_of_ranks_mixes_the_same_rows_in_the_same_proportions(
    rows: int, batch: int, step: int, seed: int, alpha: float, world_size: int
) -> None:
    order = Order("f", "train", rows, 8, batch, align=2)
    first, last = order.step_span(step)
    whole = pair_weights(seed, step, 0, last - first, alpha)
    whole_partners = partners(last - first)
    weights, others = [], []
    for rank in range(world_size):
        low, high = order.rank_span(step, rank, world_size)
        if low < high:
            weights.append(pair_weights(seed, step, low - first, high - low, alpha))
            others.append(partners(high - low) + low - first)
    assert torch.equal(torch.cat(weights), whole)
    assert torch.equal(torch.cat(others), whole_partners)
    assert ((whole >= 0.5) & (whole <= 1)).all()
    assert torch.equal(whole[whole_partners], whole)


def test_weights_follow_the_folded_beta_distribution() -> None:
    generator = np.random.default_rng(0)
    for alpha in (0.2, 1.0):
        drawn = pair_weights(1, 2, 0, 40_000, alpha)[::2].numpy()
        expected = generator.beta(alpha, alpha, 20_000)
        expected = np.maximum(expected, 1 - expected)
        assert drawn.mean() == pytest.approx(expected.mean(), abs=0.005)
        assert drawn.std() == pytest.approx(expected.std(), abs=0.005)


def test_steps_and_seeds_are_unrelated() -> None:
    base = pair_weights(1, 2, 0, 64, 1.0)
    for other in (pair_weights(1, 3, 0, 64, 1.0), pair_weights(2, 2, 0, 64, 1.0)):
        assert not torch.isclose(base, other).all()
