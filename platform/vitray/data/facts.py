"""All that the first pass found, gathered in the driver: a few hundred bytes an image, in Arrow columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitray.data.rng import I64
from vitray.data.scan import SCANNED, shown
from vitray.data.sources import Chunk, Source
from vitray.errors import DataError

_COMPACT = 1000  # tables: a chunk's is small, and each costs kilobytes
_BATCH = 65_536
_FIRST = 5
_LABEL = SCANNED.get_field_index("label")


@dataclass(frozen=True)
class Facts:
    """A row an image, sorted by key; columns as :data:`~vitray.data.scan.SCANNED`, but ``label`` is a class number.

    ``label`` is int32, an index into ``classes``, and null where a refused image has none.
    """

    source: str
    classes: tuple[str, ...]
    table: pa.Table

    def column(self, name: str, rows: I64) -> I64:
        """An integer column of some rows, in which none is null."""
        return np.asarray(self.table[name].take(rows).to_numpy(), dtype=np.int64)

    def usable(self) -> I64:
        """The rows that have no reason against them."""
        return np.flatnonzero(pc.is_null(self.table["reason"]).to_numpy())

    def keys(self, rows: I64) -> Iterator[bytes]:
        """The keys of some rows, made a batch at a time."""
        for start in range(0, len(rows), _BATCH):
            yield from self.table["key"].take(rows[start : start + _BATCH]).to_pylist()

    def key(self, row: int) -> str:
        return shown(self.table["key"][row].as_py())

    def twins(self, rows: I64) -> I64:
        """A number for each of some rows, from 0 on, the same for all whose bytes as found are equal."""
        found = self.table["found"].take(rows).combine_chunks()
        return np.asarray(found.dictionary_encode().indices, dtype=np.int64)


@dataclass
class _Labels:
    """Class numbers as they come up, until all are known."""

    numbers: dict[str, int] = field(default_factory=dict)

    def encode(self, labels: pa.ChunkedArray) -> pa.Array:
        encoded = labels.combine_chunks().dictionary_encode()
        known = [self.numbers.setdefault(label, len(self.numbers)) for label in encoded.dictionary.to_pylist()]
        return pa.array(known, pa.int32()).take(encoded.indices)

    def classes(self, source: Source) -> tuple[tuple[str, ...], pa.Array]:
        """The names of all classes, sorted, and the final number of each that came up."""
        kinds = {label[0] for label in self.numbers}
        if len(kinds) > 1:
            raise DataError("has both names and integers as labels", where=source.name, remedy="use one kind")
        values = [label[2:] for label in self.numbers]
        if source.class_names is not None:
            for value in values:
                if not (kinds == {"i"} and 0 <= int(value) < len(source.class_names)):
                    raise DataError(
                        f"has the label {value!r}, but {len(source.class_names)} class names",
                        where=source.name,
                        remedy="a label is an index into the names",
                    )
            return source.class_names, pa.array(map(int, values), pa.int32())
        names = sorted(values, key=int if kinds == {"i"} else str)
        place = {name: number for number, name in enumerate(names)}
        return tuple(names), pa.array([place[value] for value in values], pa.int32())


class Refused:
    """How many images are unusable so far, and why. Raises as soon as they are certainly too many."""

    def __init__(self, source: str, limit: float) -> None:
        self._source, self._limit = source, limit
        self.count, self._done = 0, 0
        self._reasons: Counter[str] = Counter()
        self._first: list[str] = []

    def add(self, table: pa.Table) -> None:
        self._done += table.num_rows
        bad = table.filter(pc.is_valid(table["reason"])).select(["key", "reason"])
        for key, reason in zip(bad["key"].to_pylist(), bad["reason"].to_pylist(), strict=True):
            self.count += 1
            self._reasons[reason] += 1
            if len(self._first) < _FIRST:
                self._first.append(f"{shown(key)}: {reason}")

    def check(self, total: int) -> None:
        """Raises DataError when more than the limit of ``total`` images are unusable."""
        if self.count <= self._limit * total:
            return
        kinds = self._reasons.most_common(_FIRST)
        rest = self.count - sum(count for _, count in kinds)
        summary = [f"{count} {reason}" for reason, count in kinds] + ([f"{rest} for other reasons"] if rest else [])
        more = [f"and {self.count - len(self._first)} more"] if self.count > len(self._first) else []
        raise DataError(
            f"{self.count} of the first {self._done} images cannot be used, and at most {self._limit:.2%} of all "
            f"{total} may be left out: {', '.join(summary)}\n  " + "\n  ".join([*self._first, *more]),
            where=self._source,
            remedy="mend or remove them, or allow more with --max-bad-fraction",
        )


def gather(
    source: Source,
    chunks: Sequence[Chunk],
    tables: Iterable[pa.Table],
    *,
    max_bad_fraction: float,
    scanned: Callable[[int, int], None],
) -> Facts:
    """Put the tables of the chunks, in their order, together.

    Args:
        scanned: told the images done and, as far as it is known, the images in all.

    Raises:
        DataError: more than ``max_bad_fraction`` of the images are unusable (as soon as that is certain), two images
            have one key, or the labels are of two kinds.
    """
    known = [chunk.images for chunk in chunks]
    total = None if None in known else sum(images or 0 for images in known)
    labels, refused = _Labels(), Refused(source.name, max_bad_fraction)
    parts: list[pa.Table] = []
    recent: list[pa.Table] = []
    done = 0
    for number, table in enumerate(tables, start=1):
        refused.add(table)
        label = labels.encode(table["label"])
        recent.append(table.set_column(_LABEL, "label", label))
        done += table.num_rows
        if len(recent) == _COMPACT:
            parts.append(pa.concat_tables(recent).combine_chunks())
            recent.clear()
        if total is not None:
            refused.check(total)
        if done:
            scanned(done, total if total is not None else round(done * len(chunks) / number))
    refused.check(done)
    if not done:
        raise DataError("holds no images", where=source.name, remedy="check that it is the source you mean")
    table = pa.concat_tables([*parts, *recent])
    parts.clear()
    recent.clear()
    table = _by_key(table)
    _check_keys(source, table)
    classes, final = labels.classes(source)
    return Facts(source.name, classes, table.set_column(_LABEL, "label", pc.take(final, table["label"])))


def _by_key(table: pa.Table) -> pa.Table:
    """The table sorted, a column at a time: with ten million rows, a second table is gigabytes."""
    order = pc.sort_indices(table["key"])
    columns = {}
    for name in table.column_names:
        columns[name] = pc.take(table[name].combine_chunks(), order)
        table = table.drop_columns(name)
    return pa.table(columns)


def _check_keys(source: Source, table: pa.Table) -> None:
    keys = table["key"].combine_chunks()
    same = pc.equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    if same.any():
        key = shown(keys[int(np.argmax(same))].as_py())
        raise DataError("has two images of one name", where=f"{source.name}: {key}", remedy="give each its own")
