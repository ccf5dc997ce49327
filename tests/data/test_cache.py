"""Splits decoded once: what they hold, when they are used again, and that nothing is lost on the way."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from vitray.data import ShardedImages, cache
from vitray.data.cache import DecodedSplit, Wish, decode_chunk
from vitray.data.decode import decode, fit
from vitray.data.recent import Recent
from vitray.data.stream import StreamOptions, stream
from vitray.data.unit import Plan
from vitray.data.view import SplitView
from vitray.experiment import AugmentConfig

DECODED = StreamOptions(cache="decoded")


@pytest.fixture(autouse=True)
def held(monkeypatch: pytest.MonkeyPatch) -> Recent[DecodedSplit]:
    empty: Recent[DecodedSplit] = Recent(limit=2**30, size_of=lambda split: split.bytes)
    for module in (cache, "vitray.data.stream"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.held", empty)
    return empty


def plan_of(folder: Path, split: str, size: tuple[int, int] = (8, 8), **order: int) -> Plan:
    data = ShardedImages.open(str(folder))
    view = SplitView(data.store, split)
    return Plan(view, data.order(split, **{"global_batch": 100} | order), 0, 1, size, None)


def wish_of(plan: Plan) -> Wish:
    return Wish.of(plan.view, plan.size, plan.augment)


def test_a_decoded_split_holds_every_row_at_its_place(photos: Path) -> None:
    view = plan_of(photos, "train").view
    encoded, labels = view.read(np.arange(view.rows))
    for wish in (Wish(view, None), Wish(view, (12, 10))):
        chunks = [decode_chunk(wish, start, min(start + 7, view.rows)) for start in range(0, view.rows, 7)]
        split = DecodedSplit(chunks, 3)
        assert split.label.tolist() == labels.tolist()
        assert split.bytes == wish.bytes
        for row, data in enumerate(encoded):
            assert data is not None
            image, held = decode(data, 3), split.image(row)
            assert held is not None
            assert np.array_equal(held, image if wish.size is None else fit(image, wish.size))


def test_a_split_is_read_once_for_all_experiments_of_a_process(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = SplitView.read

    def counted(self: SplitView, ids: np.ndarray) -> object:
        reads.append(len(ids))
        return read(self, ids)

    monkeypatch.setattr(SplitView, "read", counted)
    for seed in range(3):
        assert len(list(stream(plan_of(digits, "val", seed=seed), 0, 4, DECODED))) == 4
    assert sum(reads) == 180


def test_splits_sizes_and_datasets_are_not_confused(
    digits: Path, small_shards: Path, held: Recent[DecodedSplit]
) -> None:
    plans = [plan_of(digits, split) for split in ("train", "val", "train+val")]
    plans += [plan_of(digits, "val", (4, 4)), plan_of(small_shards, "val")]
    for plan in plans:
        assert held.find(("here", *wish_of(plan).key)) is None
        list(stream(plan, 0, 1, DECODED))
    sizes = [found.bytes for plan in plans if (found := held.find(("here", *wish_of(plan).key)))]
    assert sizes == [1258 * 64, 180 * 64, 1438 * 64, 180 * 16, 180 * 64]


def test_images_are_kept_as_stored_only_where_random_crops_need_them(photos: Path) -> None:
    view = plan_of(photos, "train").view
    assert Wish.of(view, (16, 16), None).bytes == view.rows * 16 * 16 * 3
    assert Wish.of(view, (16, 16), AugmentConfig(flip=True, shift=1)).size == (16, 16)
    cropping = Wish.of(view, (16, 16), AugmentConfig(crop=True))
    assert cropping.size is None
    assert cropping.bytes == sum(decode(data, 3).size for data in view.read(np.arange(view.rows))[0] if data)


def test_a_damaged_row_stays_damaged_in_the_cache(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ds"
    shutil.copytree(photos, folder)
    view = plan_of(folder, "train").view
    victim = view.read(np.array([5]))[0][0]
    assert victim
    file = Path(view.place(5).split(", row")[0])
    file.write_bytes(file.read_bytes().replace(victim, bytes(len(victim))))
    plan = plan_of(folder, "train", (12, 12))
    for options in (DECODED, StreamOptions(cache="none")):
        options = StreamOptions(cache=options.cache, max_bad_fraction=0.1)
        batch = next(iter(stream(plan, 0, 1, options)))
        assert batch.damaged.tolist() == [5]
        assert not batch.image[batch.sample_id == 5].any()


def test_the_longest_unused_makes_room() -> None:
    recent: Recent[bytes] = Recent(limit=10, size_of=len)
    recent.put("a", b"aaaa")
    recent.put("b", b"bbbb")
    assert recent.find("a") == b"aaaa"
    recent.put("c", b"cccc")
    assert recent.find("b") is None
    assert recent.find("a") == b"aaaa"
    assert recent.get("c", lambda: pytest.fail("it is there")) == b"cccc"
    recent.put("d", b"d" * 20)  # larger than all the room: kept alone
    assert [recent.find(key) is not None for key in "acd"] == [False, False, True]
