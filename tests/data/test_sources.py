"""What counts as a source; folders of classes, and images that are built in."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from vitray.data.decode import decode, sniff
from vitray.data.sources import Item, Splits, open_source
from vitray.errors import DataError


def items(spec: str | Path, splits: Splits = "fractions") -> list[Item]:
    """All items, as another process would read them; what can be read again is."""
    source = pickle.loads(pickle.dumps(open_source(str(spec), splits=splits)))
    found = []
    for number, chunk in enumerate(source.chunks()):
        assert chunk.number == number
        inside = list(source.items(pickle.loads(pickle.dumps(chunk))))
        assert chunk.images in (None, len(inside))
        found += inside
    assert len({item.key for item in found}) == len(found)
    assert all(source.reread(item.place) == item.data for item in found if source.rereads and item.problem is None)
    return found


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))
    return folder


def test_a_relative_folder_is_below_the_current_one_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        make(tmp_path / name, f"images/cat/{name}.png", f"images/dog/{name}.png")
        monkeypatch.chdir(tmp_path / name)
        assert [item.data for item in items("images")] == [
            b"images/cat/%b.png" % name.encode(),
            b"images/dog/%b.png" % name.encode(),
        ]


def test_digits_are_sklearns_with_their_grey_values_spread() -> None:
    found, truth = items("builtin:digits"), load_digits()
    names = open_source("builtin:digits").class_names
    assert names is not None
    assert [names[int(item.label)] for item in found] == [str(label) for label in truth.target]
    for row in (0, 1, 900, 1796):
        assert np.array_equal(decode(found[row].data, 1)[:, :, 0], np.rint(truth.images[row] * 255 / 16))


def test_synthetic_images_are_as_many_and_as_large_as_asked_for() -> None:
    spec = "builtin:synthetic?classes=7&count=300&size=24x40&channels=1&format=png"
    found = items(spec)
    assert [item.label for item in found] == [i % 7 for i in range(300)]
    assert {decode(item.data, 1).shape for item in found} == {(24, 40, 1)}
    assert {sniff(item.data) for item in found} == {"png"}
    assert len({item.data for item in found}) == 300
    assert found == items(open_source(spec).name)
    source = open_source("builtin:synthetic")
    assert source.name == "builtin:synthetic?classes=10&count=1000&size=64x64&channels=3&format=jpeg"
    assert source.class_names == tuple(f"class-{label}" for label in range(10))
    assert sum(chunk.images or 0 for chunk in source.chunks()) == 1000


def test_synthetic_photos_weigh_what_photos_do() -> None:
    found = items("builtin:synthetic?count=12&size=256")
    assert {sniff(item.data) for item in found} == {"jpeg"}
    assert all(15_000 < len(item.data) < 30_000 for item in found)


def test_synthetic_classes_can_be_learned() -> None:
    found = items("builtin:synthetic?classes=20&count=600&size=16")
    images = np.stack([decode(item.data, 3).ravel() for item in found])
    labels = [int(item.label) for item in found]
    assert KNeighborsClassifier(1).fit(images[:400], labels[:400]).score(images[400:], labels[400:]) > 0.9


def test_a_folder_lists_every_visible_file_by_its_first_folder(tmp_path: Path) -> None:
    make(tmp_path, "b/2.png", "b/deep/er/1.txt", "a/x", ".git/config", "a/.hidden", "a/.cache/y", "beside.png")
    for spec in (str(tmp_path), f"file://{tmp_path}", f"{tmp_path}/"):
        found = items(spec)
        assert open_source(spec).name == str(tmp_path)
        assert [(item.key, item.label, item.data) for item in found] == [
            ("a/x", "a", b"a/x"),
            ("b/2.png", "b", b"b/2.png"),
            ("b/deep/er/1.txt", "b", b"b/deep/er/1.txt"),
        ]


def test_many_files_come_in_chunks_that_are_the_same_each_time(tmp_path: Path) -> None:
    make(tmp_path, *(f"{'ab'[i % 2]}/{i}" for i in range(100)))
    source = open_source(str(tmp_path))
    assert source.chunks() == source.chunks()
    assert len(source.chunks()) == 4
    assert len(items(tmp_path)) == 100


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    make(tmp_path, "root/cat/1", "root/cat/in/3", "elsewhere/2")
    (tmp_path / "root/cat/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/cat/in/circle").symlink_to(tmp_path / "root/cat")
    (tmp_path / "root/cat/in/up").symlink_to(tmp_path / "root")
    assert [item.key for item in items(tmp_path / "root")] == ["cat/1", "cat/in/3", "cat/more/2"]


def test_what_cannot_be_read_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    make(tmp_path, "cat/1", "cat/3")
    os.mkfifo(tmp_path / "cat/pipe")  # reading it would wait for ever
    (tmp_path / "cat/gone").symlink_to(tmp_path / "nowhere")
    name = os.fsdecode(b"cat/caf\xe9")  # no UTF-8
    make(tmp_path, name)
    found = {item.key: item.problem for item in items(tmp_path)}
    assert found == {
        "cat/1": None,
        "cat/3": None,
        "cat/caf\\udce9": None,
        "cat/gone": "cannot be read: No such file or directory",
        "cat/pipe": "not a regular file",
    }


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "testing"), ("train", "validation")])
def test_sub_folders_can_be_the_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    make(tmp_path, *(f"{name}/{label}/in/1.png" for name in names for label in ("cat", "dog")))
    found = items(tmp_path, "folders")
    assert {(item.split, item.label) for item in found} == {
        (split, label) for split in ("train", "val", "test")[: len(names)] for label in ("cat", "dog")
    }
    with pytest.raises(DataError, match="those are splits, not classes") as error:
        items(tmp_path)
    assert "--splits folders" in str(error.value)


@pytest.mark.parametrize("names", [("train", "cat"), ("val", "test"), ("train", "training"), ("cat", "dog")])
def test_split_folders_are_all_or_none(tmp_path: Path, names: tuple[str, ...]) -> None:
    make(tmp_path, *(f"{name}/cat/1.png" for name in names))
    with pytest.raises(DataError, match="must be train and, if there are any, val and test"):
        items(tmp_path, "folders")


def test_a_split_folder_needs_classes(tmp_path: Path) -> None:
    make(tmp_path, "train/cat/1.png", "test/2.png")
    with pytest.raises(DataError, match="has no sub-folders") as error:
        items(tmp_path, "folders")
    assert error.value.where == str(tmp_path / "test")


def test_a_stray_archive_makes_a_folder_of_images_no_archive(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png", "cat/2.png", "cat/old.tar", "listing.parquet")
    assert [item.key for item in items(tmp_path)] == ["cat/1.png", "cat/2.png", "cat/old.tar"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("builtin:digit", "did you mean 'builtin:digits'"),
        ("builtin:digits?size=3", "it takes no options"),
        ("builtin:synthetic?clases=3", "did you mean 'classes'?"),
        ("builtin:synthetic?classes", "not key=value"),
        ("builtin:synthetic?classes=", "gives classes no value"),
        ("builtin:synthetic?classes=2&classes=3", "gives classes twice"),
        ("builtin:synthetic?count=many", "count must be a whole number above 0, not 'many'"),
        ("builtin:synthetic?count=0", "count must be a whole number above 0"),
        ("builtin:synthetic?count=-5", "count must be a whole number above 0"),
        ("builtin:synthetic?classes=5&count=4", "count must be at least classes"),
        ("builtin:synthetic?size=3x4x5", "size must be 64 or 64x96"),
        ("builtin:synthetic?size=99999", "size must be at most 4096"),
        ("builtin:synthetic?channels=2", "channels must be 1 or 3"),
        ("builtin:synthetic?format=gif", "format must be jpeg or png"),
        ("nowhere", "builtin:digits\n"),
        ("nowhere/*.tar", "no folder that is there"),
        ("{here}/file", "no kind that can be a source"),
        ("{here}/flat", "has no sub-folders"),
        ("{here}/hollow", "holds no files"),
        ("{here}/no*.tar", "there is no such file"),
        ("{here}/a{{1..x}}.tar", "cannot expand {1..x}"),
        ("{here}/a{{3..1}}.tar", "cannot expand {3..1}"),
        ("", "is no path"),
        ("gopher://a/b", "cannot be opened"),
    ],
)
def test_what_is_no_source_is_refused_with_what_would_be(tmp_path: Path, spec: str, says: str) -> None:
    make(tmp_path, "file", "flat/1.png")
    (tmp_path / "hollow/cat").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        items(spec.format(here=tmp_path))
    assert says in str(error.value)
    assert error.value.remedy


def test_column_names_are_refused_where_there_are_no_columns(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png")
    for spec in ("builtin:digits", str(tmp_path)):
        with pytest.raises(DataError, match="has no use for --label-column"):
            open_source(spec, label_column="label")


def test_messages_show_no_credentials() -> None:
    with pytest.raises(DataError) as error:
        open_source("gopher://user:pa55word@bucket/x")
    assert "pa55word" not in str(error.value)


def test_images_pillow_can_open(tmp_path: Path) -> None:
    for item in items("builtin:synthetic?classes=3&count=3&size=20x30"):
        assert Pil.open(io.BytesIO(item.data)).size == (30, 20)
