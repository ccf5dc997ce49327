"""What every arm of the ingest benchmark is given: the same photos in the form its kind reads, and the same task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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
        warmup: epochs before anything is counted.
        epochs: epochs counted.
        options: further StreamOptions of our own arms.
    """

    folder: str
    images: int
    cores: int
    workers: int
    batch: int = 256
    small: bool = False
    warmup: int = 1
    epochs: int = 4
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


def load_batch(encoded: list[bytes], out: Any, augment: Any, epoch: int, ids: Any) -> None:
    """Our decode and crop of ``encoded`` into ``out`` (B, H, W, 3): what the bare loop and the OpenCV peers do."""
    from vitray.data.augment import draws, transform
    from vitray.data.decode import decode

    for row, (data, drawn) in enumerate(zip(encoded, draws(0, epoch, ids), strict=True)):
        transform(decode(data, 3), out[row], augment, drawn)
