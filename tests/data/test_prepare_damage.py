"""What cannot be used costs itself and nothing else, and is listed by name; too much of it stops the preparation."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listed import Listed
from PIL import Image

from vitray.data.decode import encode_png
from vitray.data.facts import Refused
from vitray.data.prepare import prepare
from vitray.data.scan import SCANNED
from vitray.data.shards import ShardStore
from vitray.data.sources import Item
from vitray.data.verify import verify
from vitray.errors import DataError

pytestmark = pytest.mark.slow

MakeFolder = Callable[..., Path]


def quarantine(folder: Path) -> list[dict[str, str | None]]:
    table = pq.read_table(folder / "quarantine.parquet")
    assert table.column_names == ["path", "sha256", "reason"]
    rows: list[dict[str, str | None]] = table.to_pylist()
    return rows


def bomb() -> bytes:
    """A PNG whose header promises ten gigapixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + end


def test_damaged_files_go_to_quarantine_and_nothing_else(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(per_class=40)
    jpeg, png = (folder / "cat/0.jpg").read_bytes(), (folder / "cat/1.png").read_bytes()
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 4
    damage = {
        "cat/bomb.png": (bomb(), "100000x100000 pixels by its header, more than 64,000,000"),
        "cat/empty.jpg": (b"", "empty file"),
        "cat/cut.jpg": (jpeg[:-30], "truncated JPEG"),
        "cat/cut.png": (png[: len(png) // 2], "truncated PNG"),
        "dog/flipped.png": (bytes(flipped), "damaged PNG: cannot be decoded"),
        "dog/page.jpg": (b"<!DOCTYPE html><title>404</title>", "not an image of a kind that can be used, but HTML"),
        "dog/notes.txt": (b"my dogs", "not an image"),
    }
    for name, (data, _) in damage.items():
        (folder / name).write_bytes(data)
    (folder / "dog/dangling.jpg").symlink_to("nowhere")
    (folder / os.fsdecode(b"dog/caf\xe9\n.jpg")).touch()
    manifest = prepare(str(folder), tmp_path / "ds", max_bad_fraction=0.2)
    found = quarantine(tmp_path / "ds")
    expected: list[dict[str, str | None]] = [
        {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "reason": reason}
        for name, (data, reason) in damage.items()
    ]
    expected.append({"path": "dog/dangling.jpg", "sha256": None, "reason": "cannot be read: No such file or directory"})
    expected.append({"path": "dog/caf\\udce9\n.jpg", "sha256": hashlib.sha256().hexdigest(), "reason": "empty file"})
    assert found == sorted(expected, key=lambda row: str(row["path"]))
    assert manifest.refused == 9
    assert sum(split.rows for split in manifest.splits.values()) == 80
    assert verify(ShardStore.open(tmp_path / "ds")) == []


def test_unusual_images_are_stored_as_usual_ones_and_counted(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 32, 3), dtype=np.uint8))
    picture.convert("CMYK").save(folder / "cat/print.jpg")
    picture.convert("P").save(folder / "cat/palette.png")
    picture.convert("P").save(folder / "cat/moving.gif", save_all=True, append_images=[picture.convert("P").rotate(90)])
    picture.save(folder / "dog/large.webp", lossless=True)
    manifest = prepare(str(folder), tmp_path / "ds")
    assert manifest.refused == 0
    expected = {"animated": 1, "cmyk": 1, "gif": 1, "palette": 1, "webp": 1}
    assert manifest.converted == expected
    assert ShardStore.open(tmp_path / "ds").manifest.converted == expected


def test_a_smaller_size_is_made_of_larger_images_alone(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()  # 32 x 24
    tall = np.random.default_rng(1).integers(0, 255, (30, 8, 3), dtype=np.uint8)
    (folder / "cat/tall.png").write_bytes(encode_png(tall))
    manifest = prepare(str(folder), tmp_path / "ds", size=12)
    assert (manifest.converted, manifest.image_size) == ({"resized": 40}, None)
    store = ShardStore.open(tmp_path / "ds")
    groups = [(split, group) for split in manifest.splits for group in range(store.num_groups(split))]
    rows = [row for split, group in groups for row in store.read_group(split, group).to_pylist()]
    assert sorted({(row["width"], row["height"]) for row in rows}) == [(8, 30), (16, 12)]
    for row in rows:
        decoded = cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded.shape[:2] == (row["height"], row["width"])
    pixels = {split: info.pixels for split, info in manifest.splits.items()}
    assert sum(pixels.values()) == 3 * sum(row["width"] * row["height"] for row in rows)


def test_too_many_bad_files_stop_it_with_names_and_reasons(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    for i in range(5):
        (folder / f"cat/bad{i}.jpg").touch()
    for i in range(2):
        (folder / f"cat/page{i}.jpg").write_bytes(b"hello")
    with pytest.raises(DataError) as error:
        prepare(str(folder), tmp_path / "ds")
    message = str(error.value)
    assert "5 empty file, 2 not an image" in message
    assert "cat/bad0.jpg: empty file" in message
    assert "and 2 more" in message
    assert "--max-bad-fraction" in message
    assert list(tmp_path.iterdir()) == [folder]


def test_it_stops_as_soon_as_that_is_certain(tmp_path: Path) -> None:
    good = [Item(f"{i:04d}", "a", encode_png(np.full((2, 2), i % 256, np.uint8))) for i in range(1000)]
    bad = [Item(f"bad {i}", "a", b"") for i in range(40)]
    for counted, last in ((True, 20), (False, 1040)):  # the 21st is too many of 1,040
        done: list[int] = []
        with pytest.raises(DataError, match="cannot be used"):
            prepare(
                Listed((*bad, *good), per_chunk=10, counted=counted),
                tmp_path / "ds",
                progress=lambda phase, count, total, done=done: done.append(count),  # type: ignore[misc]
            )
        assert max(done) == last


def test_an_image_with_more_pixels_than_allowed_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    (folder / "cat/large.png").write_bytes(encode_png(np.zeros((40, 40, 3), np.uint8)))
    prepare(str(folder), tmp_path / "ds", max_pixels=1000, max_bad_fraction=0.1)
    assert [row["path"] for row in quarantine(tmp_path / "ds")] == ["cat/large.png"]


@given(st.lists(st.sampled_from([None, "empty file", "not an image"]), min_size=1, max_size=60), st.floats(0, 1))
def test_the_limit_is_exact(reasons: list[str | None], limit: float) -> None:
    import pyarrow as pa

    refused = Refused("somewhere", limit)
    refused.add(pa.Table.from_pylist([{"key": b"k", "reason": reason} for reason in reasons], schema=SCANNED))
    bad = sum(reason is not None for reason in reasons)
    if bad > limit * len(reasons):
        with pytest.raises(DataError, match=f"{bad} of the first {len(reasons)} images"):
            refused.check(len(reasons))
    else:
        refused.check(len(reasons))
