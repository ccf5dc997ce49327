"""Reading a dataset folder, rows in any order, from any thread, process or machine."""

from __future__ import annotations

import bisect
import itertools
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vitray.data.manifest import MANIFEST, MARKER, SPLITS, Manifest, ShardInfo
from vitray.data.ranges import Opened, Wanted, open_file, read_all
from vitray.data.recent import Recent
from vitray.data.rng import I64
from vitray.data.row_index import RowIndex, index_digest, row_index
from vitray.data.uri import is_uri
from vitray.errors import DataError, nearest
from vitray.masking import public

IO_THREADS = 16  # opening and hashing wait for the disk or the network, so more threads than cores pay
_MEND = "copy the dataset again from where it was made, or prepare it again; vitray data verify names all that is wrong"


def locate(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path on it of a local path or a pyarrow.fs URI (``s3://``, ``gs://``, ``file://``)."""
    if not is_uri(path):
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    try:
        filesystem, inner = pafs.FileSystem.from_uri(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"cannot be opened ({public(str(error))})", where=public(path), remedy="check the URI"
        ) from None
    return filesystem, inner.rstrip("/")


# One of each per process, not per store: a store arrives in every Ray task as a new object, but the files stay.
_open_files: Recent[Opened] = Recent(limit=128)
_indexes: Recent[RowIndex] = Recent(limit=8_000_000, size_of=lambda index: len(index.offset))


class ShardStore:
    """A dataset folder, opened. Cheap to pickle: it reopens its files where it arrives.

    Make one with :meth:`open`.
    """

    def __init__(self, path: str, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.shown = public(path)
        self.fingerprint = manifest.fingerprint
        self._first_group = {
            name: [0, *itertools.accumulate(shard.row_groups for shard in split.shards)]
            for name, split in manifest.splits.items()
        }
        self._first_rows = {
            name: np.array(first[:-1], dtype=np.int64) * manifest.rows_per_group
            for name, first in self._first_group.items()
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
        where = f"{public(text).rstrip('/')}/{MANIFEST}"
        try:
            with filesystem.open_input_stream(f"{base}/{MANIFEST}") as stream:
                content = stream.read()
        except OSError as error:
            raise _no_manifest(filesystem, base, public(text), error) from None
        store = cls(text if is_uri(text) else base, Manifest.from_json(content, where=where))
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
            with self._parquet(shard) as handle:
                table = handle.read_row_group(inner, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(shard, f"row group {inner}: {str(error).splitlines()[0]}") from None
        if table.num_rows != expected:
            raise self._damaged(shard, f"row group {inner}: {table.num_rows} rows instead of {expected}")
        return table

    def read_rows(self, split: str, rows: I64) -> tuple[list[bytes | None], I64]:
        """The encoded images and labels of some rows of a split, in the order asked for; only their bytes are read.

        Returns:
            The images, None where the bytes are not those that were written; the labels, int64 (rows,).

        Raises:
            DataError: a file is gone, its footer is damaged, or it is not the one that was written; names the file.
        """
        images: list[bytes | None] = [None] * len(rows)
        labels = np.empty(len(rows), dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        shard_of = np.searchsorted(self._first_row(split), rows[order], side="right") - 1
        wanted, crcs, places, owners = list[Wanted](), list[int](), list[int](), list[ShardInfo]()
        for number in np.unique(shard_of).tolist():
            shard = self.manifest.splits[split].shards[number]
            places_here = order[shard_of == number]
            here = rows[places_here] - self._first_row(split)[number]
            index = self._index(shard)
            labels[places_here] = index.label[here]
            wanted.append(Wanted(self._open_file(shard), index.offset[here], index.length[here].astype(np.int64)))
            crcs += index.crc[here].tolist()
            places += places_here.tolist()
            owners += [shard] * len(places_here)
        try:
            pieces = read_all(wanted, remote=not isinstance(self.filesystem()[0], pafs.LocalFileSystem))
        except OSError as error:
            raise DataError(f"cannot be read ({error})", where=self.shown, remedy=_MEND) from None
        suspects: dict[str, ShardInfo] = {}
        for place, data, crc, shard in zip(places, pieces, crcs, owners, strict=True):
            if zlib.crc32(data) == crc:
                images[place] = data
            else:
                suspects[shard.file] = shard
        self._check_kept(suspects.values())
        return images, labels

    def labels(self, split: str) -> I64:
        """Every row's label, int64 (rows,), without reading an image."""
        shards = self.manifest.splits[self._known(split)].shards
        return np.concatenate([np.empty(0, np.int64), *(self._index(shard).label for shard in shards)])

    def where(self, split: str, row: int) -> str:
        """The shard file that holds a row of a split, and the row's number in it, for messages."""
        number = int(np.searchsorted(self._first_row(split), row, side="right")) - 1
        shard = self.manifest.splits[split].shards[number]
        return f"{self.shown}/{shard.file}, row {row - int(self._first_row(split)[number])}"

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """The file system and the folder's path on it."""
        if self._fs is None:
            self._fs, self._base = locate(self.path)
        return self._fs, self._base

    def _known(self, split: str) -> str:
        if split not in self.manifest.splits:
            raise DataError(f"there is no split {split!r}", where=self.shown, remedy=nearest(split, SPLITS))
        return split

    def _first_row(self, split: str) -> I64:
        return self._first_rows[self._known(split)]

    def _key(self, shard: ShardInfo) -> tuple[str, str, str]:
        return self.path, shard.file, shard.sha256

    def _index(self, shard: ShardInfo) -> RowIndex:
        return _indexes.get(self._key(shard), lambda: self._read_index(shard))

    def _read_index(self, shard: ShardInfo) -> RowIndex:
        try:
            with self._parquet(shard) as handle:
                footer = handle.metadata
            index = row_index(footer)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(shard, str(error).splitlines()[0]) from None
        # The driver has looked at every shard, but that was another process, and some time ago.
        if problem := _mistaken(shard, footer):
            raise self._refused([Finding(shard.file, problem)])
        return index

    def _open_file(self, shard: ShardInfo) -> Opened:
        filesystem, base = self.filesystem()
        try:
            return _open_files.get(self._key(shard), lambda: open_file(filesystem, f"{base}/{shard.file}"))
        except OSError as error:
            raise self._damaged(shard, str(error)) from None

    def _parquet(self, shard: ShardInfo) -> pq.ParquetFile:
        filesystem, base = self.filesystem()
        remote = not isinstance(filesystem, pafs.LocalFileSystem)
        return pq.ParquetFile(
            f"{base}/{shard.file}", filesystem=filesystem, pre_buffer=remote, page_checksum_verification=True
        )

    def _damaged(self, shard: ShardInfo, reason: str) -> DataError:
        return DataError(f"cannot be read ({reason})", where=f"{self.shown}/{shard.file}", remedy=_MEND)

    def shards(self) -> list[ShardInfo]:
        return [shard for split in self.manifest.splits.values() for shard in split.shards]

    def _check_kept(self, shards: Iterable[ShardInfo]) -> None:
        """A damaged row costs itself; a shard that was exchanged or cut since its footer was read is no such row."""
        shards = list(shards)
        findings = self.sizes(shards) or [finding for shard in shards if (finding := self._footer(shard))]
        if findings:
            raise self._refused(findings)

    def _check_sizes(self) -> None:
        if findings := self.sizes():
            raise self._refused(findings)

    def sizes(self, shards: Sequence[ShardInfo] | None = None) -> list[Finding]:
        """Shards (of all, or of these) that are not as large as they were written, or missing."""
        filesystem, base = self.filesystem()
        shards = self.shards() if shards is None else shards
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
        if shards := self.shards():
            with ThreadPoolExecutor(min(IO_THREADS, len(shards))) as pool:
                if findings := [finding for finding in pool.map(self._footer, shards) if finding]:
                    raise self._refused(findings)

    def _footer(self, shard: ShardInfo) -> Finding | None:
        try:
            with self._parquet(shard) as handle:  # not what was read earlier: the question is what lies there now
                footer = handle.metadata
        except (pa.ArrowException, OSError) as error:
            return Finding(shard.file, f"has a damaged footer ({str(error).splitlines()[0]})")
        try:
            index = row_index(footer)
        except ValueError as error:
            return Finding(shard.file, f"has a damaged footer ({error})")
        if problem := _mistaken(shard, footer):
            return Finding(shard.file, problem)
        _indexes.put(self._key(shard), index)
        return None

    def _refused(self, findings: Sequence[Finding]) -> DataError:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        return DataError(f"{findings[0].problem}{more}", where=f"{self.shown}/{findings[0].file}", remedy=_MEND)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a dataset: which file, and what."""

    file: str
    problem: str


def _mistaken(shard: ShardInfo, footer: pq.FileMetaData) -> str | None:
    """What says that a whole shard with a row index is not the one that was written under this name."""
    if (footer.num_rows, footer.num_row_groups) != (shard.rows, shard.row_groups):
        return (
            f"holds {footer.num_rows} rows in {footer.num_row_groups} row groups "
            f"instead of {shard.rows} in {shard.row_groups}"
        )
    if shard.index and index_digest(footer.metadata) != shard.index:
        return "holds other images than were written here: it was exchanged for another shard, or written anew"
    return None


def _no_manifest(filesystem: pafs.FileSystem, base: str, path: str, error: OSError) -> DataError:
    prepare = "vitray data prepare SOURCE DEST makes one"
    kind = filesystem.get_file_info(base).type
    if kind == pafs.FileType.NotFound:
        return DataError("there is no such dataset folder", where=path, remedy=f"check the path; {prepare}")
    if kind == pafs.FileType.File:
        return DataError("is a file, not a dataset folder", where=path, remedy=f"give the folder; {prepare}")
    if filesystem.get_file_info(f"{base}/{MANIFEST}").type == pafs.FileType.File:
        return DataError(f"cannot be read ({error})", where=f"{path}/{MANIFEST}", remedy="check its permissions")
    if filesystem.get_file_info(f"{base}/{MARKER}").type == pafs.FileType.File:
        return DataError(
            "is not a dataset yet: its preparation goes on, or was broken off",
            where=path,
            remedy="wait for it, or prepare it again: what was broken off is removed then",
        )
    return DataError(
        f"is not a dataset: it has no {MANIFEST}",
        where=path,
        remedy=f"prepare it (again), a preparation that did not finish leaves none; {prepare}",
    )
