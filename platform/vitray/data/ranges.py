"""Positional reads of shards: neighbours together, local ones announced to the kernel, remote ones side by side."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow.fs as pafs

from vitray.data.rng import I64

_RANGE_BYTES = 8 * 2**20
_LOCAL_HOLE = 4  # what lies between neighbours: a value's length
_REMOTE_HOLE = 64 * 2**10  # bytes read in vain rather than asked for separately
_REMOTE_READS = 32  # at once: a remote read waits for the network, not for a core


class Opened(Protocol):
    """An open shard; ``read`` may be called from many threads."""

    def read(self, offset: int, size: int) -> bytes: ...

    def expect(self, offset: int, size: int) -> None:
        """Say that a read will follow, so that it can be under way before."""


class LocalFile:
    def __init__(self, path: str) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        # Not a memory map: a file cut short under one kills the process instead of raising.
        return os.pread(self._descriptor, size, offset)

    def expect(self, offset: int, size: int) -> None:
        os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def __del__(self) -> None:  # when the last reader is done with it, however it left the table of open files
        if self._descriptor >= 0:
            os.close(self._descriptor)


class RemoteFile:
    def __init__(self, filesystem: pafs.FileSystem, path: str) -> None:
        self._file = filesystem.open_input_file(path)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._file.read_at(size, offset))

    def expect(self, offset: int, size: int) -> None: ...


def open_file(filesystem: pafs.FileSystem, path: str) -> Opened:
    """Raises OSError."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return LocalFile(path)
    return RemoteFile(filesystem, path)


@dataclass(frozen=True)
class Wanted:
    """Rows of one open shard, by rising offset."""

    file: Opened
    offset: I64
    length: I64


def read_all(wanted: Sequence[Wanted], *, remote: bool) -> list[bytes]:
    """The bytes of all rows, shard after shard. Neighbours are read together; remote reads overlap.

    A row that the file ends before comes back short.

    Raises:
        OSError: a file cannot be read.
    """
    hole = _REMOTE_HOLE if remote else _LOCAL_HOLE
    spans = [(shard, span) for shard in wanted for span in _spans(shard, hole)]

    def fetch(job: tuple[Wanted, slice]) -> list[bytes]:
        shard, span = job
        offsets, lengths = shard.offset[span].tolist(), shard.length[span].tolist()
        start = offsets[0]
        data = shard.file.read(start, offsets[-1] + lengths[-1] - start)
        if len(offsets) == 1:
            return [data]
        return [data[at - start : at - start + size] for at, size in zip(offsets, lengths, strict=True)]

    if remote and len(spans) > 1:
        with ThreadPoolExecutor(min(_REMOTE_READS, len(spans))) as pool:
            pieces = list(pool.map(fetch, spans))
    else:
        for shard, span in spans:
            first, last = shard.offset[span][0], shard.offset[span][-1] + shard.length[span][-1]
            shard.file.expect(int(first), int(last - first))
        pieces = [fetch(span) for span in spans]
    return list(itertools.chain.from_iterable(pieces))


def _spans(wanted: Wanted, hole: int) -> list[slice]:
    """Runs of rows with no more than ``hole`` bytes between them, each run of bounded size."""
    ends = wanted.offset + wanted.length
    part = wanted.offset // _RANGE_BYTES
    cuts = np.nonzero((wanted.offset[1:] - ends[:-1] > hole) | (part[1:] != part[:-1]))[0] + 1
    edges = [0, *cuts.tolist(), len(wanted.offset)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
