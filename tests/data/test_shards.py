"""Opening, reading and verifying: fast when all is well, precise when it is not."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitray.data.manifest import SPLITS
from vitray.data.shards import Finding, ShardStore
from vitray.data.verify import verify
from vitray.errors import DataError


def shard(store: ShardStore, number: int, split: str = "train") -> Path:
    return Path(store.path) / store.manifest.splits[split].shards[number].file


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def sample_ids(store: ShardStore, split: str) -> list[int]:
    groups = [store.read_group(split, group, columns=["sample_id"]) for group in range(store.num_groups(split))]
    ids: list[int] = pa.concat_tables(groups)["sample_id"].to_pylist()
    return ids


def test_group_g_holds_the_rows_from_g_times_rows_per_group_on(sharded: ShardStore) -> None:
    for split in SPLITS:
        assert sample_ids(sharded, split) == list(range(sharded.num_rows(split)))
        for group in (0, sharded.num_groups(split) - 1):
            assert sharded.read_group(split, group)["sample_id"][0].as_py() == group * sharded.rows_per_group


def test_only_the_columns_asked_for_are_read(sharded: ShardStore) -> None:
    assert sharded.read_group("val", 0, columns=["label"]).column_names == ["label"]


def test_a_group_or_split_that_does_not_exist(sharded: ShardStore) -> None:
    for group in (-1, sharded.num_groups("train")):
        with pytest.raises(IndexError):
            sharded.read_group("train", group)
    with pytest.raises(DataError, match="did you mean 'train'"):
        sharded.read_group("trian", 0)


def test_it_travels_to_other_processes(sharded: ShardStore) -> None:
    sharded.read_group("train", 0)
    again = pickle.loads(pickle.dumps(sharded))
    assert again.fingerprint == sharded.fingerprint
    assert again.read_group("train", 3).equals(sharded.read_group("train", 3))


def test_many_threads_read_the_same_files(sharded: ShardStore) -> None:
    groups = list(range(sharded.num_groups("train"))) * 8
    expected = [sharded.read_group("train", group) for group in range(sharded.num_groups("train"))]
    with ThreadPoolExecutor(16) as pool:
        tables = list(pool.map(lambda group: sharded.read_group("train", group), groups))
    assert all(table.equals(expected[group]) for group, table in zip(groups, tables, strict=True))


def test_a_uri_opens_the_same_dataset(sharded: ShardStore) -> None:
    uri = Path(sharded.path).as_uri()
    store = pickle.loads(pickle.dumps(ShardStore.open(uri)))
    assert store.read_group("test", 1).equals(sharded.read_group("test", 1))
    assert verify(store) == []


def test_a_relative_path_survives_a_change_of_folder(sharded: ShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(sharded.path).parent)
    store = ShardStore.open("sharded")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(store)).read_group("val", 0).num_rows == 16


def test_a_replaced_dataset_is_not_read_through_old_handles(sharded: ShardStore, tmp_path: Path) -> None:
    from vitray.data.prepare import prepare

    before = sharded.read_group("train", 0)
    prepare("builtin:digits", sharded.path, seed=5, rows_per_group=16, overwrite=True)
    after = ShardStore.open(sharded.path).read_group("train", 0)
    assert not after.equals(before)


def test_what_is_no_dataset_says_so_and_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "file").touch()
    for path, says in [
        (tmp_path, "has no manifest.json"),
        (tmp_path / "none", "no such dataset folder"),
        (tmp_path / "file", "is a file, not a dataset folder"),
    ]:
        with pytest.raises(DataError, match=says) as error:
            ShardStore.open(path)
        assert "vitray data prepare" in str(error.value)
        assert str(path) in str(error.value)
    with pytest.raises(DataError, match="check the URI"):
        ShardStore.open("nonsense://bucket/ds")


def test_opening_names_a_missing_shard(sharded: ShardStore) -> None:
    file = shard(sharded, 1)
    file.unlink()
    with pytest.raises(DataError, match=r"train/00001\.parquet: is missing") as error:
        ShardStore.open(sharded.path)
    assert error.value.remedy


def test_opening_names_a_truncated_shard(sharded: ShardStore) -> None:
    file = shard(sharded, 2)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train/00002\.parquet: truncated"):
        ShardStore.open(sharded.path)


def test_opening_names_a_shard_with_a_damaged_footer_or_of_another_split(sharded: ShardStore) -> None:
    size = shard(sharded, 0).stat().st_size
    flip(shard(sharded, 0), size - 1)  # the closing magic bytes
    with pytest.raises(DataError, match=r"train/00000\.parquet: has a damaged footer"):
        ShardStore.open(sharded.path)
    flip(shard(sharded, 0), size - 1)
    last = shard(sharded, -1)
    other = shard(sharded, 0, "val").read_bytes()
    last.write_bytes(other)
    with pytest.raises(DataError, match=f"{last.name}: (truncated|has grown)"):
        ShardStore.open(sharded.path)


def test_a_flipped_byte_is_an_error_where_it_is_read_and_verify_names_it(sharded: ShardStore) -> None:
    flip(shard(sharded, 1), 1000)
    store = ShardStore.open(sharded.path)  # sizes and footers are as they were
    damaged = store.manifest.splits["train"].shards[0].row_groups
    store.read_group("train", damaged - 1)
    with pytest.raises(DataError, match=r"train/00001\.parquet: cannot be read \(row group 0"):
        store.read_group("train", damaged)
    assert [finding.file for finding in verify(store)] == ["train/00001.parquet"]


def test_a_shard_lost_after_opening_is_named_when_read(sharded: ShardStore) -> None:
    last = shard(sharded, 0, "test")
    shutil.move(last, last.with_suffix(".gone"))
    with pytest.raises(DataError, match=r"test/00000\.parquet: cannot be read"):
        sharded.read_group("test", 0)
    # Its footer and handle may be known from before, so read rows as a fresh process would.
    store = ShardStore(sharded.path + "/.", sharded.manifest)
    with pytest.raises(DataError, match=r"test/00000\.parquet: cannot be read"):
        store.read_rows("test", np.array([3]))


def test_a_shard_without_a_row_index_is_refused(sharded: ShardStore) -> None:
    file = shard(sharded, 0)
    with pq.ParquetFile(file) as handle:
        groups, kept = handle.metadata.num_row_groups, handle.read()
        written = handle.metadata.row_group(0).num_rows
    schema = kept.schema.remove_metadata()
    pq.write_table(kept.cast(schema), file, row_group_size=written, compression="none", use_dictionary=False)
    assert pq.read_metadata(file).num_row_groups == groups
    store = ShardStore(sharded.path + "/.", sharded.manifest)
    with pytest.raises(DataError, match=r"00000\.parquet: cannot be read \(no row index"):
        store.read_rows("train", np.array([3]))


def test_verify_lists_all_that_is_wrong(sharded: ShardStore) -> None:
    assert verify(sharded) == []
    root = Path(sharded.path)
    flip(shard(sharded, 0), 500)
    shard(sharded, 1).unlink()
    file = shard(sharded, 0, "val")
    file.write_bytes(file.read_bytes()[:100])
    (root / "test/99999.parquet").write_bytes(b"PAR1")
    findings = verify(ShardStore.open(root, check=False))
    assert [(finding.file, finding.problem.split(":")[0]) for finding in findings] == [
        ("test/99999.parquet", "is foreign"),
        ("train/00000.parquet", "its bytes changed"),
        ("train/00001.parquet", "is missing"),
        ("val/00000.parquet", "truncated"),
    ]
    assert findings[0] == Finding("test/99999.parquet", "is foreign: the manifest does not list it")
