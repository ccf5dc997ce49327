"""Patterns of file names: ``train-{000..009}.tar``, ``{a,b}-*.tar``."""

from __future__ import annotations

import fnmatch
import re
from itertools import product

from vitray.data.sources.files import Files
from vitray.errors import DataError

_GROUP = re.compile(r"\{([^{}]*)\}")
_MOST = 1_000_000


def is_pattern(text: str) -> bool:
    return any(mark in text for mark in "{*?[")


def expand(pattern: str) -> list[str]:
    """Every text that the braces of ``pattern`` stand for, in order; ``{1..3}`` counts, ``{01..03}`` with zeros.

    Raises:
        DataError: braces that are neither a range nor a list, or stand for more than a million names.
    """
    pieces = _GROUP.split(pattern)  # text and inside of braces in turn
    choices, count = [], 1
    for number, piece in enumerate(pieces):
        choices.append(_choices(piece, pattern) if number % 2 else [piece])
        count *= len(choices[-1])
        if count > _MOST or (number % 2 == 0 and ("{" in piece or "}" in piece)):
            raise DataError("has braces that cannot be expanded", where=pattern, remedy="write {000..009} or {a,b}")
    return ["".join(parts) for parts in product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    span = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", inside, re.ASCII)
    if span is None:
        if "," in inside:
            return inside.split(",")
        raise DataError(f"cannot expand {{{inside}}}", where=pattern, remedy="write {000..009} or {a,b}")
    first, last = int(span[1]), int(span[2])
    if not first <= last < first + _MOST:
        raise DataError(f"cannot expand {{{inside}}}", where=pattern, remedy="count upwards, to a million at most")
    zeros = len(span[1]) if span[1].startswith("0") or len(span[1]) == len(span[2]) else 0
    return [f"{number:0{zeros}d}" for number in range(first, last + 1)]


def matches(folder: Files, pattern: str) -> list[str]:
    """Files of ``folder`` that a pattern of their names (braces, ``*``, ``?``, ``[...]``) stands for, in order.

    Raises:
        DataError: none of them, or one that the braces name is not there.
    """
    names = folder.entries()[1]
    there = set(names)
    found: dict[str, None] = {}
    for name in expand(pattern):
        hits = [name] if name in there else fnmatch.filter(names, name)
        if not hits:
            raise DataError("there is no such file", where=folder.show(name), remedy="check the pattern")
        found |= dict.fromkeys(hits)
    return list(found)
