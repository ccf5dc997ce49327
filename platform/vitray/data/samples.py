"""A few images of a split as files, to look at and to predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitray.data.decode import sniff
from vitray.data.images import ShardedImages
from vitray.data.view import SplitView
from vitray.errors import DataError


def write_samples(data: ShardedImages, split: str, folder: Path, count: int) -> list[Path]:
    """Write the stored bytes of ``count`` images, of different classes where there are as many; returns the files.

    A file is named ``<class>-<sample id>.<format>``.
    """
    view = SplitView(data.store, split)
    labels = view.labels()
    by_class = np.argsort(labels, kind="stable")
    turn = np.empty(view.rows, dtype=np.int64)  # how many of its class come before it
    turn[by_class] = np.arange(view.rows) - np.searchsorted(labels[by_class], labels[by_class])
    chosen = np.lexsort((labels, turn))[:count]
    images, _ = view.read(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for row, image in zip(chosen.tolist(), images, strict=True):
        if image is None:
            raise DataError("is damaged", where=view.place(row), remedy="vitray data verify names all that is wrong")
        suffix = {"jpeg": "jpg"}.get(kind := sniff(image) or "bin", kind)
        path = folder / f"{data.classes[labels[row]]}-{row:05d}.{suffix}"
        path.write_bytes(image)
        files.append(path)
    return files
