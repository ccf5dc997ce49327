"""A split, or several end to end, as rows: what is read, how often, and in which order."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.data.shards import ShardStore
from vitray.data.view import SplitView
from vitray.errors import DataError


def row_by_row(store: ShardStore, split: str) -> tuple[list[bytes], list[int]]:
    tables = [store.read_group(split, group) for group in range(store.num_groups(split))]
    images = [image for table in tables for image in table.column("image").to_pylist()]
    return images, [label for table in tables for label in table.column("label").to_pylist()]


@pytest.fixture(scope="module")
def store(photos: Path) -> ShardStore:
    return ShardStore.open(photos)


@pytest.mark.parametrize("split", ["train", "val", "train+val", "val+train+test"])
def test_rows_are_those_of_the_parts_end_to_end(store: ShardStore, split: str) -> None:
    view = SplitView(store, split)
    images: list[bytes] = []
    labels: list[int] = []
    for part in split.split("+"):
        more_images, more_labels = row_by_row(store, part)
        images += more_images
        labels += more_labels
    assert view.rows == len(images)
    found, found_labels = view.read(np.arange(view.rows))
    assert found == images
    assert found_labels.tolist() == labels
    assert view.labels().tolist() == labels


@settings(max_examples=50)
@given(data=st.data())
def test_any_rows_come_in_the_order_asked_for(store: ShardStore, data: st.DataObject) -> None:
    view = SplitView(store, "train+val")
    images, labels = view.read(np.arange(view.rows))
    ids = data.draw(st.lists(st.integers(0, view.rows - 1), max_size=70))
    found, found_labels = view.read(np.array(ids, dtype=np.int64))
    assert found == [images[i] for i in ids]
    assert found_labels.tolist() == [labels[i] for i in ids]


def test_no_rows_are_no_reads(store: ShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShardStore, "read_group", None)
    images, labels = SplitView(store, "train").read(np.empty(0, np.int64))
    assert (images, labels.tolist()) == ([], [])


def test_a_row_group_is_read_once_however_mixed_the_rows_are(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[str, int]] = []
    read = ShardStore.read_group

    def counted(self: ShardStore, split: str, group: int, columns: list[str] | None = None) -> object:
        reads.append((split, group))
        return read(self, split, group, columns)

    monkeypatch.setattr(ShardStore, "read_group", counted)
    view = SplitView(store, "train+val")
    view.read(np.random.default_rng(0).permutation(view.rows))
    assert len(reads) == len(set(reads)) == store.num_groups("train") + store.num_groups("val")


def test_an_unknown_part_is_an_error_that_lists_the_splits(store: ShardStore) -> None:
    with pytest.raises(DataError, match=r"has no split 'vla'.*\n.*train, val, test"):
        SplitView(store, "train+vla")


def test_a_view_travels_to_other_processes(store: ShardStore) -> None:
    view = SplitView(store, "train+val")
    images, _ = view.read(np.array([40, 3]))
    assert pickle.loads(pickle.dumps(view)).read(np.array([40, 3]))[0] == images
