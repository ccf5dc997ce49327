"""The compressed spools of runs that are over and delivered: found, read, laid out again, and forgotten."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

from vitray.tracking.spool import ENDING, FINISHED, Spool, decode

LIMIT = 20_000  # files, a few kB each; the oldest go
REPLAY = {"replay": True}  # the state of a spool that holds all of its run: no step passes for old in it


def compacted(root: Path) -> list[Path]:
    """The files of compacted spools under ``root``, the oldest first."""
    return sorted((root / FINISHED).glob(f"*{ENDING}"), key=lambda path: (path.stat().st_mtime, path.name))


def first_record(file: Path) -> dict[str, Any]:
    """What a compacted spool begins with: its run's start. Empty where the file is damaged."""
    try:
        with gzip.open(file, "rb") as lines:
            return decode(lines.readline().rstrip(b"\n")) or {}
    except (OSError, EOFError, zlib.error):
        return {}


def unpack(file: Path) -> Path | None:
    """Lay a compacted spool out again, as if nothing of it had been delivered. Its folder; None if it has a newer one.

    Raises:
        OSError, EOFError: the file is damaged, or the folder cannot be written.
        TrackingError: a process is reporting to the run.
    """
    lines = gzip.decompress(file.read_bytes())
    spool = Spool(file.parent.parent / file.name.removesuffix(ENDING), wait_s=0.0)
    try:
        if spool.size:
            return None
        spool.refill(lines)
        try:
            spool.save_state(REPLAY)
        except OSError:
            spool.refill(b"")  # all of it is in the compacted file still
            raise
        file.unlink()
        return spool.folder
    finally:
        spool.close()


def forget_oldest(root: Path, limit: int = LIMIT) -> None:
    """Delete all but the newest ``limit`` compacted spools."""
    for file in compacted(root)[:-limit]:
        file.unlink(missing_ok=True)
