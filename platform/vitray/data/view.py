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
                    f"has no split {part!r}", where=str(self.store.path), remedy="its splits: " + ", ".join(known)
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

    def labels(self) -> I64:
        """Every row's label, without reading an image."""
        tables = (
            self.store.read_group(part, group, columns=["label"])
            for part in self._parts
            for group in range(self.store.num_groups(part))
        )
        return np.concatenate([np.empty(0, np.int64), *(table.column("label").to_numpy() for table in tables)])

    def read(self, sample_ids: I64) -> tuple[list[bytes], I64]:
        """The encoded images and labels of some rows, in the order asked for; each row group is read once."""
        images = [b""] * len(sample_ids)
        labels = np.empty(len(sample_ids), dtype=np.int64)
        if not len(sample_ids):
            return images, labels
        part_of = np.searchsorted(self._starts, sample_ids, side="right") - 1
        local = sample_ids - self._starts[part_of]
        size = self.store.rows_per_group
        group_of = local // size
        order = np.lexsort((group_of, part_of))
        edges = np.nonzero(np.diff(part_of[order]) | np.diff(group_of[order]))[0] + 1
        for where in np.split(order, edges):
            part, group = self._parts[part_of[where[0]]], int(group_of[where[0]])
            table = self.store.read_group(part, group, columns=["image", "label"])
            column = table.column("image").combine_chunks()
            rows = local[where] - group * size
            labels[where] = table.column("label").to_numpy()[rows]
            for position, encoded in zip(where.tolist(), column.take(rows).to_pylist(), strict=True):
                images[position] = encoded
        return images, labels
