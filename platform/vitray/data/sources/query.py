"""Options behind the name of a built-in source: ``name?key=value&key=value``."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qsl

from vitray.errors import DataError, nearest


def parse_query(spec: str, known: Iterable[str]) -> dict[str, str]:
    """The options in ``spec``. Raises DataError: one unknown, twice or without a value, or what is no query."""
    query = spec.partition("?")[2]
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise DataError("what follows the '?' is not key=value&key=value", where=spec, remedy=_listed(known)) from None
    options: dict[str, str] = {}
    for key, value in pairs:
        if key not in known:
            raise DataError(f"has no option {key!r}", where=spec, remedy=nearest(key, known))
        if key in options or not value:
            how = "twice" if key in options else "no value"
            raise DataError(f"gives {key} {how}", where=spec, remedy="give it one value")
        options[key] = value
    return options


def _listed(known: Iterable[str]) -> str:
    return f"options: {', '.join(known)}"


def positive(spec: str, key: str, text: str) -> int:
    """``text`` as a whole number above 0. Raises DataError."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1 or len(text) > 12:
        raise DataError(f"{key} must be a whole number above 0, not {text!r}", where=spec, remedy=f"for one, {key}=100")
    return int(text)
