"""A split of a dataset that is prepared already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from vitray.data.shards import ShardStore
from vitray.data.sources.source import Chunk, Item
from vitray.data.view import SplitView


class DatasetSplit:
    """The rows of a split (or of several, ``train+val``) in their stored order; a key is ``test/12``.

    Raises:
        DataError: no such split.
    """

    rereads: ClassVar[bool] = True

    def __init__(self, store: ShardStore, split: str) -> None:
        self.name, self._view = store.shown, SplitView(store, split)
        self.class_names: tuple[str, ...] = tuple(store.manifest.classes)

    def chunks(self) -> list[Chunk]:
        """As many rows as a row group has each."""
        rows, step = self._view.rows, self._view.store.rows_per_group
        starts = range(0, rows, step)
        return [Chunk(i, (at, min(at + step, rows)), min(step, rows - at)) for i, at in enumerate(starts)]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        ids = np.arange(*chunk.place)
        images, labels = self._view.read(ids)
        for row, data, label in zip(ids.tolist(), images, labels.tolist(), strict=True):
            why = None if data is not None else "damaged: its bytes are not those that were written"
            yield Item(f"{self._view.split}/{row}", label, data or b"", why, None, row)

    def reread(self, place: Any) -> bytes:
        (data,), _ = self._view.read(np.array([place]))
        return data or b""
