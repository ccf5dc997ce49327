"""Datasets of torchvision that lie on the disk, in the layouts that it writes."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torchvision import datasets

from vitray.data.convert import normalise
from vitray.data.decode import decode
from vitray.data.sources import Item, open_source
from vitray.errors import DataError

COUNTS = {"train": 150, "t10k": 20}


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random pictures in MNIST's own format, which carries no check sums."""
    root = tmp_path_factory.mktemp("mnist")
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count))
        )
    return root


def country(root: Path) -> Path:
    """Country211: a dataset that is a folder of JPEG files in train, valid and test."""
    for part in ("train", "valid", "test"):
        for i, label in enumerate(("AD", "ZW")):
            file = root / "country211" / part / label / "1.jpg"
            file.parent.mkdir(parents=True)
            file.write_bytes(bytes(cv2.imencode(".jpg", np.full((9, 8, 3), 90 * i, np.uint8))[1]))
    return root


def items(spec: str, **options: Any) -> list[Item]:
    source = pickle.loads(pickle.dumps(open_source(spec, **options)))
    found = []
    for chunk in source.chunks():
        inside = list(source.items(chunk))
        assert len(inside) == chunk.images
        found += inside
    assert len({item.key for item in found}) == len(found)
    assert all(source.reread(item.place) == item.data for item in found if item.problem is None)
    return found


def test_pixels_labels_and_names_are_torchvisions(mnist: Path) -> None:
    spec = f"torchvision:MNIST?root={mnist}"
    found, names = items(spec), open_source(spec).class_names
    peers = [datasets.MNIST(str(mnist), train=train) for train in (True, False)]
    assert names == tuple(peers[0].classes)
    expected = [pair for peer in peers for pair in peer]
    assert len(found) == len(expected) == 170
    for item, (picture, label) in zip(found, expected, strict=True):
        assert item.label == label
        assert np.array_equal(decode(item.data, 1)[:, :, 0], np.asarray(picture))
        assert item.split is None
    assert not normalise(found[0].data).changed


def test_its_own_splits_are_kept_when_asked_for(mnist: Path) -> None:
    found = items(f"torchvision:MNIST?root={mnist}", splits="folders")
    assert [item.split for item in found] == ["train"] * 150 + ["test"] * 20
    assert len(items(f"torchvision:MNIST?root={mnist}&split=test")) == 20


def test_a_dataset_of_files(tmp_path: Path) -> None:
    spec = f"torchvision:Country211?root={country(tmp_path)}"
    (tmp_path / "country211/train/ZW/1.jpg").write_bytes(b"<html>")
    found = items(spec, splits="folders")
    assert open_source(spec).class_names == ("AD", "ZW")
    assert [item.split for item in found] == ["train", "train", "val", "val", "test", "test"]
    assert [item.label for item in found if item.problem is None] == [0, 0, 1, 0, 1]
    assert [item.key for item in found if item.problem is not None] == ["train/0000001"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("torchvision:CIFAR1?root=x", "did you mean 'CIFAR10'"),
        ("torchvision:CIFAR10", "does not say where the dataset is"),
        ("torchvision:CIFAR10?root={here}", "finds no CIFAR10 (train) there: Dataset not found or corrupted."),
        ("torchvision:MNIST?root={here}/no", "vitray never downloads a dataset"),
        ("torchvision:MNIST?root={here}&split=val", "has no split 'val'"),
        ("torchvision:MNIST?root={here}&train=1", "has no option 'train'"),
        ("torchvision:EuroSAT?root={here}&split=train", "has no option 'split'"),
        ("torchvision:VOCDetection?root={here}", "is no dataset of torchvision that can be used"),
    ],
)
def test_what_is_not_there_is_said_and_never_downloaded(tmp_path: Path, spec: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        open_source(spec.format(here=tmp_path))
    assert says in str(error.value)
    assert error.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_splits_are_refused_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EuroSAT has no splits"):
        open_source(f"torchvision:EuroSAT?root={tmp_path}", splits="folders")
