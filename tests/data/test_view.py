"""A split, or several end to end, as rows: what is read, how often, and in which order."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.data.order import Order
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


def test_no_rows_are_no_reads(store: ShardStore) -> None:
    images, labels = SplitView(store, "train").read(np.empty(0, np.int64))
    assert (images, labels.tolist()) == ([], [])


def bytes_read() -> int:
    """What this process asked the kernel for, from the page cache or not."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


@pytest.mark.parametrize("world_size", [1, 8])
def test_an_epoch_reads_the_data_once_however_it_is_shuffled_and_divided(store: ShardStore, world_size: int) -> None:
    view = SplitView(store, "train")
    size = sum(shard.bytes for shard in store.manifest.splits["train"].shards)
    order = Order(store.fingerprint, "train", view.rows, store.rows_per_group, global_batch=16, window=2)
    before = bytes_read()
    for rank in range(world_size):
        for step in range(order.steps_per_epoch):
            view.read(order.rank_samples(step, rank, world_size))
    assert bytes_read() - before <= 1.2 * size


def test_a_damaged_row_costs_itself_alone_and_is_named(sharded: ShardStore) -> None:
    view = SplitView(sharded, "train+val")
    honest, labels = view.read(np.arange(view.rows))
    row = 21
    assert honest[row] is not None
    file = Path(view.place(row).split(", row")[0])
    content = file.read_bytes()
    file.write_bytes(content.replace(honest[row], honest[row][:-1] + b"!"))
    found, found_labels = SplitView(ShardStore.open(sharded.path), "train+val").read(np.arange(view.rows)[::-1])
    assert found_labels[::-1].tolist() == labels.tolist()
    found.reverse()
    assert found == [*honest[:row], None, *honest[row + 1 :]]


def test_an_unknown_part_is_an_error_that_lists_the_splits(store: ShardStore) -> None:
    with pytest.raises(DataError, match=r"has no split 'vla'.*\n.*train, val, test"):
        SplitView(store, "train+vla")


def test_a_view_travels_to_other_processes(store: ShardStore) -> None:
    view = SplitView(store, "train+val")
    images, _ = view.read(np.array([40, 3]))
    assert pickle.loads(pickle.dumps(view)).read(np.array([40, 3]))[0] == images
