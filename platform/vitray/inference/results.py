"""The file that a scoring makes: whole or not there, and gone on with where a killed scoring left off.

While it is made, ``scores.parquet.partial`` beside it holds ``about.json`` (what is being scored, by which model) and
the rows so far as ``part-<first unit>-<next unit>.parquet``. A part is renamed into place when its bytes are on the
disk, so what is there is whole; those that follow each other from unit 0 are kept, and the next unit is where a second
scoring begins. At the end all parts become the file in one pass, and the folder goes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vitray.data.uri import is_uri
from vitray.errors import DataError
from vitray.inference.results_file import KINDS, Tally, writer

_ABOUT, _LOCK, _SUMMARY = "about.json", "lock", b"vitray.scoring"
_RAY_COPY = "working_dir_files"  # the folder in which Ray puts working directories that were sent along
_PART = re.compile(r"part-(\d{8})-(\d{8})\.parquet")
_ROWS, _SECONDS = 50_000, 5.0  # a part is written after so many rows or seconds: what a kill may cost


@dataclass(frozen=True)
class About:
    """What decides a scoring's rows. ``model`` and ``source`` are for people, the digests and ``top_k`` are compared.

    ``unit_images`` is no part of that: a scoring that goes on cuts its units as the first one did.
    """

    model: str
    model_digest: str
    source: str
    source_stamp: str
    top_k: int
    unit_images: int

    def differs(self, other: About) -> str | None:
        """What is another thing there, in words; None where both mean the same rows."""
        if self.model_digest != other.model_digest:
            return f"of another model ({other.model}, not {self.model})"
        if self.source_stamp != other.source_stamp:
            same = "whose files have changed since" if self.source == other.source else f"not {self.source}"
            return f"of {other.source}, {same}"
        return f"with --top {other.top_k}" if self.top_k != other.top_k else None


class Results:
    """The results of one scoring at ``path``. Make one with :meth:`open`."""

    def __init__(self, path: Path, about: About) -> None:
        self.path, self.about = path, about
        self._folder = partial_folder(path)
        self._pending: list[pa.Table] = []
        self._first = self.next_unit = 0
        self._written = time.monotonic()

    @classmethod
    @contextmanager
    def open(cls, path: str, about: About, *, overwrite: bool = False) -> Iterator[Results]:
        """Begin a scoring, or go on with one: ``next_unit`` says where. What is pending is kept when the block ends.

        Raises:
            DataError: the folder is in use, or holds the beginning of another scoring; it cannot be written.
        """
        results = cls(Path(path), about)
        folder = results._folder
        with _writing(path):
            folder.mkdir(exist_ok=True)
            lock = (folder / _LOCK).open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                remedy = "wait for it, or give another --to"
                raise DataError("another process writes there", where=str(folder), remedy=remedy) from None
            with _writing(path):
                results._begin(overwrite)
            try:
                yield results
            finally:
                results.commit()

    def add(self, table: pa.Table) -> None:
        """The rows of the next unit."""
        self._pending.append(table)
        self.next_unit += 1
        if sum(map(len, self._pending)) >= _ROWS or time.monotonic() - self._written >= _SECONDS:
            self.commit()

    def commit(self) -> None:
        """Bring what was added to the disk. Raises DataError when it cannot be written."""
        if self._pending:
            part = self._folder / f"part-{self._first:08d}-{self.next_unit:08d}.parquet"
            draft = part.with_suffix(".draft")
            with _writing(str(self.path)), draft.open("wb") as file:
                pq.write_table(pa.concat_tables(self._pending), file, compression="zstd")
                _to_disk(file)
            draft.rename(part)
        self._pending, self._first, self._written = [], self.next_unit, time.monotonic()

    def rows_so_far(self) -> int:
        """Rows on the disk."""
        return sum(pq.read_metadata(part).num_rows for _, _, part in self._parts())

    def finish(self) -> Tally:
        """Make the file of all parts, some of them in memory at a time, and remove them."""
        self.commit()
        tally = Tally()
        draft = self.path.with_name(f".{self.path.name}.draft")
        with _writing(str(self.path)):
            try:
                with draft.open("wb") as file:
                    with writer(self.path.suffix.lower(), file) as write:
                        for table in self._tables():
                            tally.count(table)
                            write.table(table)
                        write.note(_SUMMARY, json.dumps({"about": asdict(self.about), "tally": tally.as_json()}))
                    _to_disk(file)
                draft.replace(self.path)
            finally:
                draft.unlink(missing_ok=True)
            shutil.rmtree(self._folder)
        return tally

    def _tables(self) -> Iterator[pa.Table]:
        """All rows, some ten thousand at a time: parts may be short, and row groups should not be."""
        some: list[pa.Table] = []
        for _, _, part in self._parts():
            with pq.ParquetFile(part) as parquet:
                for group in range(parquet.num_row_groups):
                    some.append(parquet.read_row_group(group))
                    if sum(map(len, some)) >= _ROWS:
                        yield pa.concat_tables(some)
                        some = []
        if some:
            yield pa.concat_tables(some)

    def _begin(self, overwrite: bool) -> None:
        there = _read(self._folder / _ABOUT)
        if there is not None and (other := self.about.differs(there)) is not None:
            if not overwrite and self._parts():
                what = f"is the beginning of a scoring {other}"
                remedy = "give another --to, or --overwrite to begin anew"
                raise DataError(what, where=str(self._folder), remedy=remedy)
            there = None
        if there is None:
            for left in self._folder.glob("part-*"):
                left.unlink()
            draft = self._folder / f"{_ABOUT}.draft"
            draft.write_text(json.dumps(asdict(self.about), indent=2), encoding="utf-8")
            draft.replace(self._folder / _ABOUT)
        else:
            self.about = there
        parts = self._parts()
        self._first = self.next_unit = parts[-1][1] if parts else 0

    def _parts(self) -> list[tuple[int, int, Path]]:
        """The parts that follow each other from unit 0 on."""
        found = [(match, path) for path in self._folder.iterdir() if (match := _PART.fullmatch(path.name))]
        parts: list[tuple[int, int, Path]] = []
        for first, after, path in sorted((int(match[1]), int(match[2]), path) for match, path in found):
            if first == (parts[-1][1] if parts else 0):
                parts.append((first, after, path))
        return parts


def partial_folder(path: Path) -> Path:
    """Where the rows of an unfinished scoring lie."""
    return path.with_name(f"{path.name}.partial")


def check_target(path: str, *, overwrite: bool) -> None:
    """Refuse what cannot be the file of a scoring, before anything is loaded.

    Raises:
        DataError: another ending, a URI, a folder, no such folder, or a file that is there.
    """
    target = Path(path)
    if is_uri(path):
        raise DataError("must be a file of this machine", where="--to", remedy="write it here, then copy it there")
    if target.suffix.lower() not in KINDS:
        raise DataError(f"must end in {', '.join(KINDS)}", where=f"--to {path}", remedy="for one, scores.parquet")
    if target.is_dir() or not target.absolute().parent.is_dir():
        what = "is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise DataError(what, where=f"--to {path}", remedy="name a file in a folder that is there")
    begun = (partial_folder(target) / _ABOUT).is_file()  # a scoring that was to replace it, or died as it ended
    if _RAY_COPY in target.absolute().parts:
        what = "would be lost with Ray's copy of the working directory"
        raise DataError(what, where=f"--to {path}", remedy="give an absolute path in a folder that lasts")
    if target.exists() and not overwrite and not begun and _noted(target) is None:
        raise DataError("exists already", where=f"--to {path}", remedy="give another name, or --overwrite")


def finished(path: str, about: About) -> Tally | None:
    """What a finished file of this very scoring counted, so that it need not be made again; None if it is none.

    Raises:
        DataError: it is the file of another scoring.
    """
    noted = _noted(Path(path))
    if noted is None:
        return None
    if (other := about.differs(About(**noted["about"]))) is not None:
        remedy = "give another --to, or --overwrite to replace it"
        raise DataError(f"is a finished scoring {other}", where=f"--to {path}", remedy=remedy)
    if (partial := partial_folder(Path(path))).is_dir():  # killed after the file was made
        shutil.rmtree(partial)
    return Tally(**noted["tally"])


def _noted(path: Path) -> dict[str, Any] | None:
    """What a Parquet file of ours says about how it was made."""
    try:
        noted = (pq.read_metadata(path).metadata or {}).get(_SUMMARY)  # the schema alone has no notes
    except (OSError, pa.ArrowException):
        return None
    return None if noted is None else json.loads(noted)


def _read(path: Path) -> About | None:
    try:
        return About(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "make room or check that it may be written; the same command then goes on where it was"
        raise DataError(f"cannot be written: {error.strerror or error}", where=path, remedy=remedy) from error


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
