"""Printing: data on stdout as a table or JSON, all else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def output_option(command: Command) -> Command:
    """``--output table|json`` for a command that prints data; the value arrives as ``output``."""
    return click.option(
        "--output", type=click.Choice(["table", "json"]), default="table", help="JSON goes alone to stdout."
    )(command)


def emit(data: Any, output: str, *, table: Callable[[], str]) -> None:
    """Print ``data`` as JSON, or what ``table()`` makes of it."""
    text = json.dumps(data, indent=2, default=str) if output == "json" else table()
    sys.stdout.write(text.rstrip("\n") + "\n")


def note(text: str) -> None:
    """A line for the person at the terminal; never on stdout."""
    sys.stderr.write(text + "\n")


def grid(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """A plain aligned table: readable in a terminal, a log and a pipe alike."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    return "\n".join([line(list(headers)), line(["-" * w for w in widths]), *map(line, cells)])


def age(when: float) -> str:
    """How long ago a Unix time was, in one unit."""
    seconds = max(0.0, time.time() - when)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
