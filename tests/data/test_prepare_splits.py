"""Splits that the source makes itself: kept as they are, without an image leaking from one into another."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listed import Listed

from vitray.data.facts import Facts, gather
from vitray.data.manifest import SPLITS, Manifest
from vitray.data.options import PrepareOptions
from vitray.data.placement import place
from vitray.data.prepare import prepare
from vitray.data.scan import SCANNED
from vitray.data.shards import ShardStore
from vitray.data.sources import Chunk, Item
from vitray.errors import DataError


def png(number: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((2, 2), number, np.uint8))[1])


def make(root: Path, images: dict[str, int]) -> Path:
    """One-colour PNG files; equal numbers are equal bytes."""
    for name, number in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number))
    return root


def rows(folder: Path, split: str) -> Counter[tuple[str, bytes]]:
    store = ShardStore.open(folder)
    tables = [store.read_group(split, group) for group in range(store.num_groups(split))]
    found = [row for table in tables for row in table.select(["label", "image"]).to_pylist()]
    return Counter((store.manifest.classes[row["label"]], row["image"]) for row in found)


def counts(manifest: Manifest) -> list[int]:
    return [manifest.splits[name].rows for name in SPLITS]


def test_folders_are_the_splits(tmp_path: Path) -> None:
    names = [f"{s}/{c}/{i}.png" for s in ("train", "val", "test") for c in ("cat", "dog") for i in range(5)]
    source = make(tmp_path / "src", {name: number for number, name in enumerate(names)})
    manifest = prepare(str(source), tmp_path / "ds", splits="folders", rows_per_group=4)
    assert (manifest.classes, counts(manifest), manifest.refused) == (("cat", "dog"), [10, 10, 10], 0)
    for split in SPLITS:
        want = {(path.parent.name, path.read_bytes()) for path in (source / split).rglob("*.png")}
        assert rows(tmp_path / "ds", split) == Counter(want)


def test_an_image_in_several_splits_stays_in_the_most_held_out_one(tmp_path: Path) -> None:
    images = {f"{s}/{c}/{i}.png": 10 * n + i for n, s in enumerate(SPLITS) for c in ("cat",) for i in range(5)}
    images |= {"train/cat/leak.png": 20, "val/cat/leak.png": 20, "train/cat/again.png": 13, "train/cat/twin.png": 0}
    manifest = prepare(str(make(tmp_path / "src", images)), tmp_path / "ds", splits="folders")
    assert counts(manifest) == [6, 5, 5]
    assert (manifest.refused, manifest.duplicates) == (3, 1)
    quarantine = pq.read_table(tmp_path / "ds/quarantine.parquet").to_pylist()
    assert [(row["path"], row["reason"]) for row in quarantine] == [
        ("train/cat/again.png", "duplicate of val/cat/3.png in split val"),
        ("train/cat/leak.png", "duplicate of test/cat/0.png in split test"),
        ("val/cat/leak.png", "duplicate of test/cat/0.png in split test"),
    ]
    assert all(len(row["sha256"]) == 64 for row in quarantine)


def test_a_split_that_is_missing_stays_empty_or_is_taken_from_train(tmp_path: Path) -> None:
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("cat", "dog") for i in range(20)]
    source = make(tmp_path / "src", {name: number for number, name in enumerate(names)})
    alone = prepare(str(source), tmp_path / "alone", splits="folders")
    divided = prepare(str(source), tmp_path / "divided", splits="folders", fractions=(0.5, 0.25, 0.25))
    assert counts(alone)[1] == 0
    assert counts(divided) == [counts(alone)[0] - 10, 10, counts(alone)[2]]
    assert divided.splits["val"].class_counts == (5, 5)
    assert rows(tmp_path / "alone", "test") == rows(tmp_path / "divided", "test")
    assert rows(tmp_path / "alone", "train") == rows(tmp_path / "divided", "train") + rows(tmp_path / "divided", "val")


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "only", {f"test/{c}/{i}.png": i for c in ("cat", "dog") for i in range(3)})
    make(source, {"train/cat/9.png": 9})
    with pytest.raises(DataError, match="class 'dog' has no image to train on"):
        prepare(str(source), tmp_path / "ds", splits="folders")
    unsaid = Listed((Item("a", "x", png(1), split="train"), Item("b", "x", png(2))))
    with pytest.raises(DataError, match="b: the source does not say which split"):
        prepare(unsaid, tmp_path / "ds", splits="folders")
    assert not (tmp_path / "ds").exists()


def facts_of(source: Listed) -> Facts:
    """The facts of items whose bytes need be no images."""

    def table(chunk: Chunk) -> pa.Table:
        found = [
            {
                "key": item.key.encode(),
                "label": f"n:{item.label}",
                "split": SPLITS.index(str(item.split)),
                "found": hashlib.sha256(item.data).digest(),
            }
            for item in source.items(chunk)
        ]
        return pa.Table.from_pylist(found, schema=SCANNED)

    chunks = source.chunks()
    return gather(source, chunks, map(table, chunks), max_bad_fraction=0, scanned=lambda done, total: None)


IMAGES = st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, 2), st.integers(0, 12)), min_size=1, max_size=40)


@given(IMAGES, st.sampled_from([None, (0.6, 0.2, 0.2), (0.8, 0.2, 0.0)]))
def test_no_bytes_are_in_two_splits_and_none_are_lost(
    images: list[tuple[str, int, int]], fractions: tuple[float, float, float] | None
) -> None:
    items = [Item(f"{n:03d}", f"class {c}", b"%d" % bytes_, split=s) for n, (s, c, bytes_) in enumerate(images)]
    # Every class can be trained on, by an image of its own.
    items += [Item(f"own {c}", f"class {c}", b"own %d" % c, split="train") for c in range(3)]
    source = Listed(tuple(items))
    options = PrepareOptions(
        seed=0,
        size=None,
        rows_per_group=8,
        shard_mb=1,
        splits="folders",
        fractions=fractions,
        max_bad_fraction=0,
        max_pixels=100,
    )
    placement = place(facts_of(source), options)
    found = {row: split for split, members in placement.rows.items() for row in members.tolist()}
    assert sorted([*found, *placement.dropped]) == list(range(len(items)))
    data = sorted((item.key, item.data) for item in items)
    for one, split in found.items():
        assert all(split == other for row, other in found.items() if data[row][1] == data[one][1])
    kept = {data[row][1] for row in found}
    assert kept == {item.data for item in items}
    assert all(reason.startswith("duplicate of ") for reason in placement.dropped.values())
