"""From a source of images to a dataset folder: scan everything, decide where each row goes, write the shards.

Two passes, so that memory holds what is known about the images but never the images. The folder is built beside its
destination and renamed into place, so a destination either is a whole dataset or does not exist.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitray.data.decode import MAX_PIXELS
from vitray.data.destination import building, check_destination
from vitray.data.manifest import QUARANTINE, SPLITS, Manifest, SplitInfo
from vitray.data.plan import assign_splits, cut_shards, shuffled
from vitray.data.scan import scan_all
from vitray.data.sources._old import Record, Source, open_source
from vitray.data.writer import GROUP_BYTES, write_shard
from vitray.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with the phase ("scan" or "write"), images done and images in all."""


def prepare(
    source: str,
    dest: str | Path,
    *,
    seed: int = 0,
    rows_per_group: int = 64,
    shard_mb: float = 64,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    max_bad_fraction: float = 0.02,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Make the dataset folder ``dest`` from ``source``; byte-identical for the same source, options and seed.

    Every image is decoded once. What cannot be used is left out and listed in ``quarantine.parquet`` (path, sha256,
    reason). The bytes of the others are kept untouched. Equal bytes are kept in one split.

    Args:
        source: ``builtin:digits``, or a folder with one sub-folder of JPEG/PNG images a class.
        dest: a local folder that does not exist or is empty.
        seed: decides the splits and the order of the rows.
        rows_per_group: rows of a Parquet row group, the least that is read at a time.
        shard_mb: images per shard file, in MB (10**6 bytes), rounded to whole row groups.
        fractions: of train, val and test; they sum to 1.
        max_bad_fraction: above this share of unusable images, stop.
        max_pixels: an image whose header says more is refused before it is decoded.
        overwrite: replace a dataset that is at ``dest``. Anything else there is never touched.
        progress: told how far it is.

    Raises:
        DataError: an option out of range, an unknown source, a destination in use, too many unusable images, a class
            or a split left without images, no room on the disk. Nothing is left at ``dest`` then.
    """
    _check_options(rows_per_group, shard_mb, fractions, max_bad_fraction)
    tell = progress or (lambda phase, done, total: None)
    images = open_source(source)
    target = check_destination(dest, source=images.name, overwrite=overwrite)
    scanned = _scan(images, max_pixels, max_bad_fraction, tell)
    rows = _place(scanned, fractions, seed)
    try:
        with building(target, overwrite=overwrite) as folder:
            splits = _write(folder, scanned, rows, rows_per_group, shard_mb, tell)
            refused = _write_quarantine(folder / QUARANTINE, scanned)
            kept = scanned.table.filter(pc.is_null(scanned.table["reason"]))
            sizes = set(zip(kept["height"].to_pylist(), kept["width"].to_pylist(), strict=True))
            channels = pc.max(kept["channels"]).as_py()
            mean, std = _moments(scanned.take(rows["train"]), channels)
            manifest = Manifest(
                source=images.name,
                seed=seed,
                classes=scanned.classes,
                rows_per_group=rows_per_group,
                channels=channels,
                image_size=sizes.pop() if len(sizes) == 1 else None,
                splits=splits,
                mean=mean,
                std=std,
                refused=refused,
                duplicates=kept.num_rows - len(kept["sha256"].unique()),
            )
            manifest.write(folder)
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}",
            where=str(dest),
            remedy="make room there, or choose another folder",
        ) from error
    return manifest


def _check_options(rows_per_group: int, shard_mb: float, fractions: Sequence[float], max_bad_fraction: float) -> None:
    if rows_per_group < 1:
        raise DataError(f"must be at least 1, not {rows_per_group}", where="rows_per_group", remedy="64 suits most")
    if not shard_mb > 0:
        raise DataError(f"must be above 0, not {shard_mb}", where="shard_mb", remedy="64 suits most")
    if not 0 <= max_bad_fraction <= 1:
        raise DataError(f"must be from 0 to 1, not {max_bad_fraction}", where="max_bad_fraction", remedy="0.02 is 2 %")
    if len(fractions) != len(SPLITS) or not abs(sum(fractions) - 1) < 1e-6 or min(fractions) < 0 or fractions[0] == 0:
        raise DataError(
            f"must be three shares that sum to 1, the first above 0, not {','.join(map(str, fractions))}",
            where="fractions",
            remedy="0.7,0.1,0.2 are the shares of train, val and test",
        )


@dataclass(frozen=True)
class _Scanned:
    """A source and all that the scan knows of it; ``table`` has a row a record, with its ``label`` number added."""

    source: Source
    records: Sequence[Record]
    classes: tuple[str, ...]
    table: pa.Table

    def take(self, rows: Sequence[int]) -> pa.Table:
        return self.table.take(pa.array(rows, pa.int64()))

    def rows(self, *, usable: bool) -> list[int]:
        return [row for row, reason in enumerate(self.table["reason"].to_pylist()) if (reason is None) == usable]


def _scan(source: Source, max_pixels: int, max_bad_fraction: float, tell: Progress) -> _Scanned:
    records = source.records()
    table = scan_all(
        source,
        records,
        max_pixels=max_pixels,
        max_bad_fraction=max_bad_fraction,
        scanned=lambda done: tell("scan", done, len(records)),
    )
    classes = tuple(sorted({record.label for record in records}))
    number = {name: label for label, name in enumerate(classes)}
    labels = pa.array([number[record.label] for record in records], pa.int64())
    return _Scanned(source, records, classes, table.append_column("label", labels))


def _place(scanned: _Scanned, fractions: Sequence[float], seed: int) -> dict[str, list[int]]:
    """The rows of each split, as positions in the records, in the order of their sample ids."""
    usable = scanned.rows(usable=True)
    table = scanned.take(usable)
    labels, keys = table["label"].to_pylist(), [scanned.records[row].key for row in usable]
    for label in sorted(set(range(len(scanned.classes))) - set(labels)):
        raise DataError(
            f"class {scanned.classes[label]!r} has no usable image",
            where=scanned.source.name,
            remedy="mend its images, or remove the class",
        )
    split_of = assign_splits(shuffled(keys, "split", seed), labels, table["sha256"].to_pylist(), fractions)
    rows: dict[str, list[int]] = {name: [] for name in SPLITS}
    for position in shuffled(keys, "rows", seed):
        rows[SPLITS[split_of[position]]].append(usable[position])
    for name, fraction in zip(SPLITS, fractions, strict=True):
        if fraction > 0 and not rows[name]:
            raise DataError(
                f"{len(usable)} images in {len(scanned.classes)} classes leave none for {name!r}",
                where=scanned.source.name,
                remedy="add images, or give that split the share 0 with --fractions",
            )
    return rows


def _write(
    folder: Path, scanned: _Scanned, rows: dict[str, list[int]], rows_per_group: int, shard_mb: float, tell: Progress
) -> dict[str, SplitInfo]:
    total, written = sum(map(len, rows.values())), 0

    def wrote(count: int) -> None:
        nonlocal written
        written += count
        tell("write", written, total)

    splits = {}
    for name, members in rows.items():
        (folder / name).mkdir()
        table = scanned.take(members)
        sizes = table["bytes"].to_pylist()
        _check_group_bytes(sizes, rows_per_group)
        shards = [
            write_shard(
                folder,
                f"{name}/{number:05d}.parquet",
                scanned.source,
                [scanned.records[row] for row in members[span.start : span.stop]],
                table.slice(span.start, len(span)),
                span.start,
                rows_per_group,
                wrote,
            )
            for number, span in enumerate(cut_shards(sizes, rows_per_group, int(shard_mb * 1e6)))
        ]
        counts = Counter(table["label"].to_pylist())
        per_class = tuple(counts[label] for label in range(len(scanned.classes)))
        channels = pc.max(scanned.table["channels"]).as_py()
        pixels = pc.sum(pc.multiply(table["width"].cast(pa.int64()), table["height"].cast(pa.int64()))).as_py() or 0
        splits[name] = SplitInfo(len(members), pixels * channels, per_class, tuple(shards))
    return splits


def _check_group_bytes(sizes: Sequence[int], rows_per_group: int) -> None:
    largest = max((sum(sizes[at : at + rows_per_group]) for at in range(0, len(sizes), rows_per_group)), default=0)
    if largest > GROUP_BYTES:
        raise DataError(
            f"{rows_per_group} of these images take {largest:,} bytes; a row group holds {GROUP_BYTES:,}",
            where="rows_per_group",
            remedy=f"{max(1, rows_per_group * GROUP_BYTES // (2 * largest))} leaves room to spare",
        )


def _write_quarantine(path: Path, scanned: _Scanned) -> int:
    """Write the refused records, if any, in the order of their paths; returns how many."""
    refused = scanned.rows(usable=False)
    if refused:
        bad = scanned.take(refused)
        # A file name need not be UTF-8, but a Parquet string must be.
        paths = [scanned.records[row].key.encode("utf-8", "backslashreplace").decode() for row in refused]
        table = pa.table({"path": pa.array(paths, pa.string()), "sha256": bad["sha256"], "reason": bad["reason"]})
        pq.write_table(table, path, compression="none")
    return len(refused)


def _moments(train: pa.Table, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, every image weighing the same, from each image's own moments.

    ``fsum`` rounds once, at the end, so the result does not depend on the order of the images.
    """
    means, squares = train["mean"].to_pylist(), train["square"].to_pylist()
    mean = [math.fsum(image[c] for image in means) / len(means) for c in range(channels)]
    variance = [math.fsum(image[c] for image in squares) / len(squares) - mean[c] ** 2 for c in range(channels)]
    std = [max(math.sqrt(max(v, 0.0)), 1 / 255) for v in variance]
    return tuple(round(m, 8) for m in mean), tuple(round(s, 8) for s in std)
