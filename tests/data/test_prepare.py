"""From images to a dataset folder: complete, stratified, reproducible, and nothing half-done."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from vitray.data.decode import decode, encode_png
from vitray.data.manifest import SPLITS
from vitray.data.prepare import prepare
from vitray.data.shards import ShardStore
from vitray.errors import DataError

pytestmark = pytest.mark.slow

MakeFolder = Callable[..., Path]


def table(folder: Path, split: str) -> pa.Table:
    store = ShardStore.open(folder)
    return pa.concat_tables([store.read_group(split, group) for group in range(store.num_groups(split))])


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def quarantine(folder: Path) -> list[dict[str, str | None]]:
    rows: list[dict[str, str | None]] = pq.read_table(folder / "quarantine.parquet").to_pylist()
    return rows


def test_digits_are_all_there_once_stratified_and_unchanged(digits: Path) -> None:
    store, truth = ShardStore.open(digits), load_digits()
    assert [store.num_rows(split) for split in SPLITS] == [1258, 180, 359]
    seen = []
    for split in SPLITS:
        rows = table(digits, split)
        assert rows.column_names == ["sample_id", "image", "label", "width", "height"]
        assert rows["sample_id"].to_pylist() == list(range(rows.num_rows))
        assert set(rows["width"].to_pylist()) | set(rows["height"].to_pylist()) == {8}
        images = [decode(data, 1)[:, :, 0] for data in rows["image"].to_pylist()]
        seen += [(label, image.tobytes()) for label, image in zip(rows["label"].to_pylist(), images, strict=True)]
    want = [
        (int(label), np.rint(image * 255 / 16).astype(np.uint8).tobytes())
        for label, image in zip(truth.target, truth.images, strict=True)
    ]
    assert sorted(seen) == sorted(want)
    assert seen != want  # permuted
    counts = np.array([store.manifest.splits[split].class_counts for split in SPLITS])
    expected = np.outer((0.7, 0.1, 0.2), np.bincount(truth.target))
    assert np.abs(counts - expected).max() <= 2


def test_rows_are_mixed_not_in_runs_of_a_class(digits: Path) -> None:
    labels = np.array(table(digits, "train")["label"])
    runs = np.count_nonzero(labels[1:] == labels[:-1]) / len(labels)
    assert 0.06 < runs < 0.14  # one in ten by chance


def test_the_manifest_is_true(digits: Path) -> None:
    manifest = ShardStore.open(digits).manifest
    assert manifest.classes == tuple("0123456789")
    assert (manifest.channels, manifest.image_size, manifest.rows_per_group) == (1, (8, 8), 64)
    for split in manifest.splits.values():
        for shard in split.shards:
            data = (digits / shard.file).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
    pixels = np.concatenate([decode(data, 1).ravel() for data in table(digits, "train")["image"].to_pylist()]) / 255
    assert manifest.mean == pytest.approx([pixels.mean()], abs=1e-7)
    assert manifest.std == pytest.approx([pixels.std()], abs=1e-7)


def test_only_the_last_row_group_of_a_split_is_short(sharded: ShardStore) -> None:
    assert len(sharded.manifest.splits["train"].shards) > 3
    for split in SPLITS:
        sizes = [
            footer.row_group(group).num_rows
            for shard in sharded.manifest.splits[split].shards
            for footer in [pq.read_metadata(f"{sharded.path}/{shard.file}")]
            for group in range(footer.num_row_groups)
        ]
        assert set(sizes[:-1]) == {16}
        assert sum(sizes) == sharded.num_rows(split)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(digits: Path, tmp_path: Path) -> None:
    prepare("builtin:digits", tmp_path / "again")
    assert files(tmp_path / "again") == files(digits)
    other = prepare("builtin:digits", tmp_path / "other", seed=1)
    assert other.fingerprint != ShardStore.open(digits).fingerprint
    train = [set(table(folder, "train")["image"].to_pylist()) for folder in (digits, tmp_path / "other")]
    assert 0.4 < len(train[0] & train[1]) / len(train[0]) < 0.95  # another split, not only another order


def test_a_moved_folder_gives_the_same_fingerprint(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    first = prepare(str(folder), tmp_path / "one")
    folder.rename(tmp_path / "moved")
    second = prepare(str(tmp_path / "moved"), tmp_path / "two")
    assert first.fingerprint == second.fingerprint
    assert first.source != second.source


def test_a_folder_is_told_by_content_and_its_bytes_stay(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(classes=("dog", "cat", "Ant"))
    manifest = prepare(str(folder), tmp_path / "ds", rows_per_group=8)
    assert manifest.classes == ("Ant", "cat", "dog")
    assert (manifest.channels, manifest.image_size, manifest.refused) == (3, (24, 32), 0)
    stored = {
        (manifest.classes[row["label"]], row["image"])
        for split in SPLITS
        for row in table(tmp_path / "ds", split).to_pylist()
    }
    assert stored == {(f.relative_to(folder).parts[0], f.read_bytes()) for f in folder.rglob("*") if f.is_file()}
    assert not (tmp_path / "ds/quarantine.parquet").exists()


def test_duplicates_stay_in_one_split(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(per_class=30)
    for i in range(0, 30, 5):
        original = (folder / f"cat/{i}.jpg").read_bytes()
        for copy in range(4):
            (folder / f"{'dog' if copy == 3 else 'cat'}/copy-{i}-{copy}.jpg").write_bytes(original)
    manifest = prepare(str(folder), tmp_path / "ds")
    assert manifest.duplicates == 24
    images = [set(table(tmp_path / "ds", split)["image"].to_pylist()) for split in SPLITS]
    assert sum(map(len, images)) == len(images[0] | images[1] | images[2]) == 60


def test_gray_images_make_a_gray_dataset_and_one_in_colour_an_rgb_one(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "src" / label).mkdir(parents=True)
        for i in range(10):
            gray = np.full((5, 5 + i % 2), 10 * i + (label == "b"), np.uint8)
            (tmp_path / "src" / label / f"{i}.png").write_bytes(encode_png(gray))
    manifest = prepare(str(tmp_path / "src"), tmp_path / "gray")
    assert (manifest.channels, manifest.image_size, len(manifest.mean)) == (1, None, 1)
    (tmp_path / "src/a/0.png").write_bytes(encode_png(np.full((5, 5, 3), (250, 0, 0), np.uint8)))
    assert len(prepare(str(tmp_path / "src"), tmp_path / "rgb").mean) == 3


def test_a_split_or_class_left_empty_is_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave none for 'val'"):
        prepare(str(make_folder("tiny", per_class=1)), tmp_path / "ds")
    folder = make_folder("spoilt")
    (folder / "eel").mkdir()
    (folder / "eel/1.jpg").touch()
    with pytest.raises(DataError, match="class 'eel' has no usable image"):
        prepare(str(folder), tmp_path / "ds", max_bad_fraction=0.5)
    assert not (tmp_path / "ds").exists()


def test_a_split_of_share_zero_is_empty(digits: Path, tmp_path: Path) -> None:
    prepare("builtin:digits", tmp_path / "ds", fractions=(0.8, 0.2, 0.0))
    store = ShardStore.open(tmp_path / "ds")
    assert (store.num_rows("test"), store.num_groups("test")) == (0, 0)


def test_a_source_that_changes_meanwhile_is_noticed(make_folder: MakeFolder, tmp_path: Path) -> None:
    source = make_folder()

    def meddle(phase: str, done: int, total: int) -> None:
        if phase == "scan" and done == total:
            (source / "cat/0.jpg").write_bytes((source / "cat/2.png").read_bytes())

    with pytest.raises(DataError, match=r"cat/0\.jpg: changed while"):
        prepare(str(source), tmp_path / "ds", progress=meddle)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_progress_counts_every_image_in_both_phases(make_folder: MakeFolder, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    prepare(str(make_folder()), tmp_path / "ds", progress=lambda *call: calls.append(call))
    assert [call for call in calls if call[1] == call[2]] == [("scan", 40, 40), ("write", 40, 40)]


def test_preparing_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from vitray.data.prepare import prepare\n"
        "from vitray.data.shards import ShardStore\n"
        "prepare('builtin:digits', sys.argv[1])\n"
        "ShardStore.open(sys.argv[1]).read_group('train', 0)\n"
        "print({'torch', 'ray', 'mlflow'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "ds")], check=True, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"
