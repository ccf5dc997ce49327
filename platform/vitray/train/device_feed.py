"""Batches on their way to the device; on a GPU the next one is copied while the current step computes.

There a thread takes a batch from the stream, puts it into pinned memory, which the GPU can read while it computes, and
begins the copy on a CUDA stream of its own. The step's kernels wait for that copy on the GPU; no thread waits for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from vitray.data.prefetch import Prefetch
from vitray.data.unit import Batch

# The stream hands out views of shared memory, which must not be written to, and nobody here does.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

_AHEAD = 1  # copies that wait for the consumer; one more is being made meanwhile


class Tensors(NamedTuple):
    """A batch's rows: ``image`` uint8 (B, H, W, C), ``label`` int64 (B,), ``weight`` float32 (B,)."""

    image: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True)
class CopiedBatch(Batch):
    """A batch whose rows are on the device, too."""

    tensors: Tensors


class Copier(Protocol):
    """Copies batches to a device. Called by one thread; what it returns is called by another, or not at all."""

    def __call__(self, batch: Batch) -> Callable[[], Tensors]:
        """Begin a copy and return how to take it: called where it is used, it gives tensors that are safe to use."""
        ...


def copied_ahead(batches: Iterator[Batch], copier: Copier) -> Iterator[CopiedBatch]:
    """The same batches in the same order, each copied before it is asked for.

    What ``batches`` raises is raised where its batch would have come; leaving early closes it.
    """

    def begun() -> Iterator[tuple[Batch, Callable[[], Tensors]]]:
        with closing(batches):  # type: ignore[type-var]  # a stream is a generator
            for batch in batches:
                yield batch, copier(batch)

    for batch, take in Prefetch(begun, _AHEAD):
        yield CopiedBatch(**vars(batch), tensors=take())


class CudaCopier:
    """Copies through pinned memory on a CUDA stream of its own.

    Both sides' memory is torch's to reuse, which it does in time: pinned memory once the copy out of it is done, memory
    on the device once what the consumer's stream had been given by the time it dropped the tensors is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def __call__(self, batch: Batch) -> Callable[[], Tensors]:
        copied = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            tensors = Tensors(*(t.pin_memory().to(self._device, non_blocking=True) for t in host_tensors(batch)))
            copied.record()

        def take() -> Tensors:
            consumer = torch.cuda.current_stream(self._device)
            consumer.wait_event(copied)
            for tensor in tensors:
                tensor.record_stream(consumer)
            return tensors

        return take


def tensors_of(batch: Batch, device: torch.device) -> Tensors:
    """A batch's rows on ``device``: copied now, unless that was done ahead. On the CPU they are the batch's memory."""
    if isinstance(batch, CopiedBatch):
        return batch.tensors
    return Tensors(*(tensor.to(device) for tensor in host_tensors(batch)))


def host_tensors(batch: Batch) -> Tensors:
    """A batch's own memory as tensors. Only for reading."""
    return Tensors(torch.from_numpy(batch.image), torch.from_numpy(batch.label), torch.from_numpy(batch.weight))
