"""Where each encoded image lies in its Parquet file, known from the footer alone.

A row group's images are one uncompressed page of length-prefixed bytes. The footer carries each image's length,
checksum and label, so an image is one positional read: an epoch in any order reads every byte once, and no row group is
fetched for the sake of a few of its rows.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from vitray.data.rng import I64

KEY = "vitray.rows"
PREFIX = 4  # bytes of length before each value of a plain byte-array page
_ENTRY = np.dtype([("length", "<u4"), ("crc", "<u4"), ("label", "<i4")])
_PAGE_HEADER = 256  # more than any header of a page without statistics

Entries = npt.NDArray[np.void]


@dataclass(frozen=True)
class RowIndex:
    """Arrays over a shard's rows: where the encoded image begins, how many bytes it has, their crc32, its label."""

    offset: I64
    length: npt.NDArray[np.uint32]
    crc: npt.NDArray[np.uint32]
    label: I64


class RowIndexWriter:
    """Gathers the index while a shard is written."""

    def __init__(self) -> None:
        self._entries: list[Entries] = []

    def add(self, images: Sequence[bytes], labels: Sequence[int]) -> None:
        rows = [(len(image), zlib.crc32(image), label) for image, label in zip(images, labels, strict=True)]
        self._entries.append(np.array(rows, dtype=_ENTRY))

    def metadata(self) -> dict[str, str]:
        """What belongs into the Parquet file's key-value metadata; text, since other readers expect text."""
        packed = np.concatenate([np.empty(0, _ENTRY), *self._entries]).tobytes()
        return {KEY: base64.b64encode(packed).decode()}


def index_digest(metadata: Mapping[bytes, bytes]) -> str:
    """16 hex digits that tell the row index in a file's key-value metadata from that of every other shard."""
    return hashlib.blake2b(metadata[KEY.encode()], digest_size=8).hexdigest()


def row_index(footer: pq.FileMetaData) -> RowIndex:
    """The index in a shard's footer.

    Raises:
        ValueError: there is none, or the file is not laid out as the index says.
    """
    packed = (footer.metadata or {}).get(KEY.encode())
    if packed is None:
        raise ValueError("no row index in its footer")
    entries = np.frombuffer(base64.b64decode(packed, validate=True), dtype=_ENTRY)
    if len(entries) != footer.num_rows:
        raise ValueError(f"a row index of {len(entries)} rows for {footer.num_rows}")
    lengths = entries["length"].astype(np.int64)
    ends = np.cumsum(lengths + PREFIX)
    offset = np.empty(len(entries), dtype=np.int64)
    first = 0
    for group in range(footer.num_row_groups):
        meta = footer.row_group(group)
        column, stop = meta.column(1), first + meta.num_rows
        begin = int(ends[first - 1]) if first else 0
        values = int(ends[stop - 1]) - begin if stop > first else 0
        header = column.total_compressed_size - values
        if column.path_in_schema != "image" or column.compression != "UNCOMPRESSED" or not 0 < header < _PAGE_HEADER:
            raise ValueError(f"row group {group} is not laid out as its index says")
        offset[first:stop] = column.data_page_offset + header + ends[first:stop] - begin - lengths[first:stop]
        first = stop
    return RowIndex(offset, entries["length"].copy(), entries["crc"].copy(), entries["label"].astype(np.int64))
