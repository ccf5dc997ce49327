"""Splits decoded once: what they hold, when they are used again, and that memory is bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitray.data import ShardedImages, cache
from vitray.data.decode import decode
from vitray.data.order import Order
from vitray.data.stream import StreamOptions, stream
from vitray.data.unit import Plan, read_unit
from vitray.data.view import SplitView

DECODED = StreamOptions(cache="decoded")


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_held", type(cache._held)())


def plan_of(folder: Path, split: str, **order: int) -> Plan:
    data = ShardedImages.open(str(folder))
    view = SplitView(data.store, split)
    return Plan(view, data.order(split, **{"global_batch": 100} | order), 0, 1, (8, 8), None)


def test_a_decoded_split_holds_every_row_at_its_place(digits: Path) -> None:
    plan = plan_of(digits, "val")
    list(stream(plan, 0, 1, DECODED))
    held = cache.held(plan)
    assert held is not None
    images, labels = plan.view.read(np.arange(plan.view.rows))
    assert held.image.shape == (180, 8, 8, 1)
    assert held.label.tolist() == labels.tolist()
    assert np.array_equal(held.image, np.stack([decode(image, 1) for image in images]))


def test_a_split_is_read_once_for_all_experiments_of_a_process(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = SplitView.read

    def counted(self: SplitView, ids: np.ndarray) -> object:
        reads.append(len(ids))
        return read(self, ids)

    monkeypatch.setattr(SplitView, "read", counted)
    for seed in range(3):
        assert len(list(stream(plan_of(digits, "val", seed=seed), 0, 4, DECODED))) == 4
    assert sum(reads) == 180


def test_train_and_train_plus_val_are_not_confused(digits: Path) -> None:
    for split, rows in (("train", 1258), ("train+val", 1438), ("val", 180)):
        plan = plan_of(digits, split)
        list(stream(plan, 0, 1, DECODED))
        held = cache.held(plan)
        assert held is not None
        assert len(held.label) == rows


def test_another_dataset_at_the_same_path_is_not_taken_from_memory(digits: Path, small_shards: Path) -> None:
    plan = plan_of(digits, "val")
    list(stream(plan, 0, 1, DECODED))
    assert cache.held(plan) is not None
    assert cache.held(plan_of(small_shards, "val")) is None


def test_the_longest_unused_split_makes_room(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_KEEP", 2)
    first, second, third = (plan_of(digits, split) for split in ("val", "test", "train"))
    for plan in (first, second, first, third):
        list(stream(plan, 0, 1, DECODED))
    assert cache.held(first) is not None
    assert cache.held(second) is None
    assert cache.held(third) is not None


def test_a_pass_that_misses_rows_is_not_kept(digits: Path) -> None:
    view = plan_of(digits, "val").view
    order = Order(view.store.fingerprint, "val", view.rows, view.store.rows_per_group, 50, shuffle=False)
    plan = Plan(view, order, 0, 1, (8, 8), None)
    with pytest.raises(AssertionError, match="every row"):
        cache.DecodedSplit.from_blocks(view.rows, [read_unit(plan, 0, 2)])
