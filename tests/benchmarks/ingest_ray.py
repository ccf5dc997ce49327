"""The straightforward Ray Data pipelines of the ingest benchmark, as Ray's guides write them, with default settings.

All epochs are one pass over a list of inputs that names every file once an epoch, so no peer pays for epoch edges.
Inputs are shuffled by file (``shuffle="files"``), the cheapest of the ways that the guide lists. The one setting
changed is the Parquet reader: Ray's newer one packs 128 MiB of files into a task, which is our whole set, so its rate
was that of one core and its first batch came two to three times later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ingest_work import Stream, Work, load_batch


@contextmanager
def ray_parquet(work: Work) -> Iterator[Stream]:
    """read_parquet of encoded bytes, map_batches(decode and crop, with OpenCV), iter_torch_batches."""
    import ray

    with _ray(work):
        yield lambda epochs: _batches(
            ray.data.read_parquet(_named_again(work, epochs or _many(work)), shuffle="files").map_batches(
                _decode_and_crop, fn_args=(work,)
            ),
            work,
        )


@contextmanager
def ray_images(work: Work) -> Iterator[Stream]:
    """read_images of the class folder, map_batches(crop, with OpenCV), iter_torch_batches."""
    import ray

    folder = str(work.photos)
    with _ray(work):
        yield lambda epochs: _batches(
            ray.data.read_images([folder] * (epochs or _many(work)), mode="RGB", shuffle="files").map_batches(
                _crop, fn_args=(work,)
            ),
            work,
        )


def _many(work: Work) -> int:
    return 3 * (work.warmup + work.epochs)


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
        context.use_datasource_v2 = False
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

    from vitray.data.augment import draws, transform

    rows = len(batch["image"])
    out = np.empty((rows, work.size, work.size, 3), np.uint8)
    augment = work.augment()
    for row, drawn in enumerate(draws(0, 0, np.random.randint(0, 2**31, rows))):
        transform(batch["image"][row], out[row], augment, drawn)
    return {"image": out}
