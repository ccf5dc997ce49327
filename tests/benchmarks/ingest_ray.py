"""The Ray Data peers of the ingest benchmark: as Ray's guides write it, with default settings, and tuned.

An epoch's files are listed once for each epoch of a pass, so no peer pays for epoch edges, and shuffled by file
(``shuffle="files"``), the cheapest of the ways that the guide gives.

With default settings the Parquet reader packs 128 MiB of files into a task, and ``map_batches`` works on whole blocks:
6,400 photos at a time, of which the first arrives when many are done. So those passes are measured whole, and are long
enough for some such tasks on every core. Tuned means the reader's older form, whose tasks are what
``override_num_blocks`` says: one file of 256 photos, read, decoded and cropped by one fused task; a task a core at
once, or one more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ingest_work import Stream, Work, crop_batch, load_batch


@contextmanager
def ray_parquet(work: Work) -> Iterator[Stream]:
    """read_parquet of encoded bytes, map_batches(decode and crop, with OpenCV), iter_torch_batches."""
    with _ray(work):
        yield lambda epochs: _parquet(work, epochs or _long(work))


@contextmanager
def ray_images(work: Work) -> Iterator[Stream]:
    """read_images of the class folder, map_batches(crop, with OpenCV), iter_torch_batches."""
    import ray.data

    folder = str(work.photos)
    with _ray(work):
        yield lambda epochs: _batches(
            ray.data.read_images([folder] * (epochs or _long(work)), mode="RGB", shuffle="files").map_batches(
                _crop, fn_args=(work,)
            ),
            work,
        )


@contextmanager
def ray_tuned(work: Work) -> Iterator[Stream]:
    """As ``ray_parquet``, with tasks of a size that keeps the cores busy."""
    import ray.data

    with _ray(work):
        ray.data.DataContext.get_current().use_datasource_v2 = False
        yield lambda epochs: _parquet(work, epochs or _enough(work), tuned=True)


def _parquet(work: Work, epochs: int, *, tuned: bool = False) -> Iterator[Any]:
    import ray.data

    files = _named_again(work, epochs)
    # As many tasks at once as there would be workers of a DataLoader. The same for both, or they are not fused.
    task: dict[str, Any] = {"num_cpus": math.floor(work.cores / work.workers * 100) / 100} if tuned else {}
    blocks: dict[str, Any] = {"override_num_blocks": len(files)} if tuned else {}
    dataset = ray.data.read_parquet(files, shuffle="files", **blocks, **task)
    return _batches(dataset.map_batches(_decode_and_crop, fn_args=(work,), **task), work)


def _long(work: Work) -> int:
    """Epochs with two default tasks of 128 MiB for every core."""
    bytes_of_epoch = sum(file.stat().st_size for file in work.parquet.glob("*.parquet"))
    return max(2, round(2 * work.cores * 2**27 / bytes_of_epoch)) if work.seconds >= 8 else 2


def _enough(work: Work) -> int:
    """Epochs that nobody gets through while we count."""
    a_core = 30_000 if work.small else 2_000
    return 2 + int(work.cores * a_core * (work.seconds + 4) / work.images)


def _named_again(work: Work, epochs: int) -> list[str]:
    """The Parquet files under new names for every epoch: the reader passes over a file that is listed twice."""
    files = sorted(work.parquet.glob("*.parquet"))
    links = [work.parquet / f"epoch{epoch}" / file.name for epoch in range(epochs) for file in files]
    for link in links:
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            os.link(work.parquet / link.name, link)
    return [str(link) for link in links]


@contextmanager
def _ray(work: Work) -> Iterator[None]:
    import logging

    import ray.data

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        address="local", num_cpus=work.cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        yield
    finally:
        ray.shutdown()


def _batches(dataset: Any, work: Work) -> Iterator[Any]:
    for batch in dataset.iter_torch_batches(batch_size=work.batch):
        yield batch["image"]


def _decode_and_crop(batch: dict[str, Any], work: Work) -> dict[str, Any]:
    import numpy as np

    rows = len(batch["image"])
    out = np.empty((rows, work.size, work.size, 3), np.uint8)
    load_batch(list(batch["image"]), out, work.augment(), 0, np.random.randint(0, 2**31, rows))
    return {"image": out, "label": batch["label"]}


def _crop(batch: dict[str, Any], work: Work) -> dict[str, Any]:
    import numpy as np

    rows = len(batch["image"])
    out = np.empty((rows, work.size, work.size, 3), np.uint8)
    crop_batch(batch["image"], out, work.augment(), 0, np.random.randint(0, 2**31, rows))
    return {"image": out}
