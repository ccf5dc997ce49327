"""MixUp's and CutMix's partners, weights and boxes as functions of the position in the global batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import CutMix

from vitray.data.order import Order
from vitray.experiment import TrainConfig
from vitray.train.mixup import Mix, draw_mix, pair_boxes, pair_weights, partners


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


SIZE = (12, 20)
BOTH = {"mixup": 0.8, "cutmix": 1.0}


def mix_of(rows: int, *, step: int = 3, first: int = 0, weight: np.ndarray | None = None, **config: float) -> Mix:
    return draw_mix(TrainConfig(**config), step, first, np.ones(rows, np.float32) if weight is None else weight, SIZE)


def marked(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose every pixel tells its row, and one-hot targets of a class for each row."""
    return torch.arange(rows).float().view(-1, 1, 1, 1).expand(-1, 3, *SIZE).contiguous(), torch.eye(rows)


def share_of_partner(mix: Mix, rows: int) -> torch.Tensor:
    """How much of each row's pixels is its partner's, seen in the images themselves."""
    images, _ = marked(rows)
    mixed = mix.images(images)
    other = torch.arange(rows) ^ 1
    return ((mixed - images) / (other - torch.arange(rows)).view(-1, 1, 1, 1)).mean(dim=(1, 2, 3))


@pytest.mark.parametrize("config", [{"mixup": 0.8}, {"cutmix": 1.0}, BOTH], ids=["mixup", "cutmix", "both"])
def test_targets_have_the_share_that_the_pixels_have(config: dict[str, float]) -> None:
    rows = 64
    mix = mix_of(rows, **config)
    _, targets = marked(rows)
    mixed, seen = mix.targets(targets), share_of_partner(mix, rows)
    each = torch.arange(rows)
    assert torch.allclose(mixed[each, each ^ 1], seen, atol=1e-5)
    assert torch.allclose(mixed.sum(1), torch.ones(rows))
    assert (seen > 0).float().mean() > 0.9
    assert torch.allclose(seen[::2], seen[1::2], atol=1e-5), "both of a pair give what they take"


def test_cutmix_pastes_one_box_of_the_partners_pixels_and_changes_no_other() -> None:
    rows = 40
    images, _ = marked(rows)
    mixed = mix_of(rows, cutmix=1.0).images(images)
    for row in range(rows):
        taken = (mixed[row, 0] == row ^ 1).numpy()
        assert ((mixed[row, 0] == row).numpy() | taken).all()
        down, across = np.flatnonzero(taken.any(1)), np.flatnonzero(taken.any(0))
        if taken.any():
            assert taken[down[0] : down[-1] + 1, across[0] : across[-1] + 1].all()
        assert torch.equal(mixed[row, 0], mixed[row, 2])


def test_boxes_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    for alpha in (0.3, 1.0):
        peer = CutMix(alpha=alpha, num_classes=2)
        drawn = [peer.make_params([torch.zeros(2, 3, 40, 60)])["box"] for _ in range(4000)]
        theirs = np.array(drawn)[:, [1, 3, 0, 2]]
        ours = pair_boxes(TrainConfig(cutmix=alpha), 7, 0, 8000, (40, 60))
        for box in (ours, theirs):
            assert (box[:, ::2] >= 0).all()
            assert (box[:, 1::2] <= (40, 60)).all()
        areas = [(b[:, 1] - b[:, 0]) * (b[:, 3] - b[:, 2]) / 2400 for b in (ours, theirs)]
        for mine, other in [*zip(ours.T / 40, theirs.T / 40, strict=True), (areas[0], areas[1])]:
            assert mine.mean() == pytest.approx(other.mean(), abs=4.5 * other.std() * (2 / 4000) ** 0.5)
            assert mine.std() == pytest.approx(other.std(), rel=0.1)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_with_both_on_each_pair_gets_one_of_the_two(chance: float) -> None:
    """MixUp blends every pixel alike; CutMix takes each from one of the two."""
    rows = 4000
    images = (torch.arange(rows) % 2).float().view(-1, 1, 1, 1).expand(-1, 1, *SIZE)
    config = TrainConfig(**BOTH, switch_prob=chance)
    mixed = draw_mix(config, 0, 0, np.ones(rows, np.float32), SIZE).images(images).flatten(1)
    cut = ((mixed == 0) | (mixed == 1)).all(1)
    blended = (mixed == mixed[:, :1]).all(1)
    assert (cut | blended).all()
    assert torch.equal(cut[::2], cut[1::2])
    assert cut.float().mean() == pytest.approx(chance, abs=0.05)


@pytest.mark.parametrize("config", [{"mixup": 0.8}, {"cutmix": 1.0}, BOTH], ids=["mixup", "cutmix", "both"])
def test_nothing_of_a_damaged_image_is_mixed_in(config: dict[str, float]) -> None:
    rows = 40
    weight = np.ones(rows, np.float32)
    damaged = [3, 8, 20, 21]
    weight[damaged] = 0
    images, targets = marked(rows)
    mix, usual = mix_of(rows, weight=weight, **config), mix_of(rows, **config)
    partners_of_damaged = [row ^ 1 for row in damaged]
    assert torch.equal(mix.images(images)[partners_of_damaged], images[partners_of_damaged])
    assert torch.equal(mix.targets(targets)[partners_of_damaged], targets[partners_of_damaged])
    others = [row for row in range(rows) if row not in {*damaged, *partners_of_damaged}]
    assert torch.equal(mix.images(images)[others], usual.images(images)[others])
    assert torch.equal(mix.targets(targets)[others], usual.targets(targets)[others])


@given(
    st.integers(1, 90), st.integers(1, 40), st.integers(0, 30), st.integers(0, 2**40), st.integers(1, 5),
    st.sampled_from([{"mixup": 0.4}, {"cutmix": 0.7}, BOTH]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_number_of_ranks_gets_the_same_images_and_targets(
    rows: int, batch: int, step: int, seed: int, world_size: int, config: dict[str, float], content: int
) -> None:
    order, train = Order("f", "train", rows, 8, batch, align=2), TrainConfig(**config, seed=seed)
    first, last = order.step_span(step)
    generator = np.random.default_rng(content)
    images = torch.from_numpy(generator.normal(size=(last - first, 1, 4, 6)).astype(np.float32))
    targets = torch.from_numpy(generator.random((last - first, 5), dtype=np.float32))
    weight = (generator.random(last - first) < 0.8).astype(np.float32)
    whole = draw_mix(train, step, 0, weight, (4, 6))
    parts = []
    for rank in range(world_size):
        low, high = (position - first for position in order.rank_span(step, rank, world_size))
        if low < high:
            mine = draw_mix(train, step, low, weight[low:high], (4, 6))
            parts.append((mine.images(images[low:high]), mine.targets(targets[low:high])))
    assert torch.equal(torch.cat([i for i, _ in parts]), whole.images(images))
    assert torch.equal(torch.cat([t for _, t in parts]), whole.targets(targets))
    if (last - first) % 2:
        assert torch.equal(whole.images(images)[-1], images[-1])
