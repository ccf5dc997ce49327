"""What is said of a dataset as a whole, from what the scan found of its images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitray.data.facts import Facts
from vitray.data.folder import Folder
from vitray.data.manifest import QUARANTINE
from vitray.data.rng import I64
from vitray.data.scan import shown

_LEAST_STD = 1 / 255


def write_quarantine(folder: Folder, facts: Facts, dropped: Mapping[int, str]) -> int:
    """Write what is not in the dataset, if anything (path, sha256, reason; by path); returns how many.

    Args:
        dropped: rows without a reason in the facts, with the reason they are left out for.
    """
    bad = np.flatnonzero(pc.is_valid(facts.table["reason"]).to_numpy())
    rows = np.union1d(bad, np.fromiter(dropped, np.int64, len(dropped))).astype(np.int64)  # facts are sorted by key
    if not len(rows):
        return 0
    part = facts.table.select(["key", "found", "reason"]).take(rows)
    reasons = [reason or dropped[row] for row, reason in zip(rows.tolist(), part["reason"].to_pylist(), strict=True)]
    table = pa.table(
        {
            "path": pa.array(map(shown, part["key"].to_pylist()), pa.string()),
            "sha256": pa.array([found and found.hex() for found in part["found"].to_pylist()], pa.string()),
            "reason": pa.array(reasons, pa.string()),
        }
    )
    with folder.create(QUARANTINE) as stream:
        pq.write_table(table, stream, compression="none")
    return len(rows)


def converted(facts: Facts, rows: I64) -> dict[str, int]:
    """How many of the rows were found as what is not stored: ``{"cmyk": 3, ...}``, sorted by name."""
    counts: Counter[str] = Counter()
    for entry in pc.value_counts(facts.table["converted"].take(rows).drop_null()).to_pylist():
        for name in entry["values"].split(","):
            counts[name] += entry["counts"]
    return dict(sorted(counts.items()))


def image_size(facts: Facts, rows: I64) -> tuple[int, int] | None:
    """(height, width) that all rows share, or None."""
    heights, widths = facts.column("height", rows), facts.column("width", rows)
    same = (heights == heights[0]).all() and (widths == widths[0]).all()
    return (int(heights[0]), int(widths[0])) if same else None


def pixels(facts: Facts, rows: I64) -> int:
    """The sum of width x height over the rows."""
    return int((facts.column("width", rows) * facts.column("height", rows)).sum())


def moments(facts: Facts, rows: I64, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, every image weighing the same, from each image's own moments."""
    columns = facts.table["moments"].take(rows).combine_chunks().flatten().to_numpy().reshape(-1, 6)
    means = [_mean(columns[:, channel]) for channel in range(channels)]
    squares = [_mean(columns[:, 3 + channel]) for channel in range(channels)]
    variances = [max(square - mean**2, 0.0) for mean, square in zip(means, squares, strict=True)]
    stds = [max(math.sqrt(variance), _LEAST_STD) for variance in variances]
    return tuple(round(mean, 8) for mean in means), tuple(round(std, 8) for std in stds)


def _mean(values: npt.NDArray[np.float64]) -> float:
    # fsum rounds once, at the end, so the order of the images does not matter; a view, so that no list is made.
    return math.fsum(np.ascontiguousarray(values).data) / len(values)
