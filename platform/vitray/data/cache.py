"""A split decoded once: small enough to stay in memory, it is indexed instead of read and decoded every epoch.

Images are kept at the size where nothing is lost for what follows: at the size that training sees, or, where it crops
at random, as they are stored. So patch size, depth and heads never need another pass, and the pixels that a rank sees
are those that it would see without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vitray.data.decode import fit
from vitray.data.pace import decode_seconds
from vitray.data.recent import Recent
from vitray.data.rng import I64
from vitray.data.unit import Block, Plan, augment_into, empty_block, pixels_of
from vitray.data.view import SplitView
from vitray.errors import ConfigError
from vitray.experiment import AugmentConfig

U8 = npt.NDArray[np.uint8]
_CHUNK_BYTES = 32 * 2**20
_HELD_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Wish:
    """What is to be cached: the rows of ``view``, at ``size`` (height, width) or (None) as they are stored."""

    view: SplitView
    size: tuple[int, int] | None

    @classmethod
    def of(cls, view: SplitView, size: tuple[int, int], augment: AugmentConfig | None) -> Wish:
        """What serves training (or, without ``augment``, evaluation) at ``size``."""
        crops = augment is not None and augment.crop
        return cls(view, None if crops or view.store.manifest.image_size == size else size)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The place too: a copy of the same dataset elsewhere may have damaged rows that this one has not."""
        size = f"{self.size[0]}x{self.size[1]}" if self.size else "as stored"
        return self.view.store.path, self.view.store.fingerprint, self.view.split, size

    @property
    def bytes(self) -> int:
        if self.size is None:
            return self.view.pixels
        return self.view.rows * self.size[0] * self.size[1] * self.view.store.manifest.channels

    @property
    def seconds(self) -> float:
        """What decoding takes one core, about."""
        return decode_seconds(self.view.rows, self.view.pixels / self.view.store.manifest.channels)

    def allowed(self, mode: Literal["auto", "none", "decoded"], limit: int) -> bool:
        """Whether ``data.cache`` and ``data.cache_bytes`` let it be.

        Raises:
            ConfigError: it was asked for, and does not fit the limit.
        """
        if mode == "none" or not self.view.rows:
            return False
        if self.bytes > limit and mode == "decoded":
            raise ConfigError(
                f"needs {self.bytes / 2**20:.0f} MiB for split {self.view.split}, more than data.cache_bytes allows",
                where="data.cache: decoded",
                remedy=f"set data.cache_bytes={self.bytes} or data.cache=none",
            )
        return self.bytes <= limit

    def chunks(self) -> list[tuple[int, int]]:
        """First row and one past the last of each part that is decoded in one go."""
        rows = max(1, self.view.rows * _CHUNK_BYTES // max(1, self.bytes))
        return [(start, min(start + rows, self.view.rows)) for start in range(0, self.view.rows, rows)]


@dataclass(frozen=True)
class DecodedChunk:
    """Consecutive rows: ``pixels`` uint8, one image after the other; ``height``, ``width`` int32, 0 where damaged."""

    pixels: U8
    height: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]
    label: I64


def decode_chunk(wish: Wish, start: int, stop: int) -> DecodedChunk:
    """Read and decode rows ``start .. stop - 1``. Pure, so that any process may do it."""
    channels = wish.view.store.manifest.channels
    encoded, labels = wish.view.read(np.arange(start, stop))
    images: list[U8] = []
    sides = np.zeros((stop - start, 2), dtype=np.int32)
    for row, data in enumerate(encoded):
        image = pixels_of(data, channels)
        if image is not None:
            image = image if wish.size is None else fit(image, wish.size)
            sides[row] = image.shape[:2]
            images.append(image.reshape(-1))
    pixels = np.concatenate([np.empty(0, np.uint8), *images])
    return DecodedChunk(pixels, sides[:, 0].copy(), sides[:, 1].copy(), labels)


class DecodedSplit:
    """All rows of a split, by their numbers."""

    def __init__(self, chunks: Sequence[DecodedChunk], channels: int) -> None:
        self._pixels, self._channels = [chunk.pixels for chunk in chunks], channels
        self._height = np.concatenate([chunk.height for chunk in chunks])
        self._width = np.concatenate([chunk.width for chunk in chunks])
        self.label = np.concatenate([chunk.label for chunk in chunks])
        self._chunk = np.repeat(np.arange(len(chunks)), [len(chunk.label) for chunk in chunks])
        sizes = [chunk.height.astype(np.int64) * chunk.width * channels for chunk in chunks]
        self._start = np.concatenate([np.cumsum(size) - size for size in sizes])
        self.bytes = sum(len(pixels) for pixels in self._pixels)

    def image(self, row: int) -> U8 | None:
        """(H, W, C), a view; None where the row is damaged."""
        height, width = int(self._height[row]), int(self._width[row])
        if not height:
            return None
        start = int(self._start[row])
        flat = self._pixels[self._chunk[row]][start : start + height * width * self._channels]
        return flat.reshape(height, width, self._channels)

    def block(self, plan: Plan, first: int, count: int) -> Block:
        """The block that reading these steps would give."""
        block, real = empty_block(plan, first, count)
        ids = block.sample_id[real]
        block.label[real] = self.label[ids]
        augment_into(plan, block, real, (self.image(row) for row in ids.tolist()))
        return block


held: Recent[DecodedSplit] = Recent(limit=_HELD_BYTES, size_of=lambda split: split.bytes)
"""The decoded splits of this process, for its later experiments."""
