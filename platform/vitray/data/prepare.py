"""From a source of images to a dataset: scan everything, decide where each row goes, write the shards.

Two passes, so that memory holds what is known about the images but never the images. A destination either is a whole
dataset or is none.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitray.data.decode import MAX_PIXELS
from vitray.data.destination import Destination, Draft, check_destination
from vitray.data.facts import Facts, gather
from vitray.data.folder import why
from vitray.data.manifest import SPLITS, Manifest, ShardInfo, SplitInfo
from vitray.data.mapper import Executor, Mapper, choose
from vitray.data.options import PrepareOptions
from vitray.data.placement import Placement, place
from vitray.data.rng import I64
from vitray.data.scan import Scan
from vitray.data.sources import Chunk, Source, Splits, open_source
from vitray.data.summary import converted, image_size, moments, pixels, write_quarantine
from vitray.data.writer import Write, shards
from vitray.errors import DataError
from vitray.masking import public

Progress = Callable[[str, int, int], None]
"""Called with the phase ("scan" or "write"), images done and images in all (in a scan, as far as it is known)."""


def prepare(
    source: str | Source,
    dest: str | Path,
    *,
    seed: int = 0,
    size: int | None = None,
    rows_per_group: int = 64,
    shard_mb: float = 64,
    splits: Splits = "fractions",
    fractions: tuple[float, float, float] | None = None,
    max_bad_fraction: float = 0.02,
    max_pixels: int = MAX_PIXELS,
    path_column: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    overwrite: bool = False,
    executor: Executor = "auto",
    progress: Progress | None = None,
) -> Manifest:
    """Make the dataset ``dest`` from ``source``; byte-identical for the same source, options and seed, however it runs.

    Every image is decoded once. What cannot be used is left out and listed in ``quarantine.parquet`` (path, sha256,
    reason). The bytes of JPEG and PNG are kept untouched as far as training reads them as they are. Equal bytes are
    kept in one split.

    Args:
        source: what :func:`vitray.data.sources.open_source` takes, or what it gives.
        dest: a local folder or a pyarrow.fs URI that does not exist or is empty.
        seed: decides the splits and the order of the rows.
        size: what the shorter side of larger images becomes, in pixels; None keeps them as they are.
        rows_per_group: rows of a Parquet row group.
        shard_mb: images per shard file, in MB (10**6 bytes), rounded to whole row groups.
        splits: ``fractions`` of all images, or the source's own ``folders``. Of equal images in several of the source's
            splits, those in the most held-out one stay; the others are quarantined.
        fractions: of train, val and test; they sum to 1. None is 0.7, 0.1, 0.2, and with ``folders`` that a split
            which the source lacks stays empty (otherwise it is taken from train).
        max_bad_fraction: above this share of unusable images, stop.
        max_pixels: an image whose header says more is refused before it is decoded.
        path_column: of a listing, see :func:`vitray.data.sources.open_source`.
        label_column: of a listing, or of Parquet files with images in them.
        image_column: of Parquet files with images in them.
        overwrite: replace a dataset that is at ``dest``. Anything else there is never touched.
        executor: ``local`` threads, a ``ray`` Data job on the Ray that this process is connected to, or ``auto``: Ray
            where there is one.
        progress: told how far it is.

    Raises:
        DataError: an option out of range, an unknown source, a destination in use, too many unusable images, a class
            or a split left without images, no room on the disk. Nothing is left at ``dest`` then.
        ResourceError: Ray was asked for and is not there, or has no CPU free.
    """
    options = PrepareOptions(
        seed=seed,
        size=size,
        rows_per_group=rows_per_group,
        shard_mb=shard_mb,
        splits=splits,
        fractions=fractions,
        max_bad_fraction=max_bad_fraction,
        max_pixels=max_pixels,
    )
    if isinstance(source, str):
        source = open_source(
            source, splits=splits, path_column=path_column, label_column=label_column, image_column=image_column
        )
    target = check_destination(dest, source=source.name, overwrite=overwrite)
    chunks = source.chunks()
    job = _Job(source, options, progress or (lambda phase, done, total: None))
    with choose(executor, len(chunks)) as mapper:
        try:
            with target.building(overwrite=overwrite) as draft:
                draft.tasks_may_run = mapper.outlives
                draft.manifest = job.run(mapper, draft, chunks)
        except OSError as error:
            raise _unwritable(target, error, job.need) from error
    return draft.manifest


def _unwritable(target: Destination, error: OSError, need: int) -> DataError:
    remedy = "check that it may be written, or choose another destination"
    if error.errno == errno.ENOSPC:
        room = f"about {math.ceil(need / 1e6):,} MB are needed there, " if need else ""
        remedy = f"{room}make room, or choose another destination"
    return DataError(f"cannot be written: {why(error)}", where=target.shown, remedy=remedy)


@dataclass
class _Job:
    """A preparation under way. ``need`` is what its files take on the disk, in bytes, as far as it is known."""

    source: Source
    options: PrepareOptions
    tell: Progress
    need: int = field(default=0, init=False)

    def run(self, mapper: Mapper, draft: Draft, chunks: Sequence[Chunk]) -> Manifest:
        local = Path(draft.folder.base) if draft.folder.on_disk else None
        origin = self.source.name
        mapper.check_shared(writable=local, readable=Path(origin) if os.path.exists(origin) else None)  # noqa: PTH110
        facts = self._scan(mapper, draft, chunks)
        placement = place(facts, self.options)
        kept = np.concatenate([placement.rows[name] for name in SPLITS])
        self._check_room(local, facts, kept)
        channels = int(facts.column("channels", kept).max())
        splits = self._write(mapper, draft, facts, placement, channels)
        mean, std = moments(facts, placement.rows["train"], channels)
        return Manifest(
            source=public(origin),
            seed=self.options.seed,
            classes=facts.classes,
            rows_per_group=self.options.rows_per_group,
            channels=channels,
            image_size=image_size(facts, kept),
            splits=splits,
            mean=mean,
            std=std,
            refused=write_quarantine(draft.folder, facts, placement.dropped),
            duplicates=len(kept) - int(facts.twins(kept).max()) - 1,
            converted=converted(facts, kept),
        )

    def _scan(self, mapper: Mapper, draft: Draft, chunks: Sequence[Chunk]) -> Facts:
        task = Scan(self.source, draft.folder, self.options.max_pixels, self.options.size)

        def scanned(done: int, total: int) -> None:
            draft.still_ours()
            self.tell("scan", done, total)

        with closing(mapper.map(task, chunks)) as tables:
            return gather(
                self.source,
                chunks,
                self._measured(tables, len(chunks)),
                max_bad_fraction=self.options.max_bad_fraction,
                scanned=scanned,
            )

    def _measured(self, tables: Iterable[pa.Table], chunks: int) -> Iterator[pa.Table]:
        """The tables, while ``need`` is extrapolated from them: shards, and staging beside them."""
        seen = 0
        for number, table in enumerate(tables, start=1):
            staged = pc.sum(table["bytes"].filter(pc.is_valid(table["offset"]))).as_py() or 0
            seen += staged + (pc.sum(table["bytes"]).as_py() or 0)
            self.need = seen * chunks // number
            yield table

    def _check_room(self, local: Path | None, facts: Facts, kept: I64) -> None:
        self.need = int(facts.column("bytes", kept).sum())
        if local is not None and shutil.disk_usage(local).free < self.need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write(
        self, mapper: Mapper, draft: Draft, facts: Facts, placement: Placement, channels: int
    ) -> dict[str, SplitInfo]:
        total, written = sum(map(len, placement.rows.values())), 0
        infos: dict[str, list[ShardInfo]] = {name: [] for name in SPLITS}
        task = Write(self.source, draft.folder, self.options.rows_per_group)
        with closing(mapper.map(task, shards(facts, placement, self.options))) as results:
            for info in results:
                infos[info.file.partition("/")[0]].append(info)
                written += info.rows
                draft.still_ours()
                self.tell("write", written, total)
        return {
            name: SplitInfo(
                len(rows),
                pixels(facts, rows) * channels,
                tuple(np.bincount(facts.column("label", rows), minlength=len(facts.classes)).tolist()),
                tuple(infos[name]),
            )
            for name, rows in placement.rows.items()
        }
