"""Which column of a table holds what, and labels as they are written in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from vitray.errors import DataError, nearest

PATH_NAMES = ("path", "file", "filename", "file_name", "image", "image_path", "filepath", "file_path")
LABEL_NAMES = ("label", "class", "target", "category", "y", "labels", "class_name")
IMAGE_NAMES = ("image", "img", "bytes", "data", "jpg", "jpeg", "png")
SPLIT_NAME = "split"


def choose(columns: Sequence[str], wanted: str | None, usual: Iterable[str], what: str, where: str) -> str:
    """The column called ``wanted``, or the first of the ``usual`` ones, whatever their case.

    Args:
        what: "path", "label" or "image", which is also the option that names it.

    Raises:
        DataError: no such column; lists those there are.
    """
    there = ", ".join(columns) or "none"
    for column in (column for column in columns if columns.count(column) > 1):
        raise DataError(f"has more than one column {column!r}", where=where, remedy="rename or drop one of them")
    if wanted is not None:
        if wanted in columns:
            return wanted
        what_is = f"has no column {wanted!r}; its columns: {there}"
        raise DataError(what_is, where=where, remedy=nearest(wanted, columns))
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    for name in usual:
        if name in by_name:
            return by_name[name]
    raise DataError(
        f"has no column that is known to hold the {what}; its columns: {there}",
        where=where,
        remedy=f"name it with --{what}-column, or call it {' or '.join(list(usual)[:2])}",
    )


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds encoded images: binary, or the struct that Hugging Face writes."""
    if pt.is_struct(kind):
        return any(field.name == "bytes" and is_bytes(field.type) for field in kind)
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def check_labels(kind: pa.DataType, column: str, where: str) -> None:
    """Raises DataError: labels of this type are neither names nor whole numbers."""
    inner = kind.value_type if pt.is_dictionary(kind) else kind
    if not (pt.is_integer(inner) or pt.is_string(inner) or pt.is_large_string(inner) or pt.is_string_view(inner)):
        raise DataError(
            f"column {column!r} holds {kind}, no class names or whole numbers",
            where=where,
            remedy="name another column with --label-column",
        )


def labels_in(texts: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Labels written as text: numbers if every one is a whole number as it is usually written, else names.

    ``007`` is a name then, since ``7`` would be another one. What is empty becomes None.
    """
    texts = pc.utf8_trim_whitespace(texts)
    values = [text or None for text in texts.to_pylist()]
    there = [text for text in values if text is not None]
    if there and bool(pc.all(pc.match_substring_regex(pa.array(there), r"^(0|-?[1-9][0-9]{0,17})$")).as_py()):
        return [None if text is None else int(text) for text in values]
    return values
