"""A table of paths and labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from vitray.data.sources.columns import LABEL_NAMES, PATH_NAMES, SPLIT_NAME, check_labels, choose, labels_in
from vitray.data.sources.files import Files, printable, problem, read_all, resolve
from vitray.data.sources.source import Chunk, Item, Splits
from vitray.data.sources.splits import KNOWN, split_named
from vitray.errors import DataError
from vitray.masking import public

_ROWS = 32  # a chunk


class Listing:
    """A CSV, TSV or Parquet file with a path and a label a row: ``photos/listing.csv``, ``s3://bucket/listing.parquet``::

        path,label,split
        photos/1.jpg,cat,train
        /elsewhere/2.png,dog,train
        s3://bucket/3.webp,dog,test

    Relative paths count from the folder of the listing; it may name any file that can be read. Columns are found by
    their usual names. ``split`` is used with splits="folders" alone. A row without path or label is refused, by its
    number (the first after the header is row 1); a path listed again gets its row number as well.
    """

    rereads: ClassVar[bool] = True
    class_names: ClassVar[None] = None

    def __init__(
        self,
        folder: Files,
        file: str,
        splits: Splits,
        path_column: str | None,
        label_column: str | None,
        *,
        labelled: bool = True,
    ) -> None:
        """Without ``labelled`` a label is used where there is one and may be missing."""
        self.name = folder.show(file)
        self._folder, self._file, self._by_column = folder, file, splits == "folders"
        self._path_column, self._label_column, self._labelled = path_column, label_column, labelled

    def chunks(self) -> list[Chunk]:
        """Some rows each. Raises DataError: not a table, no such columns, no rows."""
        paths, labels, splits = self._read()
        seen: set[str] = set()
        rows = []
        for number, (path, label, split) in enumerate(zip(paths, labels, splits, strict=True), start=1):
            key = public(printable(path)) if path else f"row {number}"
            if key in seen:
                key = f"{key} (row {number})"
            seen.add(key)
            rows.append((key, path, label, split, number))
        if not rows:
            raise DataError("lists no images", where=self.name, remedy="write a row for each of them below the header")
        places = [tuple(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)]
        return [Chunk(number, place, len(place)) for number, place in enumerate(places)]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        lacking = [self._lacks(*row[1:]) for row in chunk.place]
        paths = [row[1] for row, lack in zip(chunk.place, lacking, strict=True) if lack is None]
        found = read_all(self._folder, paths)
        for (key, path, label, split, _), lack in zip(chunk.place, lacking, strict=True):
            data, why = (b"", lack) if lack is not None else next(found)
            side = split_named(split) if self._by_column and split else None
            yield Item(key, "" if label is None else label, data, why, side, path)

    def reread(self, place: Any) -> bytes:
        files, path = resolve(self._folder, place)
        return files.read(path)

    def _lacks(self, path: str | None, label: Any, split: str | None, number: int) -> str | None:
        if not path or (label is None and self._labelled):
            return f"row {number} has no {'label' if path else 'path'}"
        if self._by_column and split_named(split or "") is None:
            return f"row {number}: split {split!r} is none of {KNOWN}"
        return None

    def _read(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Paths, labels and splits as they are written; None where there is nothing."""
        try:
            with self._folder.open(self._file) as file:
                is_parquet = self._file.lower().endswith(".parquet")
                table, path, label = self._parquet(file) if is_parquet else self._csv(file)
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            what = problem(error) if isinstance(error, OSError) else str(error).partition("\n")[0]
            raise DataError(what, where=self.name, remedy="mend the listing: UTF-8 text with a header line") from None
        for column in (path, label) if label else (path,):
            kind = table.schema.field(column).type
            if pa.types.is_nested(kind):
                raise DataError(f"column {column!r} holds {kind}", where=self.name, remedy="name one of plain values")
        texts = [text.strip() if text else None for text in table[path].cast(pa.string()).to_pylist()]
        labels: list[Any] = [None] * len(texts)
        if label:
            whole = pa.types.is_integer(table.schema.field(label).type)
            labels = table[label].to_pylist() if whole else labels_in(table[label].cast(pa.string()))
        splits = table[SPLIT_NAME].cast(pa.string()).to_pylist() if self._by_column else [None] * len(texts)
        return texts, labels, splits

    def _csv(self, file: Any) -> tuple[pa.Table, str, str | None]:
        delimiter = "\t" if self._file.lower().endswith(".tsv") else ","
        parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        columns = pacsv.open_csv(file, parse_options=parse).schema.names
        path, label, used = self._columns(columns)
        file.seek(0)
        # As text: what Arrow makes of "007", "1e3" or "true" would be another class.
        convert = pacsv.ConvertOptions(include_columns=used, column_types=dict.fromkeys(used, pa.string()))
        return pacsv.read_csv(file, parse_options=parse, convert_options=convert), path, label

    def _parquet(self, file: Any) -> tuple[pa.Table, str, str | None]:
        with pq.ParquetFile(file) as parquet:
            path, label, used = self._columns(parquet.schema_arrow.names)
            if label:
                check_labels(parquet.schema_arrow.field(label).type, label, self.name)
            return parquet.read(columns=used), path, label

    def _columns(self, columns: list[str]) -> tuple[str, str | None, list[str]]:
        path = choose(columns, self._path_column, PATH_NAMES, "path", self.name)
        label: str | None = None
        if self._labelled or self._label_column or {name.strip().lower() for name in columns} & set(LABEL_NAMES):
            label = choose(columns, self._label_column, LABEL_NAMES, "label", self.name)
        if self._by_column and SPLIT_NAME not in columns:
            there = ", ".join(columns)
            raise DataError(
                f"has no column {SPLIT_NAME!r}; its columns: {there}",
                where=self.name,
                remedy="add one that says train, val or test, or leave out --splits folders",
            )
        used = [path, *([label] if label else []), *([SPLIT_NAME] if self._by_column else [])]
        return path, label, used
