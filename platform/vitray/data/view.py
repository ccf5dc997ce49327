"""A split as rows: one split of a dataset, or several laid end to end (``train+val`` for the final retraining)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vitray.data.rng import I64
from vitray.data.shards import ShardStore
from vitray.errors import DataError


@dataclass(frozen=True)
class SplitView:
    """Rows ``0..rows-1`` of ``split``, which is a split's name or names joined by ``+``."""

    store: ShardStore
    split: str

    def __post_init__(self) -> None:
        known = self.store.manifest.splits
        for part in self._parts:
            if part not in known:
                raise DataError(
                    f"has no split {part!r}", where=self.store.shown, remedy="its splits: " + ", ".join(known)
                )

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        return tuple(self.split.split("+"))

    @cached_property
    def _starts(self) -> I64:
        return np.cumsum([0, *(self.store.num_rows(part) for part in self._parts)], dtype=np.int64)

    @property
    def rows(self) -> int:
        return int(self._starts[-1])

    @property
    def pixels(self) -> int:
        """Bytes that the decoded images take at their own sizes."""
        return sum(self.store.manifest.splits[part].pixels for part in self._parts)

    def labels(self) -> I64:
        """Every row's label, int64 (rows,), without reading an image."""
        return np.concatenate([self.store.labels(part) for part in self._parts])

    def read(self, sample_ids: I64) -> tuple[list[bytes | None], I64]:
        """The encoded images and labels of some rows, in the order asked for; None where the bytes are damaged.

        Raises:
            DataError: a shard cannot be read at all; names it.
        """
        images: list[bytes | None] = [None] * len(sample_ids)
        labels = np.empty(len(sample_ids), dtype=np.int64)
        part_of = np.searchsorted(self._starts, sample_ids, side="right") - 1
        for number in np.unique(part_of).tolist():
            places = np.nonzero(part_of == number)[0]
            found, labels[places] = self.store.read_rows(self._parts[number], sample_ids[places] - self._starts[number])
            for place, image in zip(places.tolist(), found, strict=True):
                images[place] = image
        return images, labels

    def place(self, sample_id: int) -> str:
        """Where a row lies, for messages: dataset, shard file and row."""
        number = int(np.searchsorted(self._starts, sample_id, side="right")) - 1
        row = sample_id - int(self._starts[number])
        return f"{self.store.where(self._parts[number], row)} (sample {sample_id} of {self.split})"
