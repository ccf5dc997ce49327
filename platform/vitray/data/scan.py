"""The first pass over a source: every image is read, hashed, decoded, measured and made fit to be stored, once.

A chunk is a task, and an image a row: one unusable image costs one row and never the chunk.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vitray.data.convert import normalise
from vitray.data.folder import STAGING, Folder
from vitray.data.manifest import SPLITS
from vitray.data.sources import Chunk, Item, Source
from vitray.errors import DataError

SCANNED = pa.schema(
    [
        ("key", pa.large_binary()),  # UTF-8, but for file names that are not
        ("label", pa.string()),  # "n:cat" a name, "i:3" an integer, null unknown (of a refused image)
        ("split", pa.int8()),  # a position in SPLITS; null where the source says nothing
        ("found", pa.binary(32)),  # sha256 of the bytes as found; null where there are none
        ("stored", pa.binary(32)),  # and of those to be stored, where they differ
        ("bytes", pa.int64()),  # to be stored
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("channels", pa.int8()),
        # The mean and the mean of squares of three channels, in [0, 1] units.
        ("moments", pa.list_(pa.float64(), 6)),
        ("converted", pa.string()),  # "cmyk,resized"; null when nothing was
        ("reason", pa.string()),  # why it cannot be used; null when it can
        # Where the second pass finds the bytes: what reread() takes, pickled, or else a range of the chunk's staging.
        ("place", pa.large_binary()),
        ("chunk", pa.int32()),
        ("offset", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Scan:
    """The task of the first pass. Picklable; threads and Ray tasks run it alike."""

    source: Source
    folder: Folder
    max_pixels: int
    size: int | None

    def __call__(self, chunk: Chunk) -> pa.Table:
        """A row of :data:`SCANNED` for each image of the chunk, in the order of the source.

        What cannot be had again cheaply is kept in the folder's staging, one file a chunk.

        Raises:
            DataError: the chunk is broken as a whole, or a label is none.
            OSError: the staging cannot be written.
        """
        columns: dict[str, list[Any]] = {name: [] for name in SCANNED.names}
        with _staging(self.folder, chunk) as stage:
            for item in self.source.items(chunk):
                row = self._row(item, stage) | {"chunk": chunk.number}
                for name, column in columns.items():
                    column.append(row.get(name))
        return pa.table({name: pa.array(columns[name], SCANNED.field(name).type) for name in columns}, schema=SCANNED)

    def _row(self, item: Item, stage: _Stage) -> dict[str, Any]:
        row: dict[str, Any] = {"key": item.key.encode("utf-8", "surrogateescape"), "label": _label(item)}
        if item.split is not None:
            row["split"] = SPLITS.index(item.split)
        if item.problem is not None:
            digest = hashlib.sha256(item.data).digest() if item.data else None
            return row | {"found": digest, "reason": item.problem}
        row["found"] = hashlib.sha256(item.data).digest()
        try:
            image = normalise(item.data, max_pixels=self.max_pixels, size=self.size)
        except DataError as error:
            return row | {"reason": error.what}
        if image.changed:
            row["stored"] = hashlib.sha256(image.data).digest()
        if self.source.rereads and not image.changed:
            row["place"] = pickle.dumps(item.place)
        else:
            row["offset"] = stage.add(image.data)
        return row | {
            "bytes": len(image.data),
            "width": image.width,
            "height": image.height,
            "channels": image.channels,
            "moments": [*image.mean, *image.square],
            "converted": ",".join(image.conversions) or None,
        }


def _label(item: Item) -> str | None:
    if not isinstance(item.label, str):
        return f"i:{int(item.label)}"
    if not item.label and item.problem is not None:
        return None
    if not item.label.isprintable() or not item.label:
        raise DataError(
            f"has a label that cannot be printed: {item.label!r}",
            where=shown(item.key.encode("utf-8", "surrogateescape")),
            remedy="rename it; it becomes the name of a class",
        )
    return f"n:{item.label}"


def shown(key: bytes) -> str:
    """A key as text that can be printed and stored: a file name need not be UTF-8, and may hold a line break."""
    return key.decode("utf-8", "backslashreplace")


def staged(chunk: int) -> str:
    """The staging file of a chunk, in the folder."""
    return f"{STAGING}/{chunk:06d}"


class _Stage:
    """Stored bytes one after the other, in a file that is made when there is something for it."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._stream: pa.NativeFile | None = None
        self._end = 0

    def add(self, data: bytes) -> int:
        """Append, and return where it begins."""
        if self._stream is None:
            self._stream = self._folder.create(self._name)
        self._stream.write(data)
        self._end += len(data)
        return self._end - len(data)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


@contextmanager
def _staging(folder: Folder, chunk: Chunk) -> Iterator[_Stage]:
    stage = _Stage(folder, staged(chunk.number))
    try:
        yield stage
    finally:
        stage.close()
