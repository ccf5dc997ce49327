"""What can be scored: every kind of source, in the order given, with names, true classes and a stamp of its content."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import KEY, SECRET, Bucket

from vitray.data.decode import encode_png
from vitray.data.sources.source import Item
from vitray.errors import DataError
from vitray.inference.inputs import Inputs, open_inputs

CLASSES = ("cat", "dog")


def items(inputs: Inputs) -> list[Item]:
    """All of them, as other processes would read them."""
    chunks = inputs.chunks()
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    there = pickle.loads(pickle.dumps(inputs))
    return [item for chunk in chunks for item in there.items(pickle.loads(pickle.dumps(chunk)))]


def keys_and_labels(*specs: str | Path, **options: str) -> list[tuple[str, str | int]]:
    found = items(open_inputs([str(spec) for spec in specs], classes=CLASSES, **options))  # type: ignore[arg-type]
    assert all(item.data and item.problem is None for item in found)
    return [(item.key, item.label) for item in found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures at several depths, and what else lies about in a folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "cat/1.png", "cat/old/2.PNG", "dog/10.webp", "dog/9.png", "x/train/dog/1.gif"):
        file = tmp_path / "pics" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    (tmp_path / "pics" / "notes.txt").write_text("no picture")
    (tmp_path / "pics" / ".hidden.jpg").write_text("no")
    return tmp_path


def test_a_folder_at_any_depth_with_the_classes_that_its_folders_name(folder: Path) -> None:
    names = [("a.jpg", ""), ("cat/1.png", "cat"), ("cat/old/2.PNG", "cat"), ("dog/10.webp", "dog"),
             ("dog/9.png", "dog"), ("x/train/dog/1.gif", "dog")]  # fmt: skip
    assert keys_and_labels("pics") == [(f"pics/{name}", label) for name, label in names]
    assert keys_and_labels(folder / "pics") == [(f"{folder}/pics/{name}", label) for name, label in names]
    assert open_inputs(["pics"]).notes == ("pics: 1 files that are no images by their names are left out",)


def test_files_patterns_and_folders_in_the_order_given(folder: Path) -> None:
    assert [key for key, _ in keys_and_labels("pics/dog/9.png", "pics/a.jpg", "pics/cat")] == [
        "pics/dog/9.png", "pics/a.jpg", "pics/cat/1.png", "pics/cat/old/2.PNG"
    ]  # fmt: skip
    assert [key for key, _ in keys_and_labels("pics/*/*.png")] == ["pics/cat/1.png", "pics/dog/9.png"]
    assert [key for key, _ in keys_and_labels("pics/**/1.*")] == ["pics/cat/1.png", "pics/x/train/dog/1.gif"]
    (folder / "pics" / "we[i]rd.png").write_bytes(b"a name that looks like a pattern")
    assert keys_and_labels("pics/we[i]rd.png") == [("pics/we[i]rd.png", "")]


def test_parquet_and_tar_files_need_no_labels(folder: Path) -> None:
    plain = pa.table({"picture": pa.array([b"one", b"two", b"three"])})
    pq.write_table(plain, "plain.parquet", row_group_size=2)
    assert keys_and_labels("plain.parquet") == [(f"plain.parquet#{row}", "") for row in range(3)]
    struct = pa.array([{"bytes": b"one", "path": None}, {"bytes": None, "path": "a.jpg"}])
    Path("hf").mkdir()
    pq.write_table(pa.table({"image": struct, "label": ["dog", None]}), "hf/0.parquet")
    (folder / "hf" / "a.jpg").write_bytes(b"beside it")
    assert keys_and_labels("hf/0.parquet") == [("hf/0.parquet#0", "dog"), ("hf/0.parquet#1", "")]
    two = pa.table({"front": pa.array([b"one"]), "back": pa.array([b"two"]), "label": [0.5]})
    pq.write_table(two, "two.parquet")
    (item,) = items(open_inputs(["two.parquet"], image_column="back"))
    assert (item.data, item.label) == (b"two", "")  # a score is no class
    with tarfile.open("shard.tar", "w") as archive:
        for name, data in {"1.png": b"one", "1.cls": b"cat", "2.png": b"two", "3.cls": b"dog"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = items(open_inputs(["shard.tar"]))
    assert [(item.key, item.label, item.problem) for item in found] == [
        ("shard.tar/1", "cat", None), ("shard.tar/2", "", None), ("shard.tar/3", "dog", "has no image")
    ]  # fmt: skip
    pq.write_table(pa.table({"where": ["pics/a.jpg"]}), "list.parquet")
    (item,) = items(open_inputs(["list.parquet"], path_column="where"))
    assert (item.key, item.data) == ("pics/a.jpg", b"a.jpg")
    Path("list.csv").write_text("file\npics/a.jpg\npics/dog/9.png\n")
    assert keys_and_labels("list.csv") == [("pics/a.jpg", ""), ("pics/dog/9.png", "")]


def test_a_dataset_has_its_rows_in_order_and_its_classes_by_name(digits: Path, folder: Path) -> None:
    found = items(open_inputs([str(digits), "pics/a.jpg"], split="val"))
    assert [item.key for item in found] == [*(f"val/{row}" for row in range(180)), "pics/a.jpg"]
    from vitray.data.images import ShardedImages

    data = ShardedImages.open(str(digits))
    assert [item.label for item in found[:-1]] == [data.classes[label] for label in data.store.labels("val")]
    assert len(items(open_inputs([str(digits)]))) == data.num_samples("test")
    with pytest.raises(DataError, match="has no split 'tset'"):
        open_inputs([str(digits)], split="tset")


def test_the_stamp_changes_with_the_content_and_with_nothing_else(folder: Path) -> None:
    before = open_inputs(["pics"]).stamp
    assert open_inputs(["pics"], classes=CLASSES).stamp == before
    (folder / "pics" / "notes.txt").write_text("is left out")
    assert open_inputs(["pics"]).stamp == before
    stamps = {before, open_inputs(["pics/a.jpg"]).stamp, open_inputs(["pics/dog", "pics/cat"]).stamp}
    stamps.add(open_inputs(["pics/cat", "pics/dog"]).stamp)  # another order makes another file
    file = folder / "pics" / "a.jpg"
    os.utime(file, ns=(1, 1))
    stamps.add(open_inputs(["pics"]).stamp)
    file.write_bytes(b"longer than it was")
    stamps.add(open_inputs(["pics"]).stamp)
    file.rename(folder / "pics" / "b.jpg")
    stamps.add(open_inputs(["pics"]).stamp)
    assert len(stamps) == 7


@pytest.mark.parametrize(
    ("specs", "options", "says"),
    [
        (["nowhere"], {}, "nowhere: there is no such file or folder"),
        (["pics/*.bmp"], {}, "there is no such file"),
        (["docs"], {}, "docs: holds no image files"),
        (["pics"], {"split": "val"}, "none of these has a use for --split"),
        (["pics"], {"image_column": "x"}, "none of these has a use for --image-column"),
        ([" "], {}, "is no path"),
        (["a\0b"], {}, "is no path"),
        (["words.parquet"], {}, "no column that is known to hold the path; its columns: words"),
        (["words.parquet"], {"image_column": "words"}, "holds string, no encoded images"),
        (["words.parquet"], {"path_column": "wrods"}, "did you mean 'words'?"),
        (["broken.parquet"], {}, "broken.parquet"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder: Path, specs: list[str], options: dict[str, str], says: str) -> None:
    (folder / "docs").mkdir()
    (folder / "docs" / "a.txt").write_text("text")
    (folder / "broken.parquet").write_bytes(b"PAR1 no more")
    pq.write_table(pa.table({"words": ["a"]}), "words.parquet")
    with pytest.raises(DataError) as error:
        open_inputs(specs, **options).chunks()  # type: ignore[arg-type]
    assert says in str(error.value)
    assert error.value.remedy


def test_a_named_file_that_is_not_there_may_be_an_image_with_a_problem(folder: Path) -> None:
    (folder / "ok.png").write_bytes(encode_png(np.zeros((2, 2), np.uint8)))
    found = items(open_inputs(["ok.png", "gone.png", "pics/cat/1.png"], missing_ok=True))
    assert [item.problem for item in found] == [None, "cannot read the file: No such file or directory", None]


@pytest.mark.slow
def test_what_lies_in_a_bucket_has_names_without_credentials(bucket: Bucket) -> None:
    for name in ("cat/1.png", "cat/2.jpg", "3.png"):
        bucket.put(f"pics/{name}", name.encode())
    file = io.BytesIO()
    pq.write_table(pa.table({"image": [b"one"]}), file)
    bucket.put("tables/0.parquet", file.getvalue())
    for path, expected in {
        "pics": [("pics/3.png", ""), ("pics/cat/1.png", "cat"), ("pics/cat/2.jpg", "cat")],
        "pics/cat/*.png": [("pics/cat/1.png", "")],
        "pics/3.png": [("pics/3.png", "")],
        "tables": [("tables/0.parquet#0", "")],
        "tables/0.parquet": [("tables/0.parquet#0", "")],
    }.items():
        uri = bucket.uri(path)
        found = keys_and_labels(uri)
        shown = [(key.partition("?")[0].partition(f"{bucket.name}/")[2], label) for key, label in found]
        assert shown == expected
        inputs = open_inputs([uri])
        for text in (*(key for key, _ in found), inputs.name):
            assert KEY not in text
            assert SECRET not in text
        assert inputs.stamp == open_inputs([uri.replace(KEY, "ANOTHERKEYOFTHEM")]).stamp  # moto takes any
    with pytest.raises(DataError, match="there is no such file") as error:
        open_inputs([bucket.uri("pics/none.png")], missing_ok=True)
    assert SECRET not in str(error.value)
