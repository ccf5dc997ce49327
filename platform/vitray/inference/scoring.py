"""Batch scoring from end to end: units of images through whatever executes them, answers in order into one file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from vitray.data.sources.source import Chunk
from vitray.errors import InterruptedRunError
from vitray.inference.batch import BatchScorer, in_threads
from vitray.inference.results import About, Results
from vitray.inference.results_file import Tally
from vitray.inference.units import Unit, cut
from vitray.models.package import INFO

Execute = Callable[[Sequence[Unit]], AbstractContextManager[Iterator[pa.Table]]]
"""Runs units: inside the block their tables come in order; what it started (a Ray, threads) ends with the block."""
Progress = Callable[[int, int], None]
"""Called with images (or units, where nobody knows how many images there are) done and in all."""


@dataclass(frozen=True)
class Scored:
    """What a scoring gave.

    Args:
        tally: of the whole file.
        resumed: images that an earlier scoring had done.
        images_per_s: of this one, from its first table to its last, so without start-up; None where there was no
            second table to measure by.
        start_s: seconds until the first table: Ray and workers starting, the model loading, the first unit.
        seconds: in all.
    """

    tally: Tally
    resumed: int
    images_per_s: float | None
    start_s: float
    seconds: float


def score_into(
    path: str,
    about: About,
    chunks: Sequence[Chunk],
    execute: Execute,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Scored:
    """Score all images of ``chunks`` into the file ``path``, going on where an earlier call was killed.

    Raises:
        DataError: the file's folder is in use or holds another scoring; it cannot be written; a file that holds many
            images cannot be read at all.
        InterruptedRunError: Ctrl-C; the same call goes on.
    """
    begun = time.monotonic()
    with Results.open(path, about, overwrite=overwrite) as results:
        units = cut(chunks, results.about.unit_images)
        known = all(unit.images is not None for unit in units)
        sizes = [unit.images or 0 if known else 1 for unit in units]
        left, resumed = units[results.next_unit :], results.rows_so_far() if results.next_unit else 0
        clock = _Clock()
        done = sum(sizes[: results.next_unit])
        progress(done, sum(sizes))
        try:
            if left:
                with execute(left) as tables:
                    for unit, table in zip(left, tables, strict=True):
                        results.add(table)
                        clock.saw(len(table))
                        done += sizes[unit.number]
                        progress(done, sum(sizes))
        except KeyboardInterrupt:
            results.commit()
            what = f"interrupted at unit {results.next_unit} of {len(units)}; {results.rows_so_far()} images are kept"
            raise InterruptedRunError(what, where=path, remedy="the same command goes on from there") from None
        tally = results.finish()
    return Scored(tally, resumed, clock.rate, clock.first - begun if clock.first else 0.0, time.monotonic() - begun)


@contextmanager
def threads_here(scorer: BatchScorer, threads: int, units: Sequence[Unit]) -> Iterator[Iterator[pa.Table]]:
    """An :data:`Execute` of this process, once its scorer and threads are given."""
    yield in_threads(scorer, units, threads)


class _Clock:
    """Images a second between the first table and the last."""

    def __init__(self) -> None:
        self.first = self._last = 0.0
        self._images = 0

    def saw(self, images: int) -> None:
        self._last = time.monotonic()
        if not self.first:
            self.first = self._last
        else:
            self._images += images

    @property
    def rate(self) -> float | None:
        return self._images / (self._last - self.first) if self._images and self._last > self.first else None


def digest_of(package: Path) -> str:
    """Of a package's description, which carries the checksum of its weights."""
    return hashlib.sha256((package / INFO).read_bytes()).hexdigest()
