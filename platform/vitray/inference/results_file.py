"""The kinds of file that scores are written as, row by row or table by table, and what is counted on the way."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitray.inference.schema import SCORED

KINDS = (".parquet", ".csv", ".jsonl")


@dataclass
class Tally:
    """What a scoring gave: images, those that could not be read, and how many got each label.

    ``labelled`` is how many had a true class and an answer, ``correct`` how many of these got it.
    """

    images: int = 0
    bad: int = 0
    labelled: int = 0
    correct: int = 0
    classes: dict[str, int] = field(default_factory=dict)

    def count(self, table: pa.Table) -> None:
        """Add the rows of a table."""
        self.images += len(table)
        self.bad += len(table) - table["error"].null_count
        equal = pc.equal(table["label"], table["truth"])
        self.labelled += len(table) - equal.null_count
        self.correct += pc.sum(equal).as_py() or 0
        for pair in pc.value_counts(table["label"].drop_null()).to_pylist():
            self.classes[pair["values"]] = self.classes.get(pair["values"], 0) + pair["counts"]

    @property
    def accuracy(self) -> float | None:
        """Of the images whose true class is known; None where there are none."""
        return self.correct / self.labelled if self.labelled else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Writer(Protocol):
    """Takes the tables of a file in order; ``note`` keeps a text in it, where its kind has room for one."""

    def table(self, table: pa.Table) -> None: ...
    def note(self, key: bytes, text: str) -> None: ...


@contextmanager
def writer(kind: str, file: BinaryIO) -> Iterator[Writer]:
    """A writer of one of :data:`KINDS` into an open file."""
    if kind == ".parquet":
        with pq.ParquetWriter(file, SCORED, compression="zstd") as parquet:
            yield _Parquet(parquet)
        return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    yield _Csv(text) if kind == ".csv" else _JsonLines(text)
    text.flush()
    text.detach()  # the file is its owner's to close


class _Parquet:
    def __init__(self, parquet: pq.ParquetWriter) -> None:
        self._parquet = parquet

    def table(self, table: pa.Table) -> None:
        self._parquet.write_table(table)

    def note(self, key: bytes, text: str) -> None:
        self._parquet.add_key_value_metadata({key: text.encode()})


class _Csv:
    """``top`` is JSON, as ``[["cat", 0.9], ["dog", 0.1]]``."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._rows = csv.writer(file)
        self._rows.writerow(SCORED.names)

    def table(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            if row["top"] is not None:
                pairs = [[each["label"], each["probability"]] for each in row["top"]]
                row["top"] = json.dumps(pairs, ensure_ascii=False)
            self._rows.writerow(row.values())

    def note(self, key: bytes, text: str) -> None:
        pass


class _JsonLines:
    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file

    def table(self, table: pa.Table) -> None:
        self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())

    def note(self, key: bytes, text: str) -> None:
        pass
