"""The torch DataLoader peers of the ingest benchmark, from the reference recipe to the strongest that we could build.

All as torch's documentation tunes them for a loader that feeds a device: a worker a core, persistent, one thread in
each, nothing pinned where nothing is copied to a device. The sampler goes on from one epoch into the next, so no
peer pays for epoch edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ingest_work import Stream, Work, load_batch
from photos import photos_of


@contextmanager
def pil(work: Work) -> Iterator[Stream]:
    """ImageFolder, PIL and the crops of torchvision's classification reference, as uint8."""
    from torchvision import datasets, transforms

    crop = (
        [transforms.RandomCrop(32, padding=4)]
        if work.small
        else [transforms.RandomResizedCrop(work.size, antialias=True)]
    )
    steps = transforms.Compose([*crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
    yield _loader(work, lambda: datasets.ImageFolder(str(work.photos), steps))


@contextmanager
def decode_image(work: Work) -> Iterator[Stream]:
    """ImageFolder, torchvision's own decoder and v2 transforms on uint8 tensors."""
    import warnings

    from torchvision import datasets
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_image as decode
    from torchvision.transforms import v2

    warnings.filterwarnings("ignore", message=".*decoding and encoding capabilities.*")
    crop = [v2.RandomCrop(32, padding=4)] if work.small else [v2.RandomResizedCrop(work.size, antialias=True)]
    steps = v2.Compose([*crop, v2.RandomHorizontalFlip()])

    def load(path: str) -> Any:
        return decode(path, mode=ImageReadMode.RGB)

    yield _loader(work, lambda: datasets.ImageFolder(str(work.photos), steps, loader=load))


@contextmanager
def opencv(work: Work) -> Iterator[Stream]:
    """Our own decode and crop in a DataLoader, straight into the shared memory that hands the batch over."""
    yield _loader(work, lambda: _Photos(work), collate=lambda batch: batch)


class _Photos:
    """A map-style dataset that makes a whole batch at a time (``__getitems__``)."""

    def __init__(self, work: Work) -> None:
        self._files = photos_of(work.photos)
        self._augment, self._size = work.augment(), work.size
        self._calls = 0

    def __len__(self) -> int:
        return len(self._files)

    def __getitems__(self, indices: list[int]) -> Any:
        import numpy as np
        import torch

        shape = (len(indices), self._size, self._size, 3)
        # As default_collate does in a worker: the batch is made where the consumer will read it, and never copied.
        storage = torch.empty(0, dtype=torch.uint8).untyped_storage()._new_shared(int(np.prod(shape)))
        batch = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
        encoded = [self._files[i].read_bytes() for i in indices]
        self._calls += 1
        load_batch(encoded, batch.numpy(), self._augment, self._calls, np.asarray(indices))
        return batch


class _Forever:
    """Samples in a new random order every epoch, without a pause between the epochs."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[int]:
        import torch

        while True:
            yield from torch.randperm(self._rows).tolist()


def _loader(work: Work, make: Callable[[], Any], collate: Callable[[Any], Any] | None = None) -> Stream:
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)  # the consumer's; each worker sets its own to 1
    made: list[Any] = []

    def stream(epochs: int | None) -> Iterator[Any]:
        if not made:
            data = make()
            made.append(
                DataLoader(
                    data,
                    batch_size=work.batch,
                    sampler=_Forever(len(data)),
                    num_workers=work.workers,
                    persistent_workers=True,
                    prefetch_factor=2,
                    pin_memory=False,
                    collate_fn=collate,
                )
            )
        for batch in made[0]:
            yield batch if collate else batch[0]

    return stream
