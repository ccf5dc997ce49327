"""Our own arms of the ingest benchmark, and the bare loop that is the limit for everybody."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ingest_work import Stream, Work, load_batch
from photos import photos_of


@contextmanager
def vitray(work: Work, *, cache: str = "none") -> Iterator[Stream]:
    """Our stream through Ray Data, on all cores: the rank trains on a device and leaves them to the data."""
    from vitray.cluster.local import connect

    with connect():
        yield lambda epochs: our_batches(work, epochs, cache=cache)


@contextmanager
def vitray_cached(work: Work) -> Iterator[Stream]:
    """The same from the second epoch on, the split's decoded pixels at hand."""
    with vitray(work, cache="decoded") as stream:
        yield stream


def our_batches(
    work: Work, epochs: int | None, *, cache: str = "none", rank: int = 0, world_size: int = 1
) -> Iterator[Any]:
    from vitray.data import ShardedImages
    from vitray.data.stream import StreamOptions

    data = ShardedImages.open(work.shards)
    steps = data.order("train", global_batch=work.batch).steps_per_epoch
    options: dict[str, Any] = {"executor": "ray", "cache": cache, "cache_bytes": 2**36, **_layout(work, world_size)}
    batches = data.batches(
        "train",
        global_batch=work.batch,
        rank=rank,
        world_size=world_size,
        start_step=0,
        stop_step=(epochs or 10_000) * steps,
        size=work.size,
        augment=work.augment(),
        options=StreamOptions(**{**options, **(work.options or {})}),
    )
    try:
        for batch in batches:
            yield batch.image
    finally:
        batches.close()  # type: ignore[attr-defined]


def _layout(work: Work, ranks: int) -> dict[str, Any]:
    """The data tasks that a training gets whose ranks sit on devices and leave ``cores`` CPUs to the data."""
    from vitray.experiment import ClusterConfig
    from vitray.train.resources import plan_groups

    plan = plan_groups(ClusterConfig(workers=ranks, use_gpu=True), cpus=work.cores + ranks, gpus=ranks)
    return {"workers": plan.data_workers, "task_cpus": plan.task_cpus, "prefetch": max(2, plan.data_workers)}


@contextmanager
def bare(work: Work) -> Iterator[Stream]:
    """The limit: a process a core decodes and crops bytes that it holds into one array, again and again.

    Nothing is read, ordered or handed over; a count of rows stands for each batch.
    """
    context = multiprocessing.get_context("fork")
    counts: Any = context.SimpleQueue()
    encoded = [file.read_bytes() for file in photos_of(work.photos)]
    workers = [
        context.Process(target=_loop, args=(work, encoded, part, counts), daemon=True) for part in range(work.cores)
    ]

    def stream(epochs: int | None) -> Iterator[int]:
        for worker in workers:
            if worker.pid is None:
                worker.start()
        while True:
            yield counts.get()

    try:
        yield stream
    finally:
        for worker in workers:
            worker.kill()


def _loop(work: Work, encoded: list[bytes], part: int, counts: Any) -> None:
    import numpy as np

    out = np.empty((work.batch, work.size, work.size, 3), np.uint8)
    augment, rng = work.augment(), np.random.default_rng(part)
    epoch = 0
    while True:
        order = rng.permutation(len(encoded))
        for start in range(0, len(order) - work.batch + 1, work.batch):
            ids = order[start : start + work.batch]
            load_batch([encoded[i] for i in ids.tolist()], out, augment, epoch, ids)
            counts.put(len(ids))
        epoch += 1
