"""A manifest says what the folder holds, and notices when it does not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from vitray.data.manifest import Manifest, ShardInfo, SplitInfo
from vitray.errors import DataError


def manifest(**changes: Any) -> Manifest:
    shards = (ShardInfo("train/00000.parquet", 8, 2, 100, "aa"), ShardInfo("train/00001.parquet", 5, 2, 70, "bb"))
    empty = SplitInfo(0, 0, (0, 0), ())
    whole = Manifest(
        source="somewhere",
        seed=3,
        classes=("cat", "dog"),
        rows_per_group=4,
        channels=3,
        image_size=(8, 9),
        splits={"train": SplitInfo(13, 832, (6, 7), shards), "val": empty, "test": empty},
        mean=(0.1, 0.2, 0.3),
        std=(0.3, 0.2, 0.1),
    )
    return dataclasses.replace(whole, **changes)


def test_it_comes_back_from_json_as_it_went() -> None:
    first = manifest()
    again = Manifest.from_json(first.to_json(), where="m")
    assert again == first
    assert again.fingerprint == first.fingerprint
    assert Manifest.from_json(manifest(image_size=None).to_json(), where="m").image_size is None


def test_the_fingerprint_is_of_the_data_not_of_where_it_came_from() -> None:
    base = manifest().fingerprint
    assert manifest(source="elsewhere", seed=4, refused=1, duplicates=2).fingerprint == base
    split = manifest().splits["train"]
    changed_shard = dataclasses.replace(split.shards[1], sha256="cc")
    changes: list[dict[str, Any]] = [
        {"classes": ("cat", "eel")},
        {"mean": (0.1, 0.2, 0.4)},
        {"std": (0.1, 0.2, 0.4)},
        {"rows_per_group": 5},
        {"image_size": None},
        {"channels": 1},
        {"splits": manifest().splits | {"train": dataclasses.replace(split, shards=(split.shards[0], changed_shard))}},
    ]
    prints = {manifest(**change).fingerprint for change in changes}
    assert len(prints | {base}) == len(changes) + 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        ("[]", "is not a vitray manifest"),
        ("{}", "is not a vitray manifest"),
        ('{"schema_version": 99}', "schema version 99; this vitray reads 2"),
        ('{"schema_version": 2}', "lacks 'image'"),
        ('{"schema_version": 2, "image": 3}', "wrong kind"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        Manifest.from_json(text, where="data/manifest.json")
    assert "data/manifest.json" in str(error.value)
    assert error.value.remedy


def test_a_manifest_of_before_shards_had_a_digest_of_their_index_is_the_same_dataset() -> None:
    raw = json.loads(manifest().to_json())
    for split in raw["splits"].values():
        for shard in split["shards"]:
            del shard["index"]
    assert Manifest.from_json(json.dumps(raw), where="m") == manifest()


def test_an_altered_manifest_is_noticed() -> None:
    raw = json.loads(manifest().to_json())
    raw["classes"][0] = "cow"
    with pytest.raises(DataError, match="was altered"):
        Manifest.from_json(json.dumps(raw), where="m")


def test_shards_that_do_not_add_up_are_noticed() -> None:
    short = ShardInfo("train/00000.parquet", 7, 2, 100, "aa")  # only a split's last row group may be short
    split = SplitInfo(12, 768, (6, 6), (short, manifest().splits["train"].shards[1]))
    wrong = manifest(splits=manifest().splits | {"train": split})
    with pytest.raises(DataError, match="do not add up"):
        Manifest.from_json(wrong.to_json(), where="m")


def test_writing_leaves_only_the_manifest(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]
    assert Manifest.from_json((tmp_path / "manifest.json").read_text(), where="m") == manifest()
