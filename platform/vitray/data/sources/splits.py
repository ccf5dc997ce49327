"""Which names mean train, val and test."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vitray.errors import DataError

ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
KNOWN = ", ".join(ALIASES)


def split_named(name: str) -> str | None:
    """train, val or test; None when ``name`` means none of them."""
    return ALIASES.get(name.strip().lower())


def all_are_splits(names: Sequence[str]) -> bool:
    return bool(names) and all(split_named(name) for name in names)


def split_of_file(path: str, where: str) -> str:
    """The split of a file such as ``train-00000-of-00005.parquet``, or ``validation/0003.tar``.

    Raises:
        DataError: neither its name nor a folder it lies in says one.
    """
    *folders, file = path.split("/")
    for name in (re.split(r"[-_.]", file)[0], *reversed(folders)):
        if split := split_named(name):
            return split
    raise DataError(
        "does not say whether it is train, val or test, neither by its name nor by its folder",
        where=where,
        remedy=f"begin its name with one of {KNOWN}, or leave out --splits folders",
    )
