"""A scoring cut into units of work: the same units for the same inputs, so that one can go on where another stopped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vitray.data.sources.source import Chunk, Item, Source
from vitray.model_config import ModelConfig
from vitray.model_size import flops

_UNIT_FLOPS = 1e11  # one or two seconds of a CPU core; a task of Ray's costs 0.02 s whatever it does
_LEAST, _MOST = 64, 4096  # images: a batch of the model's at least
_LEAST_ON_GPU = 512
_UNITS = 10_000  # at most, so that the list of them stays short whatever the inputs are
_PIECES = 8  # that a large chunk is cut into at most: each piece reads past what comes before it


@dataclass(frozen=True, slots=True)
class Unit:
    """Images ``skip .. skip + take`` of some chunks read one after the other; ``take=None``: all of them.

    ``images``: how many those are, where that is known.
    """

    number: int
    chunks: tuple[Chunk, ...]
    images: int | None
    skip: int = 0
    take: int | None = None

    def items(self, source: Source) -> Iterator[Item]:
        """Its images, in order."""
        every = itertools.chain.from_iterable(source.items(chunk) for chunk in self.chunks)
        return itertools.islice(every, self.skip, None if self.take is None else self.skip + self.take)


def unit_images(config: ModelConfig, total: int, workers: int, *, gpu: bool = False) -> int:
    """How many images make a unit of this model: enough work to be worth a task, and units enough for all workers."""
    least = _LEAST_ON_GPU if gpu else _LEAST
    enough = min(max(least, int(_UNIT_FLOPS / flops(config).forward)), _MOST)
    fair = max(_LEAST, total // (8 * workers))  # all workers then end at about the same time
    return max(min(enough, fair), -(-total // _UNITS))


def cut(chunks: Sequence[Chunk], size: int) -> list[Unit]:
    """Units of about ``size`` images: small chunks together, large ones in pieces, unknown ones each by itself."""
    units: list[Unit] = []
    some: list[Chunk] = []

    def close() -> None:
        if some:
            units.append(Unit(len(units), tuple(some), sum(chunk.images or 0 for chunk in some)))
            some.clear()

    for chunk in chunks:
        if chunk.images is None or chunk.images >= 2 * size:
            close()
            units.extend(_pieces(chunk, size, len(units)))
            continue
        if some and sum(c.images or 0 for c in some) + chunk.images > size:
            close()
        some.append(chunk)
    close()
    return units


def _pieces(chunk: Chunk, size: int, first: int) -> list[Unit]:
    if chunk.images is None:
        return [Unit(first, (chunk,), None)]
    pieces = min(_PIECES, chunk.images // size)
    edges = [chunk.images * i // pieces for i in range(pieces + 1)]
    return [
        Unit(first + number, (chunk,), stop - start, start, stop - start)
        for number, (start, stop) in enumerate(itertools.pairwise(edges))
    ]
