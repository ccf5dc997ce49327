"""A few images as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitray.data import ShardedImages
from vitray.data.decode import sniff
from vitray.data.samples import write_samples
from vitray.data.view import SplitView


def test_as_many_classes_as_there_are_files(digits: Path, tmp_path: Path) -> None:
    data = ShardedImages.open(str(digits))
    files = write_samples(data, "test", tmp_path / "a" / "b", 5)
    assert [f.name.split("-")[0] for f in files] == ["0", "1", "2", "3", "4"]
    assert sorted(files) == sorted((tmp_path / "a" / "b").iterdir())
    many = write_samples(data, "test", tmp_path / "c", 23)
    assert [f.name.split("-")[0] for f in many] == [str(i % 10) for i in range(23)]
    assert len(set(many)) == 23


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_a_file_holds_the_stored_bytes_and_its_name_says_what_it_is(photos: Path, tmp_path: Path, count: int) -> None:
    data = ShardedImages.open(str(photos))
    view = SplitView(data.store, "test")
    images, labels = view.read(np.arange(view.rows))
    files = write_samples(data, "test", tmp_path, count)
    assert len(files) == min(count, view.rows)
    for file in files:
        label, row = file.stem.split("-")
        assert file.read_bytes() == images[int(row)]
        assert label == data.classes[labels[int(row)]]
        assert {"jpeg": ".jpg", "png": ".png"}[sniff(images[int(row)]) or ""] == file.suffix


def test_writing_again_changes_nothing(digits: Path, tmp_path: Path) -> None:
    data = ShardedImages.open(str(digits))
    first = write_samples(data, "test", tmp_path, 5)
    assert write_samples(data, "test", tmp_path, 5) == first
    assert len(list(tmp_path.iterdir())) == 5
