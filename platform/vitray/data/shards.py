"""Reading a dataset folder: one row group at a time, from any thread, process or machine."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vitray.data.manifest import MANIFEST, QUARANTINE, SPLITS, Manifest, ShardInfo
from vitray.errors import DataError, nearest

_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")
_IO_THREADS = 16  # opening and hashing wait for the disk or the network, so more threads than cores pay
_MEND = "copy the dataset again from where it was made, or prepare it again; vitray data verify names all that is wrong"


def locate(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path on it of a local path or a pyarrow.fs URI (``s3://``, ``gs://``, ``file://``)."""
    if not _URI.match(path):
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    try:
        filesystem, inner = pafs.FileSystem.from_uri(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"cannot be opened ({error})", where=path, remedy="check the URI") from None
    return filesystem, inner.rstrip("/")


class _Handles:
    """Open Parquet files nobody uses right now, the least recently used closed first.

    One per process, not per store: a store arrives in every Ray task as a new object, but the files stay the same.
    A handle is taken out while it is read, since Parquet readers are not made for two threads at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._lock, self._tickets = limit, threading.Lock(), itertools.count()
        self._idle: OrderedDict[tuple[object, int], pq.ParquetFile] = OrderedDict()
        self._by_key: dict[object, list[int]] = {}

    def take(self, key: object) -> pq.ParquetFile | None:
        with self._lock:
            tickets = self._by_key.get(key)
            return self._pop(key, tickets[-1]) if tickets else None

    def give(self, key: object, handle: pq.ParquetFile) -> None:
        with self._lock:
            ticket = next(self._tickets)
            self._idle[key, ticket] = handle
            self._by_key.setdefault(key, []).append(ticket)
            surplus = [self._pop(*next(iter(self._idle))) for _ in range(len(self._idle) - self._limit)]
        for old in surplus:
            old.close(force=True)

    def _pop(self, key: object, ticket: int) -> pq.ParquetFile:
        self._by_key[key].remove(ticket)
        if not self._by_key[key]:
            del self._by_key[key]
        return self._idle.pop((key, ticket))


_handles = _Handles(limit=64)


class ShardStore:
    """A dataset folder, opened. Cheap to pickle: it reopens its files where it arrives.

    Make one with :meth:`open`.
    """

    def __init__(self, path: str, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.fingerprint = manifest.fingerprint
        self._first_group = {
            name: [0, *itertools.accumulate(shard.row_groups for shard in split.shards)]
            for name, split in manifest.splits.items()
        }
        self._fs: pafs.FileSystem | None = None
        self._base = ""

    @classmethod
    def open(cls, path: str | Path, *, check: bool = True) -> ShardStore:
        """Open a dataset folder and check what is cheap: manifest, every shard's size and footer.

        Args:
            path: local folder or pyarrow.fs URI.
            check: False reads the manifest alone (what :func:`verify` starts from).

        Raises:
            DataError: no such folder, not a dataset, a manifest that was altered, a shard missing or not as written.
        """
        text = str(path)
        filesystem, base = locate(text)
        where = f"{text.rstrip('/')}/{MANIFEST}"
        try:
            with filesystem.open_input_stream(f"{base}/{MANIFEST}") as stream:
                content = stream.read()
        except OSError as error:
            raise _no_manifest(filesystem, base, text, error) from None
        store = cls(text if _URI.match(text) else base, Manifest.from_json(content, where=where))
        store._fs, store._base = filesystem, base
        if check:
            store._check_sizes()
            store._check_footers()
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardStore, (self.path, self.manifest)

    @property
    def rows_per_group(self) -> int:
        return self.manifest.rows_per_group

    def num_rows(self, split: str) -> int:
        return self.manifest.splits[self._known(split)].rows

    def num_groups(self, split: str) -> int:
        return self._first_group[self._known(split)][-1]

    def read_group(self, split: str, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Row group ``group`` of a split: rows ``group * rows_per_group`` and on, in ``sample_id`` order.

        Args:
            split: train, val or test.
            group: 0 to ``num_groups(split) - 1``.
            columns: of ``sample_id, image, label, width, height``; all when None.

        Raises:
            DataError: the file is gone or its bytes are damaged; names file and row group.
            IndexError: no such group.
        """
        first = self._first_group[self._known(split)]
        if not 0 <= group < first[-1]:
            raise IndexError(f"row group {group} of {split!r}, which has {first[-1]}")
        number = bisect.bisect_right(first, group) - 1
        shard, inner = self.manifest.splits[split].shards[number], group - first[number]
        expected = min(self.rows_per_group, self.num_rows(split) - group * self.rows_per_group)
        try:
            with self._handle(shard) as handle:
                table = handle.read_row_group(inner, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(shard, inner, str(error).splitlines()[0]) from None
        if table.num_rows != expected:
            raise self._damaged(shard, inner, f"{table.num_rows} rows instead of {expected}")
        return table

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """The file system and the folder's path on it."""
        if self._fs is None:
            self._fs, self._base = locate(self.path)
        return self._fs, self._base

    def _known(self, split: str) -> str:
        if split not in self.manifest.splits:
            raise DataError(f"there is no split {split!r}", where=self.path, remedy=nearest(split, SPLITS))
        return split

    def _key(self, shard: ShardInfo) -> tuple[str, str, str]:
        return self.path, shard.file, shard.sha256

    @contextmanager
    def _handle(self, shard: ShardInfo) -> Iterator[pq.ParquetFile]:
        key = self._key(shard)
        handle = _handles.take(key) or self._parquet(shard)
        try:
            yield handle
        except BaseException:
            handle.close(force=True)  # what failed once is not kept: the file may be replaced meanwhile
            raise
        _handles.give(key, handle)

    def _parquet(self, shard: ShardInfo) -> pq.ParquetFile:
        filesystem, base = self.filesystem()
        # No memory map: a file cut short under one kills the process instead of raising.
        remote = not isinstance(filesystem, pafs.LocalFileSystem)
        return pq.ParquetFile(
            f"{base}/{shard.file}", filesystem=filesystem, pre_buffer=remote, page_checksum_verification=True
        )

    def _damaged(self, shard: ShardInfo, group: int, reason: str) -> DataError:
        where = f"{self.path}/{shard.file}, row group {group}"
        return DataError(f"cannot be read ({reason})", where=where, remedy=_MEND)

    def _shards(self) -> list[ShardInfo]:
        return [shard for split in self.manifest.splits.values() for shard in split.shards]

    def _check_sizes(self) -> None:
        if findings := self._sizes():
            raise self._refused(findings)

    def _sizes(self) -> list[Finding]:
        filesystem, base = self.filesystem()
        shards = self._shards()
        found = filesystem.get_file_info([f"{base}/{shard.file}" for shard in shards])
        findings = []
        for shard, info in zip(shards, found, strict=True):
            if info.type != pafs.FileType.File:
                findings.append(Finding(shard.file, "is missing"))
            elif info.size != shard.bytes:
                kind = "truncated" if info.size < shard.bytes else "has grown"
                findings.append(Finding(shard.file, f"{kind}: {info.size:,} bytes instead of {shard.bytes:,}"))
        return findings

    def _check_footers(self) -> None:
        if shards := self._shards():
            with ThreadPoolExecutor(min(_IO_THREADS, len(shards))) as pool:
                if findings := [finding for finding in pool.map(self._footer, shards) if finding]:
                    raise self._refused(findings)

    def _footer(self, shard: ShardInfo) -> Finding | None:
        try:
            handle = self._parquet(shard)  # not one opened earlier: the question is what lies there now
        except (pa.ArrowException, OSError) as error:
            return Finding(shard.file, f"has a damaged footer ({str(error).splitlines()[0]})")
        footer = handle.metadata
        if (footer.num_rows, footer.num_row_groups) != (shard.rows, shard.row_groups):
            handle.close(force=True)
            return Finding(
                shard.file,
                f"holds {footer.num_rows} rows in {footer.num_row_groups} row groups "
                f"instead of {shard.rows} in {shard.row_groups}",
            )
        _handles.give(self._key(shard), handle)
        return None

    def _refused(self, findings: Sequence[Finding]) -> DataError:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        return DataError(f"{findings[0].problem}{more}", where=f"{self.path}/{findings[0].file}", remedy=_MEND)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a dataset: which file, and what."""

    file: str
    problem: str


def verify(store: ShardStore) -> list[Finding]:
    """Re-hash every shard in parallel and look for strangers; an empty list means the bytes are those written.

    Start from ``ShardStore.open(path, check=False)``, so that all that is wrong is listed, not only the first.
    """
    wrong_size = {finding.file: finding for finding in store._sizes()}
    rest = [shard for shard in store._shards() if shard.file not in wrong_size]
    filesystem, base = store.filesystem()

    def rehash(shard: ShardInfo) -> Finding | None:
        digest = hashlib.sha256()
        try:
            with filesystem.open_input_stream(f"{base}/{shard.file}") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
        except OSError as error:
            return Finding(shard.file, f"cannot be read ({error})")
        same = digest.hexdigest() == shard.sha256
        return None if same else Finding(shard.file, "its bytes changed: the sha256 is not the manifest's")

    with ThreadPoolExecutor(_IO_THREADS) as pool:
        changed = [finding for finding in pool.map(rehash, rest) if finding]
    ours = {shard.file for shard in store._shards()} | {MANIFEST, QUARANTINE}
    below = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
    names = [info.path.removeprefix(base).lstrip("/") for info in below if info.type == pafs.FileType.File]
    foreign = [Finding(name, "is foreign: the manifest does not list it") for name in names if name not in ours]
    return sorted([*wrong_size.values(), *changed, *foreign], key=lambda finding: finding.file)


def _no_manifest(filesystem: pafs.FileSystem, base: str, path: str, error: OSError) -> DataError:
    prepare = "vitray data prepare SOURCE DEST makes one"
    kind = filesystem.get_file_info(base).type
    if kind == pafs.FileType.NotFound:
        return DataError("there is no such dataset folder", where=path, remedy=f"check the path; {prepare}")
    if kind == pafs.FileType.File:
        return DataError("is a file, not a dataset folder", where=path, remedy=f"give the folder; {prepare}")
    if filesystem.get_file_info(f"{base}/{MANIFEST}").type == pafs.FileType.File:
        return DataError(f"cannot be read ({error})", where=f"{path}/{MANIFEST}", remedy="check its permissions")
    return DataError(
        f"is not a dataset: it has no {MANIFEST}",
        where=path,
        remedy=f"prepare it (again), a preparation that did not finish leaves none; {prepare}",
    )
