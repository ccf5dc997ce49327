"""The stream through Ray Data: the same batches as the local executor, in order, over any number of segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from vitray.cluster.local import Cluster
from vitray.data import ShardedImages, pipeline
from vitray.data import stream as stream_module
from vitray.data.stream import StreamOptions
from vitray.data.unit import Batch
from vitray.errors import DataError
from vitray.experiment import AugmentConfig

pytestmark = pytest.mark.ray
_AUGMENT = AugmentConfig(crop=True, flip=True, shift=1)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three units a segment and two steps a unit, so that a short run crosses several edges of both."""
    monkeypatch.setattr(pipeline, "SEGMENT_UNITS", 3)
    monkeypatch.setattr(stream_module, "unit_steps", lambda plan: 2)


def batches(data: ShardedImages, executor: Any, **options: Any) -> list[Batch]:
    fetch = StreamOptions(executor=executor, cache=options.pop("cache", "none"), task_cpus=0.5)
    return list(data.batches("train", global_batch=8, size=(24, 20), augment=_AUGMENT, options=fetch, **options))


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
    import threading

    data = ShardedImages.open(str(photos))
    fetch = StreamOptions(executor="ray", cache="none", task_cpus=0.5)
    stream = data.batches("train", global_batch=8, size=(24, 20), stop_step=60, options=fetch)
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "vitray-prefetch"]


def test_a_row_that_does_not_decode_is_named(cluster: Cluster, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitray.data.view import SplitView

    data = ShardedImages.open(str(photos))
    honest = SplitView.read

    def damaged(self: SplitView, ids: Any) -> Any:
        images, labels = honest(self, ids)
        return [b"\x89PNG\r\n\x1a\n broken" if i == 7 else image for i, image in zip(ids, images, strict=True)], labels

    # Ray's tasks get the damaged reader with the plan, by value.
    plan_view = type("Damaged", (SplitView,), {"read": damaged})
    monkeypatch.setattr("vitray.data.images.SplitView", plan_view)
    with pytest.raises(DataError, match="sample 7"):
        batches(data, "ray", stop_step=6)


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
