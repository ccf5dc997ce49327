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
"""Runs units: inside the block their tables come in order; what it started (a Ray, threads) ends with the block.

A table may say in its schema's metadata, under :data:`READY`, when its worker was ready to begin (Unix time, seconds).
"""
READY = b"vitray.ready"
Progress = Callable[[int, int], None]
"""Called with images (or units, where nobody knows how many images there are) done and in all."""


@dataclass(frozen=True)
class Scored:
    """What a scoring gave.

    Args:
        tally: of the whole file.
        resumed: images that an earlier scoring had done.
        images_per_s: of this one, from when its first worker was ready to the last table; None where it had nothing to
            do.
        start_s: seconds until that worker was ready: Ray and workers starting, the model loading.
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
    clock = _Clock()
    with Results.open(path, about, overwrite=overwrite) as results:
        units = cut(chunks, results.about.unit_images)
        known = all(unit.images is not None for unit in units)
        sizes = [unit.images or 0 if known else 1 for unit in units]
        left, resumed = units[results.next_unit :], results.rows_so_far() if results.next_unit else 0
        done = sum(sizes[: results.next_unit])
        progress(done, sum(sizes))
        try:
            if left:
                with execute(left) as tables:
                    clock.entered = time.time()
                    for unit, table in zip(left, tables, strict=True):
                        clock.saw(table)
                        results.add(table.replace_schema_metadata(None))
                        done += sizes[unit.number]
                        progress(done, sum(sizes))
        except KeyboardInterrupt:
            results.commit()
            what = f"interrupted at unit {results.next_unit} of {len(units)}; {results.rows_so_far()} images are kept"
            raise InterruptedRunError(what, where=path, remedy="the same command goes on from there") from None
        tally = results.finish()
    return Scored(tally, resumed, clock.rate, clock.start, time.time() - clock.begun)


@contextmanager
def threads_here(scorer: BatchScorer, threads: int, units: Sequence[Unit]) -> Iterator[Iterator[pa.Table]]:
    """An :data:`Execute` of this process, once its scorer and threads are given."""
    yield in_threads(scorer, units, threads)


class _Clock:
    """Images a second from when the first worker was ready. Unix time, since workers are other processes."""

    def __init__(self) -> None:
        self.begun = self.entered = time.time()
        self._ready: float | None = None
        self._last = 0.0
        self._images = 0

    def saw(self, table: pa.Table) -> None:
        self._last = time.time()
        said = (table.schema.metadata or {}).get(READY)
        ready = float(said) if said else self.entered
        ready = min(max(ready, self.begun), self._last)  # another machine's clock may be wrong
        self._ready = ready if self._ready is None else min(self._ready, ready)
        self._images += len(table)

    @property
    def start(self) -> float:
        return self._ready - self.begun if self._ready else 0.0

    @property
    def rate(self) -> float | None:
        return self._images / (self._last - self._ready) if self._ready and self._last > self._ready else None


def digest_of(package: Path) -> str:
    """Of a package's description, which carries the checksum of its weights."""
    return hashlib.sha256((package / INFO).read_bytes()).hexdigest()
