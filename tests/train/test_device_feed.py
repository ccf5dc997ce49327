"""Copies ahead of the consumer: in order, whole, however late they are used. On a GPU: tests/gpu."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import small_experiment, small_feed

from vitray.data.unit import Batch
from vitray.errors import DataError
from vitray.train.device_feed import CopiedBatch, Tensors, copied_ahead, host_tensors, tensors_of

CPU = torch.device("cpu")


def batch_of(step: int, rows: int) -> Batch:
    """Rows that are like no other batch's."""
    rng = np.random.default_rng(step)
    image = rng.integers(0, 256, (rows, 3, 2, 1), dtype=np.uint8)
    label, weight = rng.integers(0, 10, rows), rng.random(rows, dtype=np.float32)
    return Batch(step, step // 4, image, label, weight, np.arange(rows) + step, rows)


def copy_now(batch: Batch) -> Callable[[], Tensors]:
    copies = Tensors(*(tensor.clone() for tensor in host_tensors(batch)))
    return lambda: copies


def same(copied: CopiedBatch, batch: Batch) -> bool:
    """Whether all of the batch came along, on the host as on the device."""
    host = all(np.array_equal(getattr(copied, name), value) for name, value in vars(batch).items())
    return host and all(torch.equal(a, b) for a, b in zip(copied.tensors, host_tensors(batch), strict=True))


class Late:
    """Copies as late as a GPU may: when the tensors are taken, or when the next copy begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: Callable[[], object] = lambda: None

    def __call__(self, batch: Batch) -> Callable[[], Tensors]:
        arrived: list[Tensors] = []

        def arrive() -> Tensors:
            if not arrived:
                arrived.append(copy_now(batch)())
            return arrived[0]

        def take() -> Tensors:
            with self._lock:
                return arrive()

        with self._lock:
            self._pending()
            self._pending = arrive
        return take


@settings(max_examples=25)
@given(rows=st.lists(st.integers(0, 5), max_size=9), kept=st.integers(1, 4), late=st.booleans())
def test_every_batch_comes_once_in_order_however_late_it_is_used(rows: list[int], kept: int, late: bool) -> None:
    batches = [batch_of(step, count) for step, count in enumerate(rows)]
    unused: list[CopiedBatch] = []
    used = 0
    for copied in copied_ahead(iter_of(batches), Late() if late else copy_now):
        unused.append(copied)
        if len(unused) == kept:
            assert same(unused.pop(0), batches[used])
            used += 1
    assert len(unused) == len(batches) - used
    assert all(same(copied, batch) for copied, batch in zip(unused, batches[used:], strict=True))


def iter_of(batches: list[Batch], closed: threading.Event | None = None) -> Iterator[Batch]:
    try:
        yield from batches
    finally:
        if closed is not None:
            closed.set()


def test_the_next_copy_begins_while_a_batch_is_in_use() -> None:
    begun: dict[int, threading.Event] = {step: threading.Event() for step in range(9)}

    def copier(batch: Batch) -> Callable[[], Tensors]:
        begun[batch.step].set()
        return copy_now(batch)

    copies = copied_ahead(iter_of([batch_of(step, 2) for step in range(9)]), copier)
    for copied in copies:
        for ahead in range(copied.step, min(copied.step + 2, 9)):
            assert begun[ahead].wait(10)
        assert not any(begun[step].is_set() for step in range(copied.step + 3, 9)), "memory holds but a few copies"


@pytest.mark.parametrize("fails", ["stream", "copier"])
def test_what_breaks_is_raised_where_its_batch_would_have_come(fails: str) -> None:
    closed = threading.Event()

    def breaking() -> Iterator[Batch]:
        yield from iter_of([batch_of(0, 2), batch_of(1, 2)], closed)
        if fails == "stream":
            raise DataError("a shard is gone")
        yield batch_of(2, 2)

    def copier(batch: Batch) -> Callable[[], Tensors]:
        if batch.step == 2:
            raise DataError("no memory is left")
        return copy_now(batch)

    seen: list[int] = []
    with pytest.raises(DataError, match="a shard is gone" if fails == "stream" else "no memory is left"):
        seen.extend(copied.step for copied in copied_ahead(breaking(), copier))
    assert seen == [0, 1]
    assert closed.is_set()


def test_leaving_early_closes_the_stream_and_ends_the_thread() -> None:
    closed, before = threading.Event(), threading.active_count()
    copies = copied_ahead(iter_of([batch_of(step, 1) for step in range(50)], closed), copy_now)
    next(copies)
    copies.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert threading.active_count() == before


def test_a_copied_batch_is_what_a_step_would_have_copied_itself(digits: Path) -> None:
    feed = small_feed(small_experiment(digits))
    plain, again = list(feed.train(3, 6)), feed.train(3, 6)
    for batch, copied in zip(plain, copied_ahead(again, copy_now), strict=True):
        assert same(copied, batch)
        assert torch.equal(feed.to_input(copied), feed.to_input(batch))


def test_on_the_cpu_nothing_is_copied(digits: Path) -> None:
    feed = small_feed(small_experiment(digits))
    (batch,) = feed.train(0, 1)
    assert type(batch) is Batch
    for tensor, array in zip(tensors_of(batch, CPU), (batch.image, batch.label, batch.weight), strict=True):
        assert tensor.data_ptr() == array.ctypes.data
