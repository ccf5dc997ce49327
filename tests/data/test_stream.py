"""What a rank sees: every sample once, the right pixels, the same from any executor, cache, rank count or start."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.data import ShardedImages, pace
from vitray.data.decode import decode, fit
from vitray.data.order import Order
from vitray.data.pace import Pace
from vitray.data.prepare import prepare
from vitray.data.recent import Recent
from vitray.data.stream import StreamOptions
from vitray.data.unit import Batch, Plan
from vitray.data.view import SplitView
from vitray.errors import ConfigError, DataError
from vitray.experiment import AugmentConfig
from vitray.model_config import divisors

AUGMENTS = [None, AugmentConfig(crop=True, flip=True, shift=2)]


@pytest.fixture(params=["digits", "photos"])
def data(request: pytest.FixtureRequest) -> ShardedImages:
    return ShardedImages.open(str(request.getfixturevalue(request.param)))


@pytest.fixture(params=["one step a unit", "units as they are"])
def units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large images have one step in a unit; here the images are small, so that is arranged."""
    if request.param == "one step a unit":
        monkeypatch.setattr(pace, "_UNIT_BYTES", 1)


def batches(data: ShardedImages, split: str = "train", **options: Any) -> list[Batch]:
    options = {"size": None if data.image_size else (24, 20), "global_batch": 64} | options
    if "cache" in options:
        options["options"] = StreamOptions(cache=options.pop("cache"))
    return list(data.batches(split, **options))


def same(one: Batch, other: Batch) -> bool:
    return (one.step, one.epoch, one.step_rows) == (other.step, other.epoch, other.step_rows) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("image", "label", "weight", "sample_id")
    )


def leaves_one_over(rows: int) -> int:
    """A batch whose last step of an epoch has a single row."""
    return max(d for d in divisors(rows - 1) if d <= 500)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("cache", ["none", "auto"])
def test_every_sample_comes_once_an_epoch_with_its_own_label_and_pixels(
    data: ShardedImages, world_size: int, cache: str
) -> None:
    rows = data.num_samples("train")
    batch = leaves_one_over(rows)
    ranks = [
        batches(data, global_batch=batch, seed=3, rank=r, world_size=world_size, cache=cache) for r in range(world_size)
    ]
    encoded, labels = SplitView(data.store, "train").read(np.arange(rows))
    seen: list[int] = []
    for step, shares in enumerate(zip(*ranks, strict=True)):
        ids = np.concatenate([b.sample_id[b.weight > 0] for b in shares])
        assert np.array_equal(ids, data.step_samples("train", step, global_batch=batch, seed=3))
        assert {b.step for b in shares} == {step}
        assert {b.step_rows for b in shares} == {len(ids)}
        seen += ids.tolist()
        for share in shares:
            assert len(share.image) == len(share.label) == len(share.weight) == len(share.sample_id) >= 1
            for image, label, sample_id in zip(share.image, share.label, share.sample_id, strict=True):
                if sample_id >= 0:
                    assert label == labels[sample_id]
                    expected = fit(decode(encoded[sample_id], data.channels), share.image.shape[1:3])
                    assert np.array_equal(image, expected)
    assert sorted(seen) == list(range(rows))
    # The last step has one row: all ranks but one take part with weight 0.
    last = [b for shares in ranks for b in shares[-1:]]
    assert [len(b.weight) for b in last] == [1] * world_size
    assert sum(float(b.weight.sum()) for b in last) == 1
    idle = [b for b in last if not b.weight.any()]
    assert len(idle) == world_size - 1
    for b in idle:
        assert b.sample_id.tolist() == [-1]
        assert not b.image.any()


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("augment", AUGMENTS, ids=["plain", "augmented"])
def test_more_ranks_than_rows(data: ShardedImages, augment: AugmentConfig | None) -> None:
    for cache in ("none", "auto"):
        shares = [
            batches(data, "val", global_batch=2, rank=r, world_size=5, stop_step=3, augment=augment, cache=cache)
            for r in range(5)
        ]
        ids = [b.sample_id[b.weight > 0] for rank in shares for b in rank]
        assert sorted(np.concatenate(ids).tolist()) == list(range(6))


@pytest.mark.parametrize("augment", AUGMENTS, ids=["plain", "augmented"])
def test_the_decoded_split_gives_the_same_bytes(digits: Path, augment: AugmentConfig | None) -> None:
    data = ShardedImages.open(str(digits))
    for split in ("train", "train+val", "val"):
        for size in (None, (12, 10)):
            options: dict[str, Any] = {
                "global_batch": 301, "seed": 5, "rank": 1, "world_size": 2, "stop_step": 9, "size": size,
                "augment": augment,
            }  # fmt: skip
            read = batches(data, split, cache="none", **options)
            held = batches(data, split, cache="decoded", **options)
            assert len(read) == len(held) == 9
            assert all(map(same, read, held))


@settings(max_examples=15)
@given(data_=st.data(), world_size=st.integers(1, 3), batch=st.integers(5, 42), unit=st.integers(1, 7))
def test_a_stream_that_starts_later_is_the_tail_of_the_whole(
    photos: Path, data_: st.DataObject, world_size: int, batch: int, unit: int
) -> None:
    data = ShardedImages.open(str(photos))
    stop = data_.draw(st.integers(1, 14))
    start = data_.draw(st.integers(0, stop))
    options: dict[str, Any] = {
        "global_batch": batch, "rank": world_size - 1, "world_size": world_size, "augment": AUGMENTS[1],
        "stop_step": stop, "size": 8,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        whole = batches(data, **options)
        patch.setattr(Pace, "steps", unit)
        tail = batches(data, start_step=start, **options)
    assert len(tail) == stop - start
    assert all(map(same, tail, whole[start:]))


def test_without_a_stop_the_stream_ends_with_the_epoch(digits: Path) -> None:
    data = ShardedImages.open(str(digits))
    assert [b.step for b in batches(data, global_batch=500)] == [0, 1, 2]
    assert [(b.step, b.epoch) for b in batches(data, global_batch=500, start_step=4)] == [(4, 1), (5, 1)]


def test_what_a_sample_looks_like_in_an_epoch_depends_on_seed_epoch_and_id_alone(data: ShardedImages) -> None:
    def pictures(epoch: int, batch: int, world_size: int, seed: int = 1, **options: Any) -> dict[int, bytes]:
        steps = -(-data.num_samples("train") // batch)
        found = {}
        for rank in range(world_size):
            for b in batches(
                data, global_batch=batch, seed=seed, rank=rank, world_size=world_size, augment=AUGMENTS[1],
                start_step=epoch * steps, stop_step=(epoch + 1) * steps, **options,
            ):  # fmt: skip
                found |= {int(i): x.tobytes() for i, x in zip(b.sample_id, b.image, strict=True) if i >= 0}
        return found

    base = pictures(1, 40, 1)
    assert len(base) == data.num_samples("train")
    for batch, world_size, options in ((40, 2, {}), (13, 3, {"window": 2}), (7, 1, {"cache": "auto"})):
        assert pictures(1, batch, world_size, **options) == base
    for other in (pictures(2, 40, 1), pictures(1, 40, 1, seed=2)):
        assert np.mean([base[i] != other[i] for i in base]) > 0.8


@pytest.fixture
def damaged(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardedImages:
    """A copy of the photos whose training rows 7 and 21 are not the bytes that were written."""
    monkeypatch.setattr("vitray.data.stream.held", Recent(limit=2**20))  # or the sound copy would be used
    shutil.copytree(photos, tmp_path / "ds")
    data = ShardedImages.open(str(tmp_path / "ds"))
    view = SplitView(data.store, "train")
    for row, image in zip((7, 21), view.read(np.array([7, 21]))[0], strict=True):
        assert image
        file = Path(view.place(row).split(", row")[0])
        file.write_bytes(file.read_bytes().replace(image, b"<html>" + bytes(len(image) - 6)))
    return data


@pytest.mark.parametrize("cache", ["none", "decoded"])
def test_damaged_rows_have_weight_0_and_the_rest_goes_on(damaged: ShardedImages, photos: Path, cache: Any) -> None:
    options = StreamOptions(cache=cache, max_bad_fraction=2 / 42)
    whole = batches(ShardedImages.open(str(photos)), cache="none", global_batch=9, augment=AUGMENTS[1], stop_step=12)
    rest = batches(damaged, options=options, global_batch=9, augment=AUGMENTS[1], stop_step=12)
    assert len(rest) == len(whole) == 12
    for one, other in zip(rest, whole, strict=True):
        bad = np.isin(one.sample_id, [7, 21])
        assert one.damaged.tolist() == one.sample_id[bad].tolist()
        assert one.weight.tolist() == (~bad).astype(float).tolist()
        assert np.array_equal(one.sample_id, other.sample_id)
        assert np.array_equal(one.label, other.label)
        assert np.array_equal(one.image[~bad], other.image[~bad])
        assert not one.image[bad].any()


@pytest.mark.parametrize("cache", ["none", "decoded"])
def test_too_many_damaged_rows_stop_the_stream_with_their_names(damaged: ShardedImages, cache: Any) -> None:
    options = StreamOptions(cache=cache, max_bad_fraction=1 / 42)
    with pytest.raises(DataError) as caught:
        batches(damaged, options=options, global_batch=9, stop_step=12)
    said = str(caught.value)
    assert "2 damaged images, and at most 1 may be passed over" in said
    assert "train/00000.parquet, row 7 (sample 7 of train): its bytes are not those that were written" in said
    assert "sample 21 of train" in said
    assert "vitray data verify" in said


def test_evaluation_splits_come_in_stored_order_and_unaltered(data: ShardedImages) -> None:
    ids = np.concatenate([b.sample_id for b in batches(data, "test", global_batch=7)])
    assert ids.tolist() == list(range(data.num_samples("test")))
    shuffled = np.concatenate([b.sample_id for b in batches(data, "test", global_batch=7, shuffle=True)])
    assert shuffled.tolist() != ids.tolist()
    assert sorted(shuffled.tolist()) == ids.tolist()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2 is not in a world of 2"),
        ({"rank": -1}, "rank -1"),
        ({"size": None}, "say which size"),
    ],
)
def test_what_cannot_be_streamed_is_refused(photos: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        batches(ShardedImages.open(str(photos)), **options)


def test_a_cache_that_is_too_small_is_refused_only_if_it_was_asked_for(digits: Path) -> None:
    data = ShardedImages.open(str(digits))
    need = 1258 * 64
    small = StreamOptions(cache="decoded", cache_bytes=need - 1)
    with pytest.raises(ConfigError, match=f"data.cache_bytes={need}"):
        list(data.batches("train", global_batch=64, options=small))
    auto = StreamOptions(cache="auto", cache_bytes=0)
    assert len(list(data.batches("train", global_batch=629, options=auto))) == 2


def test_an_unknown_split_is_refused_with_those_there_are(digits: Path) -> None:
    data = ShardedImages.open(str(digits))
    for split in ("vla", "train+vla", "", "+"):
        with pytest.raises(DataError, match="its splits: train, val, test"):
            data.num_samples(split)


@given(
    batch=st.integers(1, 10**6),
    world_size=st.integers(1, 64),
    side=st.sampled_from([8, 224, 4096]),
    seconds=st.floats(0, 100),
)
def test_a_unit_is_at_least_a_step_and_otherwise_bounded(
    digits: Path, batch: int, world_size: int, side: int, seconds: float
) -> None:
    store = ShardedImages.open(str(digits)).store
    order = Order(store.fingerprint, "train", 10**7, 64, batch)
    plan = Plan(SplitView(store, "train"), order, 0, world_size, (side, side), None)
    measured = Pace(plan)
    rows = max(1, batch // world_size)
    for _ in range(2):
        assert 1 <= measured.steps <= 256
        assert measured.steps == 1 or measured.steps * rows * plan.image_bytes <= 96 * 2**20
        measured.saw(rows, seconds)


def test_units_follow_the_clock_and_cover_every_step(digits: Path) -> None:
    store = ShardedImages.open(str(digits)).store
    plan = Plan(SplitView(store, "train"), Order(store.fingerprint, "train", 10**7, 64, 128), 0, 1, (8, 8), None)
    measured = Pace(plan)
    lengths = []
    for first, count in measured.run(5, 1000):
        assert first == 5 + sum(lengths)
        lengths.append(count)
        measured.saw(128 * count, 0.01 * count)  # ten milliseconds a step
    assert sum(lengths) == 995
    assert lengths[0] == 1  # so that the first batch comes soon
    assert set(lengths[1:-1]) <= {29, 30}


def test_a_split_without_images_says_so(tmp_path: Path) -> None:
    prepare("builtin:digits", tmp_path / "ds", fractions=(0.8, 0, 0.2))
    data = ShardedImages.open(str(tmp_path / "ds"))
    for asked in (lambda: data.step_samples("val", 0, global_batch=8), lambda: batches(data, "val")):
        with pytest.raises(DataError, match="has no images in its val split"):
            asked()


def producers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("vitray-prefetch")]


def test_a_stream_left_half_way_leaves_no_thread(photos: Path) -> None:
    stream = ShardedImages.open(str(photos)).batches("train", global_batch=4, size=8, stop_step=1000)
    next(stream)
    assert producers()
    stream.close()  # type: ignore[attr-defined]
    assert producers() == []
