"""Datasets whose shards are exchanged for others of the same size: neither sizes nor row counts tell."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from vitray.data.decode import encode_png
from vitray.data.prepare import prepare


def shards_alike(folder: Path) -> Path:
    """A dataset with shards of the same size to the byte: sizes and row counts say nothing when they are swapped."""
    for number in range(960):
        file = folder / "in" / ("train", "val", "test")[number % 3] / str(number % 2) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)))
    prepare(str(folder / "in"), folder / "ds", splits="folders", rows_per_group=16, shard_mb=0.004)
    return folder / "ds"


def cut_at_a_row_group(dataset: Path) -> tuple[str, ...]:
    """A whole Parquet file, with a footer and an index of its own, that has one row group less."""
    file = sorted((dataset / "train").iterdir())[1]
    with pq.ParquetFile(file) as handle:
        groups, schema = handle.metadata.num_row_groups, handle.schema_arrow
        tables = [handle.read_row_group(group) for group in range(groups - 1)]
    with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for table in tables:
            writer.write_table(table)
    return (f"train/{file.name}",)


def swap(dataset: Path, splits: tuple[str, str]) -> tuple[str, ...]:
    """Two shards of one size, overwritten in place (who has a replaced file open goes on to read what it was); returns
    their names: a reader may meet either first."""
    pairs = itertools.product(*(sorted((dataset / split).iterdir()) for split in splits))
    one, other = next((a, b) for a, b in pairs if a != b and a.stat().st_size == b.stat().st_size)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return tuple(f"{file.parent.name}/{file.name}" for file in (one, other))


def swapped_in_a_split(dataset: Path) -> tuple[str, ...]:
    return swap(dataset, ("train", "train"))


def swapped_between_splits(dataset: Path) -> tuple[str, ...]:
    """Training images for test images: the worst there is, since the scores look all the better for it."""
    return swap(dataset, ("train", "test"))


DAMAGES = [cut_at_a_row_group, swapped_in_a_split, swapped_between_splits]
Damage = Callable[[Path], tuple[str, ...]]
