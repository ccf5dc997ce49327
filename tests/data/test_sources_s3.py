"""Every kind of source behind an S3 address, read from a server process."""

from __future__ import annotations

import io
import pickle
import tarfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import KEY, SECRET, Bucket, new_bucket

from vitray.data.sources import Item, open_source
from vitray.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket(s3_port: int) -> Bucket:
    bucket = new_bucket(s3_port)
    for name in ("cat/1.png", "cat/in/2 x.png", "dog/3.png", ".git/config"):
        bucket.put(f"pictures/{name}", name.encode())
    for split in ("train", "test"):
        bucket.put(f"split/{split}/cat/1.png", split.encode())
        bucket.put(f"shards/{split}-000.tar", archive())
    table = pa.table({"image": [b"one", b"two"], "label": ["cat", "dog"]})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=1)
    bucket.put("table/in/train.parquet", file.getvalue())
    listing = f"path,label\ncat/in/2 x.png,1\ngone.png,2\ns3://{bucket.name}/pictures/dog/3.png,3\n"
    bucket.put("pictures/list.csv", listing.encode())
    return bucket


def archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in (("1.jpg", bytes(3_000_000)), ("1.cls", b"4"), ("2.jpg", b"x"), ("2.cls", b"5")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def items(uri: str, **options: Any) -> list[Item]:
    source = pickle.loads(pickle.dumps(open_source(uri, **options)))
    assert SECRET not in source.name
    assert KEY not in source.name
    found = [item for chunk in source.chunks() for item in source.items(chunk)]
    assert all(source.reread(item.place) == item.data for item in found if source.rereads and item.problem is None)
    return found


def test_a_folder_of_classes(bucket: Bucket) -> None:
    assert [(item.key, item.label, item.data) for item in items(bucket.uri("pictures"))] == [
        ("cat/1.png", "cat", b"cat/1.png"),
        ("cat/in/2 x.png", "cat", b"cat/in/2 x.png"),
        ("dog/3.png", "dog", b"dog/3.png"),
    ]
    found = items(bucket.uri("split"), splits="folders")
    assert [(item.split, item.label) for item in found] == [("test", "cat"), ("train", "cat")]


def test_a_listing(bucket: Bucket) -> None:
    found = items(bucket.uri("pictures/list.csv"))
    assert [(item.label, item.data, item.problem) for item in found] == [
        (1, b"cat/in/2 x.png", None),
        (2, b"", "cannot be read: No such file or directory"),
        (3, b"dog/3.png", None),
    ]


@pytest.mark.parametrize("path", ["table", "table/in/train.parquet"])
def test_parquet(bucket: Bucket, path: str) -> None:
    found = items(bucket.uri(path), splits="folders")
    assert [(item.label, item.data, item.split) for item in found] == [
        ("cat", b"one", "train"),
        ("dog", b"two", "train"),
    ]


@pytest.mark.parametrize("path", ["shards", "shards/*.tar", "shards/{test,train}-{000..000}.tar"])
def test_archives(bucket: Bucket, path: str) -> None:
    found = items(bucket.uri(path))
    assert [(item.key, item.label, len(item.data)) for item in found] == [
        ("test-000.tar/1", 4, 3_000_000),
        ("test-000.tar/2", 5, 1),
        ("train-000.tar/1", 4, 3_000_000),
        ("train-000.tar/2", 5, 1),
    ]


@pytest.mark.parametrize("path", ["nowhere", "shards/no-*.tar", "pictures/cat/1.png"])
def test_what_is_not_there_is_named_without_secrets(bucket: Bucket, path: str) -> None:
    with pytest.raises(DataError) as error:
        items(bucket.uri(path))
    assert path in str(error.value)
    assert SECRET not in str(error.value)
