"""What every arm of the ingest benchmark is given: the same photos in the form its kind reads, and the same task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Stream = Callable[[int | None], Iterator[Any]]
"""Given a number of epochs, or None for more than anybody takes, starts afresh and yields uint8 batches, of shape
(B, H, W, C) or (B, C, H, W)."""
Arm = Callable[["Work"], AbstractContextManager[Stream]]
"""Entering it imports, and starts what outlives streams (a cluster); leaving it ends that."""


@dataclass(frozen=True)
class Work:
    """The task: ``size``-px random-resized crops and flips of photos, or flips and shifts of small images.

    Args:
        folder: holds ``photos/`` (class folder), ``parquet/`` and ``shards/`` (prepared by vitray).
        images: photos there.
        cores: processes that may load.
        workers: of a DataLoader.
        seconds: counted, after an epoch that is not; at least one epoch is.
        options: further StreamOptions of our own arms.
    """

    folder: str
    images: int
    cores: int
    workers: int
    batch: int = 256
    small: bool = False
    seconds: float = 8.0
    options: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        return 32 if self.small else 224

    @property
    def photos(self) -> Path:
        return Path(self.folder) / "photos"

    @property
    def parquet(self) -> Path:
        return Path(self.folder) / "parquet"

    @property
    def shards(self) -> str:
        return str(Path(self.folder) / "shards")

    def augment(self) -> Any:
        from vitray.experiment import AugmentConfig

        return AugmentConfig(flip=True, shift=4) if self.small else AugmentConfig(crop=True, flip=True)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Work:
        return cls(**json.loads(text))


def load_batch(encoded: Sequence[bytes], out: Any, augment: Any, epoch: int, ids: Any) -> None:
    """Our decode and crop of ``encoded`` into ``out`` (B, H, W, 3): what the bare loop and the OpenCV peers do."""
    from vitray.data.unit import pixels_of

    crop_batch((pixels_of(data, 3) for data in encoded), out, augment, epoch, ids)


def crop_batch(images: Iterable[Any], out: Any, augment: Any, epoch: int, ids: Any) -> None:
    """Our crop of decoded ``images`` into ``out``."""
    from vitray.data.augment import Augmenter

    augmenter = Augmenter(augment)
    for row, (image, drawn) in enumerate(zip(images, augmenter.draws(0, epoch, ids), strict=True)):
        augmenter.apply(image, out[row], drawn)
