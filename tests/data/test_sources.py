"""What counts as a source, and which records it has."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vitray.data.decode import decode
from vitray.data.sources._old import ImageFolder, open_source
from vitray.errors import DataError


def keys(folder: Path) -> list[str]:
    return [record.key for record in ImageFolder(folder).records()]


def test_digits_are_sklearns_with_their_grey_values_spread() -> None:
    source = pickle.loads(pickle.dumps(open_source("builtin:digits")))
    records, truth = source.records(), load_digits()
    assert [record.label for record in records] == [str(label) for label in truth.target]
    for row in (0, 1, 900, 1796):
        image = decode(source.read(records[row]), 1)
        assert np.array_equal(image[:, :, 0], np.rint(truth.images[row] * 255 / 16))


def test_a_folder_lists_every_visible_file_by_its_first_folder(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/deep/er/1.txt", "a/x", ".git/config", "a/.hidden", "a/.cache/y", "beside.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    records = ImageFolder(tmp_path).records()
    assert [(record.key, record.label) for record in records] == [
        ("a/x", "a"),
        ("b/2.png", "b"),
        ("b/deep/er/1.txt", "b"),
    ]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "root/cat/in").mkdir(parents=True)
    (tmp_path / "root/cat/1").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/2").touch()
    (tmp_path / "root/cat/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/cat/in/circle").symlink_to(tmp_path / "root/cat")
    (tmp_path / "root/cat/in/up").symlink_to(tmp_path / "root")
    assert keys(tmp_path / "root") == ["cat/1", "cat/more/2"]


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat/pipe")
    source = ImageFolder(tmp_path)
    with pytest.raises(DataError, match="not a regular file"):
        source.read(source.records()[0])


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("builtin:digit", "did you mean 'builtin:digits'?"),
        ("nowhere", "builtin:digits, or a folder"),
        ("{here}/file", "is a file"),
        ("{here}/flat", "has no sub-folders"),
        ("{here}/hollow", "holds no files"),
    ],
)
def test_what_is_no_source_is_refused_with_what_would_be(tmp_path: Path, spec: str, says: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/1.png").touch()
    (tmp_path / "hollow/cat").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        open_source(spec.format(here=tmp_path)).records()
    assert says in str(error.value)
    assert error.value.remedy
