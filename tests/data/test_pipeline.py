"""The stream through Ray Data: the same batches as the local executor, in order, over any number of segments."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from vitray.cluster.local import Cluster
from vitray.data import ShardedImages, pace, pipeline
from vitray.data.cache import Wish
from vitray.data.lookahead import Lookahead
from vitray.data.node_cache import NodeCache, shared_split
from vitray.data.pace import Pace
from vitray.data.recent import Recent
from vitray.data.stream import StreamOptions
from vitray.data.unit import Batch
from vitray.data.view import SplitView
from vitray.errors import ConfigError, DataError, ResourceError
from vitray.experiment import AugmentConfig

pytestmark = pytest.mark.ray
_AUGMENT = AugmentConfig(crop=True, flip=True, shift=1)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three units a segment and two steps a unit, so that a short run crosses several edges of both."""
    monkeypatch.setattr(pipeline, "SEGMENT_UNITS", 3)
    monkeypatch.setattr(pipeline, "FIRST_SEGMENT_UNITS", 2)
    monkeypatch.setattr(Pace, "steps", 2)


@pytest.fixture(autouse=True)
def _shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks share what is decoded, however little it is."""
    monkeypatch.setattr("vitray.data.stream._ALONE_SECONDS", 0.0)


def batches(data: ShardedImages, executor: Any, **options: Any) -> list[Batch]:
    own = {name: options.pop(name) for name in ("cache", "max_bad_fraction") if name in options}
    fetch = StreamOptions(executor=executor, task_cpus=0.5, **{"cache": "none"} | own)
    options = {"size": (24, 20)} | options
    return list(data.batches("train", global_batch=8, augment=_AUGMENT, options=fetch, **options))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert [b.step for b in one] == [b.step for b in other]
    for a, b in zip(one, other, strict=True):
        for name in ("image", "label", "weight", "sample_id"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), (a.step, name)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 3)])
def test_ray_gives_the_batches_of_the_local_executor(
    cluster: Cluster, photos: Path, rank: int, world_size: int
) -> None:
    data = ShardedImages.open(str(photos))
    span = {"rank": rank, "world_size": world_size, "start_step": 3, "stop_step": 22}  # three epochs of six steps
    local, through_ray = batches(data, "local", **span), batches(data, "ray", **span)
    assert [b.step for b in local] == list(range(3, 22))
    assert_same(through_ray, local)


def test_a_split_decoded_once_through_ray_gives_the_same(cluster: Cluster, digits: Path) -> None:
    data = ShardedImages.open(str(digits))
    assert_same(batches(data, "ray", cache="decoded", stop_step=12), batches(data, "local", stop_step=12))


def test_blocks_arrive_as_views_of_shared_memory(cluster: Cluster, photos: Path) -> None:
    batch = batches(ShardedImages.open(str(photos)), "ray", stop_step=1)[0]
    assert not batch.image.flags.writeable
    assert not batch.image.flags.owndata


def test_an_iteration_that_is_dropped_leaves_no_pipeline(cluster: Cluster, photos: Path) -> None:
    data = ShardedImages.open(str(photos))
    fetch = StreamOptions(executor="ray", cache="none", task_cpus=0.5)
    stream = data.batches("train", global_batch=8, size=(24, 20), stop_step=60, options=fetch)
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("vitray-prefetch")]


def test_a_damaged_row_has_weight_0_through_ray_too_and_above_the_limit_is_named(
    cluster: Cluster, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos, tmp_path / "ds")
    data = ShardedImages.open(str(tmp_path / "ds"))
    view = SplitView(data.store, "train")
    image = view.read(np.array([7]))[0][0]
    assert image
    file = Path(view.place(7).split(", row")[0])
    file.write_bytes(file.read_bytes().replace(image, bytes(len(image))))
    for cache in ("none", "decoded"):
        monkeypatch.setattr("vitray.data.stream.held", Recent(limit=2**20))
        through_ray = batches(data, "ray", stop_step=6, cache=cache, max_bad_fraction=0.1)
        assert np.concatenate([b.damaged for b in through_ray]).tolist() == [7]
    with pytest.raises(DataError, match="row 7"):
        batches(data, "ray", stop_step=6)


def test_a_shard_that_is_gone_is_named(cluster: Cluster, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "ds")
    data = ShardedImages.open(str(tmp_path / "ds"))
    (tmp_path / "ds/train/00000.parquet").unlink()
    for cache in ("none", "decoded"):
        with pytest.raises(DataError, match=r"train/00000\.parquet: cannot be read"):
            batches(data, "ray", stop_step=6, cache=cache, size=(9, 9))


@pytest.mark.parametrize("unit", [1, 3])
def test_large_steps_are_blocks_of_their_own(
    cluster: Cluster, photos: Path, monkeypatch: pytest.MonkeyPatch, unit: int
) -> None:
    """A task hands them over one by one; the short step of an epoch ends its unit. The batches stay the same."""
    monkeypatch.setattr(pace, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(pace, "_BLOCK_ROWS", 1)
    monkeypatch.setattr(Pace, "steps", unit)
    data = ShardedImages.open(str(photos))
    span = {"start_step": 1, "stop_step": 20}
    through_ray = batches(data, "ray", **span)
    assert_same(through_ray, batches(data, "local", **span))
    assert all(not batch.image.flags.owndata for batch in through_ray)


def test_streams_side_by_side_do_not_disturb_each_other(cluster: Cluster, photos: Path) -> None:
    """Two ranks in one process, their segments begun by several threads; and Ray Data's own settings come back."""
    before = str(ray.data.DataContext.get_current().execution_options)
    data = ShardedImages.open(str(photos))
    fetch = StreamOptions(executor="ray", cache="none", task_cpus=0.5)
    both = [
        data.batches("train", global_batch=8, size=(24, 20), augment=_AUGMENT, rank=rank, world_size=2, stop_step=18,
                     options=fetch)
        for rank in range(2)
    ]  # fmt: skip
    found = list(zip(*both, strict=True))
    for rank in range(2):
        alone = batches(data, "local", rank=rank, world_size=2, stop_step=18)
        assert_same([pair[rank] for pair in found], alone)
    assert str(ray.data.DataContext.get_current().execution_options) == before


def test_a_decoded_split_lies_in_the_object_store_once(
    cluster: Cluster, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that ask get the same memory; it cannot be written to."""
    wish = Wish(SplitView(ShardedImages.open(str(photos)).store, "train"), None)

    @ray.remote(num_cpus=0.1)
    class Rank:
        def hold(self) -> None:
            self.split = shared_split(wish, 0.1)

        def chunks(self) -> list[Any]:
            cache = ray.get_actor(f"vitray-cache-{ray.get_runtime_context().get_node_id()}")
            return [reference.hex() for reference in ray.get(cache.split.remote(wish, "", 0.1))]

    one, other = Rank.remote(), Rank.remote()
    ray.get([one.hold.remote(), other.hold.remote()])
    assert ray.get(one.chunks.remote()) == ray.get(other.chunks.remote())
    mine = shared_split(wish, 0.1)
    assert mine is not None
    image = mine.image(3)
    assert image is not None
    assert not image.flags.writeable
    ray.kill(one)
    ray.kill(other)  # with whoever asked first its cache may end; the next to ask decodes again
    again = shared_split(wish, 0.1)
    assert again is not None
    assert np.array_equal(again.image(3), image)


def test_what_takes_less_than_a_process_to_start_is_decoded_by_each_rank(
    cluster: Cluster, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared(wish: Wish, task_cpus: float) -> None:
        raise AssertionError("asked others for it")

    monkeypatch.setattr("vitray.data.node_cache.shared_split", shared)
    monkeypatch.setattr("vitray.data.stream.held", Recent(limit=2**20))
    data = ShardedImages.open(str(digits))
    with pytest.raises(AssertionError, match="asked others"):
        batches(data, "ray", cache="decoded", stop_step=12)
    monkeypatch.setattr("vitray.data.stream._ALONE_SECONDS", 1.0)
    assert_same(batches(data, "ray", cache="decoded", stop_step=12), batches(data, "local", stop_step=12))


def test_a_split_larger_than_half_the_object_store_is_decoded_every_epoch(
    cluster: Cluster, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = ray.remote(num_cpus=0)(NodeCache).remote(1000)
    monkeypatch.setattr("vitray.data.node_cache._actor", lambda node: actor)
    monkeypatch.setattr("vitray.data.node_cache._actors", {})
    monkeypatch.setattr("vitray.data.stream.held", Recent(limit=2**20))
    data = ShardedImages.open(str(photos))
    assert_same(batches(data, "ray", cache="auto", stop_step=6), batches(data, "local", stop_step=6))
    with pytest.raises(ConfigError, match="more than half of this node's object store"):
        batches(data, "ray", cache="decoded", stop_step=6)


def test_no_more_units_are_begun_than_the_rank_may_wait_for(
    cluster: Cluster, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that stands still finds as many units under way or ready as it allowed, and no more.

    Meanwhile Ray Data's scheduling loop waits, rather than going round thousands of times a second in this process.
    """
    begun = rounds = 0
    honest = Lookahead.allows

    def counted(self: Lookahead, operator: Any, *, new: int, more: bool) -> bool:
        nonlocal begun, rounds
        rounds += 1
        begun += new
        return honest(self, operator, new=new, more=more)

    monkeypatch.setattr(Lookahead, "allows", counted)
    fetch = StreamOptions(executor="ray", cache="none", task_cpus=0.5, workers=2, prefetch=1)
    stream = ShardedImages.open(str(photos)).batches(
        "train", global_batch=8, size=(24, 20), stop_step=600, options=fetch
    )
    for _ in range(30):
        last = next(stream)
    made = 0
    while made != (made := begun):
        rounds = 0
        time.sleep(2)
    assert rounds <= 2 * 2 / 0.05
    stream.close()  # type: ignore[attr-defined]
    taken = last.step // 2 + 2  # the first two units have one step
    # Two at work, one waiting; and Ray Data lets a new pipeline begin with one, whatever it is told.
    assert taken <= made <= taken + 3 + 1


def test_no_cpu_for_data_is_an_error_rather_than_a_long_silence(
    cluster: Cluster, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_PATIENCE_S", 2.0)
    monkeypatch.setattr("vitray.data.prefetch._CLOSE_S", 0.1)

    @ray.remote(num_cpus=cluster.cpus)
    class Greedy:
        def here(self) -> bool:
            return True

    greedy = Greedy.remote()
    assert ray.get(greedy.here.remote())
    monkeypatch.setattr("vitray.data.node_cache.PATIENCE_S", 2.0)
    data = ShardedImages.open(str(photos))
    try:
        with pytest.raises(ResourceError, match="no CPU is free for the tasks that read data: a task takes"):
            batches(data, "ray", stop_step=6)
        with pytest.raises(ResourceError, match="no CPU is free for decoding the images"):
            shared_split(Wish(SplitView(data.store, "val"), (11, 11)), 0.5)
    finally:
        ray.kill(greedy)
    # With a CPU to be had again, the pipeline that was given up finds out that nobody wants it.
    deadline = time.monotonic() + 60
    while any(t.name.startswith("vitray-prefetch") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_data_tasks_never_import_torch(cluster: Cluster, photos: Path) -> None:
    data = ShardedImages.open(str(photos))

    @ray.remote(num_cpus=0.5)
    def modules_after_a_unit() -> set[str]:
        import sys

        from vitray.data.order import Order
        from vitray.data.unit import Plan, read_unit
        from vitray.data.view import SplitView

        view = SplitView(data.store, "train")
        order = Order(data.fingerprint, "train", view.rows, data.store.rows_per_group, 8)
        read_unit(Plan(view, order, 0, 1, (24, 20), _AUGMENT), 0, 2)
        return set(sys.modules)

    modules = ray.get(modules_after_a_unit.remote())
    assert "cv2" in modules
    assert "torch" not in modules
