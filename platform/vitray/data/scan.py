"""The first pass over a source: every image is read, hashed, decoded and measured once, row by row.

:func:`scan_chunk` is a pure function of its arguments, so threads and Ray Data tasks can map it alike.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import pyarrow as pa

from vitray.data.decode import decode, read_header
from vitray.data.sources._old import Record, Source
from vitray.errors import DataError

SCAN_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("channels", pa.int32()),
        # Per image and channel, in [0, 1] units: the mean and the mean of squares. A gray image has three equal ones.
        ("mean", pa.list_(pa.float64(), 3)),
        ("square", pa.list_(pa.float64(), 3)),
        ("reason", pa.string()),
    ]
)
_CHUNK = 32


def scan_chunk(source: Source, records: Sequence[Record], max_pixels: int) -> pa.Table:
    """What each record's image is, one row a record in their order; ``reason`` is null where it is usable.

    One unusable image costs one row and never the chunk. Width and height are of the decoded, upright image.
    """
    rows = [_scan(source, record, max_pixels) for record in records]
    return pa.Table.from_pylist(rows, schema=SCAN_SCHEMA)


def _scan(source: Source, record: Record, max_pixels: int) -> dict[str, object]:
    row: dict[str, object] = {}
    try:
        data = source.read(record)
        row |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        channels = read_header(data).channels
        image = decode(data, channels, max_pixels=max_pixels)
    except DataError as error:
        return row | {"reason": error.what}
    except OSError as error:
        return row | {"reason": f"cannot be read: {error.strerror or error}"}
    mean, std = (moment.ravel() / 255 for moment in cv2.meanStdDev(image))
    repeat = 3 // channels
    return row | {
        "width": image.shape[1],
        "height": image.shape[0],
        "channels": channels,
        "mean": mean.tolist() * repeat,
        "square": (std**2 + mean**2).tolist() * repeat,
    }


def scan_all(
    source: Source,
    records: Sequence[Record],
    *,
    max_pixels: int,
    max_bad_fraction: float,
    scanned: Callable[[int], None] = lambda done: None,
) -> pa.Table:
    """:func:`scan_chunk` over all records, in threads. ``scanned`` is told how many are done.

    Raises:
        DataError: more than ``max_bad_fraction`` of the records are unusable; raised as soon as that is certain, with
            the first of them and their reasons.
    """
    chunks = [records[start : start + _CHUNK] for start in range(0, len(records), _CHUNK)]
    tables: list[pa.Table] = [SCAN_SCHEMA.empty_table()]
    done, bad = 0, list[str]()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # OpenCV works outside the interpreter's lock
        for table in pool.map(lambda chunk: scan_chunk(source, chunk, max_pixels), chunks):
            tables.append(table)
            reasons = enumerate(table["reason"].to_pylist(), start=done)
            bad += [f"{records[row].key}: {reason}" for row, reason in reasons if reason is not None]
            done += table.num_rows
            scanned(done)
            if len(bad) > max_bad_fraction * len(records):
                shown = [*bad[:5], *([f"and {len(bad) - 5} more"] if len(bad) > 5 else [])]
                raise DataError(
                    f"{len(bad)} of the first {done} images cannot be used, and at most {max_bad_fraction:.2%} of "
                    f"all {len(records)} may be left out:\n  " + "\n  ".join(shown),
                    where=source.name,
                    remedy="mend or remove them, or allow more with --max-bad-fraction",
                )
    return pa.concat_tables(tables).combine_chunks()
