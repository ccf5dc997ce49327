"""Evaluation counts every sample once, whatever the batches and ranks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import small_experiment, small_feed
from torch import Tensor, nn

from vitray.data.unit import Batch
from vitray.train.evaluate import evaluate, logits_of, predictions
from vitray.train.feed import Feed
from vitray.train.loop import fresh_state
from vitray.train.ranks import Ranks


@pytest.fixture(scope="module")
def feed(digits: Path) -> Feed:
    return small_feed(small_experiment(digits))


@pytest.fixture(scope="module")
def model(feed: Feed) -> nn.Module:
    return fresh_state(feed.experiment, Ranks()).model


@pytest.fixture(scope="module")
def expected(feed: Feed, model: nn.Module) -> tuple[float, float]:
    """Loss and accuracy over the test split in one batch, plainly."""
    (batch,) = feed.data.batches("test", global_batch=10_000)
    model.eval()
    with torch.no_grad():
        logits, labels = model(feed.to_input(batch)), torch.tensor(batch.label)
    return float(F.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).float().mean())


@pytest.mark.parametrize("batch", [1, 7, 64, 358, 359, 512])
def test_any_batch_size_gives_the_same_numbers(
    feed: Feed, model: nn.Module, expected: tuple[float, float], batch: int
) -> None:
    found = dict(evaluate(model, feed.data.batches("test", global_batch=batch), feed.to_input, Ranks()))
    assert found["samples"] == 359
    assert found["loss"] == pytest.approx(expected[0], rel=1e-6)
    assert round(found["accuracy"] * 359) == round(expected[1] * 359)


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("batch", [100, 358])
def test_the_shares_of_any_number_of_ranks_add_up(
    feed: Feed, model: nn.Module, expected: tuple[float, float], batch: int, world_size: int
) -> None:
    """With 359 rows in batches of 358 all ranks but one have a padded last step."""
    sums = np.zeros(3)
    for rank in range(world_size):
        share = feed.data.batches("test", global_batch=batch, rank=rank, world_size=world_size)
        found = dict(evaluate(model, share, feed.to_input, Ranks()))
        sums += np.array([found["loss"], found["accuracy"], 1]) * found["samples"]
    assert sums[2] == 359
    assert sums[0] / 359 == pytest.approx(expected[0], rel=1e-6)
    assert round(sums[1]) == round(expected[1] * 359)


def test_the_feeds_own_pass_covers_each_split(feed: Feed, model: nn.Module) -> None:
    for split, rows in (("val", 180), ("test", 359), ("train", 1258), ("train+val", 1438)):
        found = dict(evaluate(model, feed.evaluation(split), feed.to_input, Ranks()))
        assert found["samples"] == rows


def fixed_batch(labels: list[int], weights: list[float]) -> Batch:
    n = len(labels)
    return Batch(
        0, 0, np.zeros((n, 1, 1, 1), np.uint8), np.array(labels), np.array(weights, np.float32), np.arange(n), n
    )


class Says(nn.Module):
    """Always answers with the same logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def test_rows_of_weight_zero_do_not_count() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [math.inf, 0.0]])
    batch = fixed_batch([0, 0, 0], [1, 1, 0])  # the third would be right
    found = dict(evaluate(Says(logits[:2].repeat(2, 1)[:3]), [batch], lambda b: torch.zeros(3), Ranks()))
    first, second = math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))
    assert found == {"loss": pytest.approx((first + second) / 2), "accuracy": 0.5, "samples": 2.0}
    assert predictions(Says(logits), [batch], lambda b: torch.zeros(3))[1:].tolist() == [[0, 0], [0, 1]]


def test_the_predictions_agree_with_the_accuracy(feed: Feed, model: nn.Module, expected: tuple[float, float]) -> None:
    rows, labels, predicted = predictions(model, feed.evaluation("test"), feed.to_input)
    assert rows.tolist() == list(range(359))
    assert (predicted == labels).sum() == round(expected[1] * 359)
    assert np.bincount(labels).tolist() == list(feed.data.store.manifest.splits["test"].class_counts)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_put_back_also_when_the_stream_breaks(feed: Feed, model: nn.Module, training: bool) -> None:
    model.train(training)
    stream = logits_of(model, feed.evaluation("val"), feed.to_input)
    next(stream)
    assert not model.training
    stream.close()  # type: ignore[attr-defined]
    assert model.training is training


def test_evaluation_leaves_no_gradient_and_no_random_state_behind(feed: Feed, model: nn.Module) -> None:
    before = torch.get_rng_state()
    dict(evaluate(model, feed.evaluation("val"), feed.to_input, Ranks()))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
