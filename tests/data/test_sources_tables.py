"""Listings of images, and images inside Parquet."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitray.data.sources import Item, open_source
from vitray.errors import DataError

HF = {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "label": pa.int64()}


def items(spec: Path | str, **options: Any) -> list[Item]:
    source = pickle.loads(pickle.dumps(open_source(str(spec), **options)))
    found = []
    for chunk in source.chunks():
        inside = list(source.items(chunk))
        assert chunk.images == len(inside)
        found += inside
    assert len({item.key for item in found}) == len(found)
    assert all(source.reread(item.place) == item.data for item in found if source.rereads and item.problem is None)
    return found


def listing(folder: Path, text: str, name: str = "list.csv") -> Path:
    for image in ("1.jpg", "in/2.jpg", "3.jpg"):
        (folder / "pictures" / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / "pictures" / image).write_bytes(image.encode())
    (folder / name).write_text(text)
    return folder / name


def hugging_face(
    path: Path, images: list[Any], labels: list[Any], names: list[str] | None = None, **options: Any
) -> None:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"image": images, "label": labels}, schema=pa.schema(list(HF.items()), meta)), path, **options
    )


def test_a_listing_names_its_images_from_its_own_folder(tmp_path: Path) -> None:
    here = tmp_path / "pictures"
    path = listing(tmp_path, f"path,label\npictures/1.jpg,cat\n{here}/in/2.jpg,dog\nfile://{here}/3.jpg,cat\n")
    for spec in (path, f"file://{path}"):
        assert [(item.label, item.data) for item in items(spec)] == [
            ("cat", b"1.jpg"),
            ("dog", b"in/2.jpg"),
            ("cat", b"3.jpg"),
        ]
    assert [item.key for item in items(path)] == ["pictures/1.jpg", f"{here}/in/2.jpg", f"file://{here}/3.jpg"]


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("path,label", {}),
        ("File,CLASS", {}),
        ("image,y", {}),
        ("filepath,category", {}),
        ("a,b", {"path_column": "a", "label_column": "b"}),
        ("filename,b", {"label_column": "b"}),
    ],
)
def test_columns_are_found_by_their_usual_names_or_named(tmp_path: Path, header: str, options: dict[str, str]) -> None:
    found = items(listing(tmp_path, f"{header}\npictures/1.jpg,cat\n"), **options)
    assert [(item.key, item.label) for item in found] == [("pictures/1.jpg", "cat")]


def test_missing_columns_are_told_with_those_there_are(tmp_path: Path) -> None:
    path = listing(tmp_path, "where,what,path\n1,2,3\n")
    with pytest.raises(DataError, match=r"hold the label; its columns: where, what, path") as error:
        items(path)
    assert "--label-column" in str(error.value)
    with pytest.raises(DataError, match=r"no column 'wat'; its columns: where, what, path") as error:
        items(path, label_column="wat")
    assert "did you mean 'what'" in str(error.value)
    with pytest.raises(DataError, match=r"no column 'split'"):
        items(path, label_column="what", splits="folders")
    with pytest.raises(DataError, match="has no use for --image-column"):
        items(path, image_column="what")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["3", "0", "12"], [3, 0, 12]),
        ([" 3", "0 ", "-1"], [3, 0, -1]),
        (["3", "0", "cat"], ["3", "0", "cat"]),
        (["007", "7", "1"], ["007", "7", "1"]),
        (["1.0", "2", "1e3"], ["1.0", "2", "1e3"]),
        (["true", "NA", "null"], ["true", "NA", "null"]),
    ],
)
def test_labels_are_numbers_only_where_all_are(tmp_path: Path, written: list[str], read: list[Any]) -> None:
    rows = "".join(f"pictures/1.jpg\t{label}\n" for label in written)
    assert [item.label for item in items(listing(tmp_path, f"path\tlabel\n{rows}", "list.tsv"))] == read


def test_rows_that_lack_something_are_refused_by_number(tmp_path: Path) -> None:
    path = listing(
        tmp_path,
        "path,label,split\npictures/1.jpg,4,train\n,5,train\npictures/1.jpg,,val\ngone.jpg,6,test\npictures/3.jpg,7,dev\n",
    )
    assert [(item.key, item.label, item.problem) for item in items(path)] == [
        ("pictures/1.jpg", 4, None),
        ("row 2", 5, "row 2 has no path"),
        ("pictures/1.jpg (row 3)", "", "row 3 has no label"),
        ("gone.jpg", 6, "cannot be read: No such file or directory"),
        ("pictures/3.jpg", 7, None),
    ]
    found = items(path, splits="folders")
    assert [item.split for item in found] == ["train", "train", "val", "test", None]
    assert found[-1].problem is not None
    assert "split 'dev' is none of train" in found[-1].problem


@pytest.mark.parametrize(
    "text", ["", "path,label\n", "path,label\n1,2,3\n", "path,path\n1,2\n", "path,label\n\0,\xff\n"]
)
def test_what_is_no_listing_is_refused(tmp_path: Path, text: str) -> None:
    path = listing(tmp_path, "")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as error:
        items(path)
    assert error.value.where == str(path)
    assert error.value.remedy


def test_a_parquet_listing_keeps_its_types(tmp_path: Path) -> None:
    listing(tmp_path, "")
    table = pa.table({"path": ["pictures/1.jpg", None], "label": pa.array(["1", "2"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "list.parquet")
    found = items(tmp_path / "list.parquet")
    assert [(item.key, item.label) for item in found] == [("pictures/1.jpg", 1), ("row 2", 2)]
    pq.write_table(table.set_column(1, "label", pa.array([1.5, 2.0])), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"'label' holds double, no class names or whole numbers"):
        items(tmp_path / "list.parquet")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_images_in_a_binary_column(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"jpg": pa.array([b"one", b"", None, b"four"], kind), "class": ["cat", "dog", "cat", None]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    assert [(item.key, item.label, item.data, item.problem) for item in items(tmp_path / "a.parquet")] == [
        ("a.parquet#0", "cat", b"one", None),
        ("a.parquet#1", "dog", b"", None),  # no image either, but that is for the decoder to say
        ("a.parquet#2", "cat", b"", "has no image"),
        ("a.parquet#3", "", b"", "has no label"),
    ]
    assert len(open_source(str(tmp_path / "a.parquet")).chunks()) == 2


def test_hugging_faces_images_and_class_names(tmp_path: Path) -> None:
    images = [{"bytes": b"one", "path": "x.png"}, {"bytes": None, "path": "2.png"}, {"bytes": None, "path": "3.png"}]
    hugging_face(tmp_path / "a.parquet", [*images, None, images[0]], [0, 1, 1, 0, 2], ["cat", "dog"])
    (tmp_path / "2.png").write_bytes(b"two")
    assert open_source(str(tmp_path / "a.parquet")).class_names == ("cat", "dog")
    assert [(item.label, item.data, item.problem) for item in items(tmp_path / "a.parquet")] == [
        (0, b"one", None),
        (1, b"two", None),
        (1, b"", "cannot be read: No such file or directory"),
        (0, b"", "has no image"),
        (2, b"", "label 2 is none of the 2 classes"),
    ]


@pytest.mark.parametrize("pattern", ["data/{}-00000-of-00001.parquet", "{}/0000.parquet", "{}.parquet"])
def test_parquet_files_and_their_folders_say_the_split(tmp_path: Path, pattern: str) -> None:
    image = {"bytes": b"one", "path": None}
    for name in ("train", "validation", "test"):
        hugging_face(tmp_path / pattern.format(name), [image] * 3, [0, 1, 1], ["cat", "dog"], row_group_size=2)
    (tmp_path / "README.md").touch()
    found = items(tmp_path, splits="folders")
    assert [(item.key.split("#")[0], item.split) for item in found[::3]] == [
        (pattern.format(name), split) for name, split in (("test", "test"), ("train", "train"), ("validation", "val"))
    ]
    assert {item.split for item in items(tmp_path)} == {None}
    hugging_face(tmp_path / pattern.format("extra"), [image], [0], ["cat", "dog"])
    with pytest.raises(DataError, match="does not say whether it is train, val or test"):
        items(tmp_path, splits="folders")


def test_parquet_files_must_agree(tmp_path: Path) -> None:
    image = {"bytes": b"one", "path": None}
    hugging_face(tmp_path / "a.parquet", [image], [0], ["cat", "dog"])
    hugging_face(tmp_path / "b.parquet", [image], [0], ["dog", "cat"])
    with pytest.raises(DataError, match=r"names its classes otherwise than a.parquet") as error:
        items(tmp_path)
    assert error.value.where == str(tmp_path / "b.parquet")
    pq.write_table(pa.table({"image": [b"one"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="has no column 'label'; its columns: image"):
        items(tmp_path)


def test_which_column_holds_the_images_can_be_said(tmp_path: Path) -> None:
    pq.write_table(pa.table({"left": [b"1"], "right": [b"2"], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"known to hold the image; its columns: left, right, label"):
        items(tmp_path / "a.parquet")
    assert [item.data for item in items(tmp_path / "a.parquet", image_column="right")] == [b"2"]
    with pytest.raises(DataError, match="no encoded images"):
        items(tmp_path / "a.parquet", image_column="label")


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"x" * 5000], "label": ["cat"]}), path, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes({"cut": bytes(data[:-30]), "flip": bytes(data), "empty": b""}[damage])
    with pytest.raises(DataError) as error:
        items(path)
    assert error.value.where == str(path)


def test_a_prepared_dataset_is_no_source(small_shards: Path) -> None:
    with pytest.raises(DataError, match="is a prepared dataset already"):
        open_source(str(small_shards))


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match="holds no rows"):
        items(tmp_path / "a.parquet")
