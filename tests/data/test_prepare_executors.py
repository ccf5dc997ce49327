"""The same bytes whoever prepares them: threads or Ray, one or many, whole chunks or scraps, staged or read again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from listed import Listed, contents

from vitray.cluster.local import Cluster
from vitray.data.mapper import Executor, Threads
from vitray.data.prepare import prepare
from vitray.data.sources import Item, open_source
from vitray.errors import DataError, ResourceError

MakeFolder = Callable[..., Path]
OPTIONS: dict[str, Any] = {"rows_per_group": 8, "shard_mb": 0.02, "max_bad_fraction": 0.2, "size": 20}


def threads(workers: int) -> Executor:
    return lambda chunks: nullcontext(Threads(workers))


@pytest.fixture
def mixed(make_folder: MakeFolder) -> Path:
    """Images to keep, to shrink, to convert and to refuse, some of them twice."""
    folder = make_folder(per_class=30)
    (folder / "cat/empty.jpg").touch()
    (folder / "dog/page.png").write_bytes(b"<html>")
    (folder / "dog/copy.png").write_bytes((folder / "cat/1.png").read_bytes())
    small = np.random.default_rng(0).integers(0, 255, (9, 15, 3), dtype=np.uint8)
    for name, kind in (("cat/small.jpg", ".jpg"), ("dog/small.bmp", ".bmp"), ("dog/small.webp", ".webp")):
        (folder / name).write_bytes(bytes(cv2.imencode(kind, small)[1]))
    return folder


@pytest.mark.slow
def test_chunks_threads_and_staging_leave_no_trace(mixed: Path, tmp_path: Path) -> None:
    prepare(str(mixed), tmp_path / "plain", **OPTIONS)
    want = contents(tmp_path / "plain")
    assert len([name for name in want if name.startswith("train/")]) > 2
    source = open_source(str(mixed))
    for number, (per_chunk, rereads, workers) in enumerate([(1, True, 1), (7, False, 3), (1000, False, 8)]):
        listed = Listed.of(source, per_chunk=per_chunk, rereads=rereads, counted=number != 1)
        if number == 2:
            listed = replace(listed, found=listed.found[::-1])
        prepare(listed, tmp_path / f"{number}", executor=threads(workers), **OPTIONS)
        assert contents(tmp_path / f"{number}") == want


@pytest.mark.ray
def test_ray_makes_the_bytes_that_threads_make(
    cluster: Cluster, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from vitray.data import ray_mapper

    context = ray.data.DataContext.get_current()
    before = context.copy()
    seen: list[tuple[str, int, int]] = []
    prepare(str(mixed), tmp_path / "local", executor="local", **OPTIONS)
    want = contents(tmp_path / "local")
    prepare(str(mixed), tmp_path / "auto", progress=lambda *call: seen.append(call), **OPTIONS)  # Ray: it is there
    assert contents(tmp_path / "auto") == want
    assert ray.data.DataContext.get_current() is context
    assert context.execution_options.preserve_order == before.execution_options.preserve_order
    assert context.target_max_block_size == before.target_max_block_size
    assert seen[-1] == ("write", 64, 64)
    assert ("scan", 66, 66) in seen
    monkeypatch.setattr(ray_mapper, "WAVE", 2)
    prepare(str(mixed), tmp_path / "waves", executor="ray", **OPTIONS)
    assert contents(tmp_path / "waves") == want


@pytest.mark.ray
def test_what_stops_a_task_on_ray_stops_the_preparation_with_its_message(
    cluster: Cluster, mixed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def meddle(phase: str, done: int, total: int) -> None:
        if phase == "scan" and done == total:
            (mixed / "cat/small.jpg").unlink()

    with pytest.raises(DataError, match=r"cat/small\.jpg: cannot be read any more"):
        prepare(str(mixed), tmp_path / "ds", executor="ray", progress=meddle, **OPTIONS)
    assert not (tmp_path / "ds").exists()
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.ray
def test_a_ray_without_a_free_cpu_is_an_error_not_a_wait(
    cluster: Cluster, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    from vitray.data import ray_mapper

    monkeypatch.setattr(ray_mapper, "_PATIENCE_S", 1.0)
    group = placement_group([{"CPU": cluster.cpus}])
    ray.get(group.ready())
    try:
        with pytest.raises(ResourceError, match="no CPU is free") as error:
            prepare(str(mixed), tmp_path / "ds", executor="ray", **OPTIONS)
        assert "--executor local" in str(error.value)
    finally:
        remove_placement_group(group)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_ray_that_is_not_there_and_an_executor_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be 'rya'") as error:
        prepare("builtin:digits", tmp_path / "ds", executor="rya")  # type: ignore[arg-type]
    assert "did you mean 'ray'" in str(error.value)
    assert not (tmp_path / "ds").exists()


def test_threads_end_with_the_preparation(tmp_path: Path) -> None:
    image = bytes(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1])
    items = [Item(f"{i}", "ab"[i % 2], image) for i in range(50)]

    def stop(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(Listed(tuple(items), per_chunk=1), tmp_path / "ds", executor="local", progress=stop)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("vitray-prefetch")]
    assert list(tmp_path.iterdir()) == []
