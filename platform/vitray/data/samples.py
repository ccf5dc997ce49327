"""A few images of a split as files, to look at and to predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitray.data.decode import sniff
from vitray.data.images import ShardedImages
from vitray.data.view import SplitView


def write_samples(data: ShardedImages, split: str, folder: Path, count: int) -> list[Path]:
    """Write the stored bytes of ``count`` images, of different classes where there are as many; returns the files.

    A file is named ``<class>-<sample id>.<format>``.
    """
    view = SplitView(data.store, split)
    images, labels = view.read(np.arange(view.rows))
    chosen: list[int] = []
    for label in [*range(len(data.classes))] * view.rows:
        rows = [row for row in np.nonzero(labels == label)[0].tolist() if row not in chosen]
        if rows:
            chosen.append(rows[0])
        if len(chosen) == min(count, view.rows):
            break
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for row in chosen:
        suffix = {"jpeg": "jpg"}.get(kind := sniff(images[row]) or "bin", kind)
        path = folder / f"{data.classes[labels[row]]}-{row:05d}.{suffix}"
        path.write_bytes(images[row])
        files.append(path)
    return files
