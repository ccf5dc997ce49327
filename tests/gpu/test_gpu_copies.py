"""Copies to a GPU: pinned, beside the step's kernels, never overwritten before they are used, and never waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_trace import spans
from small_runs import small_experiment, small_feed

from vitray.data.unit import Batch
from vitray.train.device_feed import CopiedBatch, CudaCopier, copied_ahead
from vitray.train.evaluate import evaluate
from vitray.train.loop import fresh_state, train_step
from vitray.train.meter import Meter
from vitray.train.ranks import Ranks

pytestmark = pytest.mark.gpu
_BUSY = 50_000_000  # clock cycles, about 30 ms of a GPU
_STEPS = 8


def photographs(steps: int, rows: int = 64, side: int = 224) -> Iterator[Batch]:
    """Batches of noise, about 10 MB each."""
    for step in range(steps):
        image = np.random.default_rng(step).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
        label = np.full(rows, step)
        yield Batch(step, 0, image, label, np.full(rows, step, np.float32), label, rows)


def test_a_batch_stays_whole_until_the_gpu_has_used_it(gpu: torch.device) -> None:
    """The CPU is far ahead: each batch is dropped long before the GPU, which is busy, looks at it."""
    sums = []
    for batch in copied_ahead(photographs(_STEPS), CudaCopier(gpu)):
        torch.cuda._sleep(_BUSY)
        image, label, weight = batch.tensors
        sums.append(torch.stack([image.sum(dtype=torch.int64), label.sum(), weight.sum().long()]))
        del batch, image, label, weight
    found = torch.stack(sums).tolist()
    assert found == [[int(b.image.sum()), int(b.label.sum()), int(b.weight.sum())] for b in photographs(_STEPS)]


def test_copies_leave_pinned_memory_while_kernels_run(gpu: torch.device) -> None:
    batches = list(photographs(_STEPS))  # made beforehand, so that the stream is no bottleneck

    def steps() -> None:
        for _ in copied_ahead((batch for batch in batches), CudaCopier(gpu)):
            torch.cuda._sleep(_BUSY)

    steps()  # memory is pinned and kernels are loaded by now
    ran = spans(steps)
    large = sorted((s for s in ran if "HtoD" in s.name), key=lambda s: s.start - s.end)[:_STEPS]
    kernels = [s for s in ran if not s.name.startswith(("Memcpy", "Memset"))]
    assert kernels
    assert len(large) == _STEPS
    assert all("Pinned" in copy.name for copy in large)
    hidden = [copy for copy in large if any(copy.beside(kernel) for kernel in kernels)]
    assert len(hidden) >= _STEPS // 2, "the first cannot be, and no copy of the step's own ever would be"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"train__mixup": 0.5, "train__cutmix": 1.0},
        {"train__ema": 0.9, "train__accumulate": 2, "model__drop_path": 0.1},
        {"model__pos_encoding": "relative", "optim__layer_decay": 0.8},
        {"model__pos_encoding": "rope_2d", "model__attention": "axial"},
        {"model__pos_encoding": "sinusoidal"},
        {"model__pos_encoding": "sinusoidal_2d"},
    ],
)
def test_a_step_never_waits_for_the_gpu(gpu: torch.device, digits: Path, values: dict[str, Any]) -> None:
    ranks = Ranks(device=gpu)
    feed = small_feed(small_experiment(digits, **values), ranks)
    state, meter = fresh_state(feed.experiment, ranks), Meter(gpu)
    batches = meter.watch(feed.train(0, 12))
    try:
        for number, batch in enumerate(batches):
            if number == 2:  # by now the optimizer has its state, and libraries their workspaces
                torch.cuda.set_sync_debug_mode("error")
            meter.add(train_step(state.model, state, batch, feed), batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.close_epoch(ranks)["train/loss"] > 0


def test_a_step_that_takes_its_rows_itself_gives_the_same_loss(gpu: torch.device, digits: Path) -> None:
    ranks = Ranks(device=gpu)
    experiment = small_experiment(digits, model__dropout=0.0, train__precision="float32")
    losses = []
    for strip in (False, True):
        feed, state = small_feed(experiment, ranks), fresh_state(experiment, ranks)
        for batch in feed.train(0, 4):
            assert isinstance(batch, CopiedBatch)
            host = {name: value for name, value in vars(batch).items() if name != "tensors"}
            losses.append(train_step(state.model, state, Batch(**host) if strip else batch, feed))
    ahead, itself = torch.stack(losses).view(2, 4)
    torch.testing.assert_close(ahead, itself)


def test_evaluation_on_a_gpu_counts_what_it_counts_on_the_cpu(gpu: torch.device, digits: Path) -> None:
    found = []
    for device in (torch.device("cpu"), gpu):
        ranks = Ranks(device=device)
        feed = small_feed(small_experiment(digits), ranks)
        model = fresh_state(feed.experiment, Ranks()).model.to(device)  # of the CPU's random numbers
        found.append(dict(evaluate(model, feed.evaluation("train"), feed.to_input, ranks)))
    assert found[1]["samples"] == found[0]["samples"] == 1258
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=1e-3)
    assert found[1]["accuracy"] == pytest.approx(found[0]["accuracy"], abs=0.01)
