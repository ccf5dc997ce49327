"""The second pass: one shard file from its records, streamed a row group at a time.

:func:`write_shard` is a pure function of its arguments, so shards can be written anywhere and in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vitray.data.manifest import ShardInfo
from vitray.data.row_index import RowIndexWriter
from vitray.data.sources._old import Record, Source
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
_READERS = 8  # threads here wait for the disk, not for a core


def write_shard(
    folder: Path,
    file: str,
    source: Source,
    records: Sequence[Record],
    columns: pa.Table,
    first_id: int,
    rows_per_group: int,
    wrote: Callable[[int], None] = lambda rows: None,
) -> ShardInfo:
    """Write ``folder/file`` and describe it.

    Args:
        columns: ``sha256, label, width, height`` of each record.
        first_id: the ``sample_id`` of the first row; the others count up from it.
        wrote: told the rows of each row group once it is written.

    Raises:
        DataError: an image is not what it was when it was scanned.
        OSError: the file cannot be written.
    """
    path = folder / file
    with (
        ThreadPoolExecutor(_READERS) as pool,
        # Images are compressed already; statistics and dictionaries of them would only be copies. The page checksums
        # turn a damaged page into an error where it is read, instead of a strange image.
        pq.ParquetWriter(
            path,
            SHARD_SCHEMA,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
            # One page a row group, so that the footer's index finds every image in it.
            data_page_size=GROUP_BYTES,
            write_batch_size=max(1, rows_per_group),
        ) as writer,
    ):
        index = RowIndexWriter()
        for start in range(0, len(records), rows_per_group):
            group = records[start : start + rows_per_group]
            part = columns.slice(start, len(group))
            images = list(pool.map(_reread, [source] * len(group), group, part["sha256"].to_pylist()))
            first = first_id + start
            table = pa.table(
                {
                    "sample_id": pa.array(range(first, first + len(group)), pa.int64()),
                    "image": pa.array(images, pa.binary()),
                    **{name: part[name] for name in ("label", "width", "height")},
                },
                schema=SHARD_SCHEMA,
            )
            writer.write_table(table, row_group_size=rows_per_group)
            index.add(images, part["label"].to_pylist())
            wrote(len(group))
        writer.add_key_value_metadata(index.metadata())
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    groups = -(-len(records) // rows_per_group)
    return ShardInfo(file, len(records), groups, path.stat().st_size, digest)


def _reread(source: Source, record: Record, sha256: str) -> bytes:
    try:
        data = source.read(record)
    except OSError as error:
        raise DataError(
            f"cannot be read any more: {error.strerror or error}",
            where=record.key,
            remedy="prepare again while nothing else changes the source",
        ) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(
            "changed while it was being prepared",
            where=record.key,
            remedy="prepare again while nothing else changes the source",
        )
    return data
