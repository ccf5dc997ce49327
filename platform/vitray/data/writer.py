"""The second pass: one shard file from its rows, streamed a row group at a time.

A shard is a task, and a pure function of its arguments, so shards can be written anywhere and in any order.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vitray.data.facts import Facts
from vitray.data.folder import Folder, why
from vitray.data.manifest import ShardInfo
from vitray.data.options import PrepareOptions
from vitray.data.placement import Placement
from vitray.data.plan import cut_shards, group_bytes
from vitray.data.row_index import RowIndexWriter, index_digest
from vitray.data.scan import shown, staged
from vitray.data.sources import Source
from vitray.errors import DataError

SHARD_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
    ]
)
GROUP_BYTES = 2**31 - 1  # what one binary column of a row group can address
_NEEDED = ["key", "label", "found", "stored", "bytes", "width", "height", "place", "chunk", "offset"]
_READERS = 8  # threads here wait for the disk, not for a core


@dataclass(frozen=True, slots=True)
class Shard:
    """What a shard is to hold.

    Attributes:
        file: its name in the folder.
        first_id: the ``sample_id`` of the first row; the others count up from it.
        rows: what is known of the images, in the order of the rows.
    """

    file: str
    first_id: int
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class Write:
    """The task of the second pass. Picklable; threads and Ray tasks run it alike."""

    source: Source
    folder: Folder
    rows_per_group: int

    def __call__(self, shard: Shard) -> ShardInfo:
        """Write the shard and describe it.

        Raises:
            DataError: an image is not what it was when it was scanned.
            OSError: the file cannot be written.
        """
        with _hashed(self.folder, shard.file) as sink:
            index = self._fill(sink, shard)
        rows = shard.rows.num_rows
        groups = -(-rows // self.rows_per_group)
        return ShardInfo(shard.file, rows, groups, sink.bytes, sink.digest.hexdigest(), index)

    def _fill(self, sink: _Hashed, shard: Shard) -> str:
        """Returns the digest of the row index."""
        index = RowIndexWriter()
        with (
            ThreadPoolExecutor(_READERS) as pool,
            # Images are compressed already; statistics and dictionaries of them would only be copies. The page
            # checksums turn a damaged page into an error where it is read, instead of a strange image.
            pq.ParquetWriter(
                sink,
                SHARD_SCHEMA,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
                # One page a row group, so that the footer's index finds every image in it.
                data_page_size=GROUP_BYTES,
                write_batch_size=self.rows_per_group,
            ) as writer,
        ):
            for start in range(0, shard.rows.num_rows, self.rows_per_group):
                part = shard.rows.slice(start, self.rows_per_group)
                images = list(pool.map(self._image, part.to_pylist()))
                first = shard.first_id + start
                table = pa.table(
                    {
                        "sample_id": pa.array(range(first, first + len(images)), pa.int64()),
                        "image": pa.array(images, pa.binary()),
                        "label": part["label"].cast(pa.int64()),
                        **{name: part[name] for name in ("width", "height")},
                    },
                    schema=SHARD_SCHEMA,
                )
                writer.write_table(table, row_group_size=self.rows_per_group)
                index.add(images, part["label"].to_pylist())
            metadata = index.metadata()
            writer.add_key_value_metadata(metadata)
        return index_digest({key.encode(): text.encode() for key, text in metadata.items()})

    def _image(self, row: dict[str, Any]) -> bytes:
        try:
            if row["place"] is not None:
                data = self.source.reread(pickle.loads(row["place"]))
            else:
                data = self.folder.read_range(staged(row["chunk"]), row["offset"], row["bytes"])
        except (OSError, DataError) as error:
            reason = error.what if isinstance(error, DataError) else why(error)
            raise _changed(row, f"cannot be read any more: {reason}") from None
        if hashlib.sha256(data).digest() != (row["stored"] or row["found"]):
            raise _changed(row, "changed while it was being prepared")
        return data


def _changed(row: dict[str, Any], what: str) -> DataError:
    return DataError(what, where=shown(row["key"]), remedy="prepare again while nothing else changes the source")


def shards(facts: Facts, placement: Placement, options: PrepareOptions) -> Iterator[Shard]:
    """All shards of a dataset, made as they are asked for.

    Raises:
        DataError: a row group would be larger than Parquet can address; before the first shard.
    """
    sizes = {name: facts.column("bytes", rows) for name, rows in placement.rows.items()}
    size = options.rows_per_group
    largest = max((int(group_bytes(column, size).max()) for column in sizes.values() if len(column)), default=0)
    if largest > GROUP_BYTES:
        raise DataError(
            f"{size} of these images take {largest:,} bytes; a row group holds {GROUP_BYTES:,}",
            where="rows_per_group",
            remedy=f"{max(1, size * GROUP_BYTES // (2 * largest))} leaves room to spare",
        )
    columns = facts.table.select(_NEEDED)
    for name, rows in placement.rows.items():
        for number, span in enumerate(cut_shards(sizes[name], size, int(options.shard_mb * 1e6))):
            yield Shard(f"{name}/{number:05d}.parquet", span.start, columns.take(rows[span.start : span.stop]))


class _Hashed:
    """The file that a shard is written to, hashed on its way: what lies on a server need not be read back."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream, self.closed = stream, False
        self.digest, self.bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.closed = True


@contextmanager
def _hashed(folder: Folder, file: str) -> Iterator[_Hashed]:
    with folder.create(file) as stream:
        yield _Hashed(stream)
