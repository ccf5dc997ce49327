"""A folder that appears whole or not at all: built beside its destination, then renamed into place."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitray.data.manifest import MANIFEST, QUARANTINE, SPLITS
from vitray.errors import DataError

_OURS = {MANIFEST, QUARANTINE, *SPLITS}


def check_destination(dest: str | Path, *, source: str, overwrite: bool) -> Path:
    """The absolute path of ``dest``, when a dataset made from ``source`` may be put there.

    Raises:
        DataError: not local, a file, one inside the other, or a folder in use. With ``overwrite`` a dataset gives way
            to a new one, but a folder that holds anything else never does: it may be somebody's home.
    """
    text = str(dest)
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise DataError("is not a local folder", where=text, remedy="prepare into a local folder, then copy it there")
    target = Path(text).expanduser().resolve()
    inside = target.is_relative_to(source) or Path(source).is_relative_to(target)
    if inside and Path(source).is_dir():
        raise DataError(f"lies inside or around its source {source}", where=text, remedy="choose a folder elsewhere")
    if target.exists() and not target.is_dir():
        raise DataError("is a file", where=text, remedy="name a folder that does not exist yet")
    names = {entry.name for entry in target.iterdir()} if target.exists() else set()
    if MANIFEST in names and names <= _OURS:
        if not overwrite:
            raise DataError(
                "holds a dataset already", where=text, remedy="choose another folder, or replace it with --overwrite"
            )
    elif names:
        stranger = min(names - _OURS, default=min(names))
        kind = "holds a dataset and other files, too" if MANIFEST in names else "is not empty and no finished dataset"
        raise DataError(
            f"{kind} (for one, {stranger!r})", where=text, remedy="choose another folder, or empty this one yourself"
        )
    return target


@contextmanager
def building(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder beside ``target``; it becomes ``target`` when the block ends, and vanishes when the block raises.

    What a killed process left behind is swept by the next one: its lock is gone, while a running one's is held.

    Raises:
        OSError: the folder cannot be made or renamed.
        DataError: ``target`` is no longer free.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.preparing-"
    guard = _hold(target.parent)  # nobody sweeps between the making of a folder and its lock
    try:
        for left in target.parent.glob(glob.escape(prefix) + "*"):
            _sweep(left)
        folder = target.parent / f"{prefix}{secrets.token_hex(4)}"
        folder.mkdir()
        lock = _hold(folder)
    finally:
        os.close(guard)
    try:
        yield folder
        old = target.parent / f"{prefix}{secrets.token_hex(4)}"
        if overwrite and target.exists():
            target.rename(old)
        try:
            folder.rename(target)
        except OSError as error:
            if old.exists():
                old.rename(target)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise DataError(
                "was filled by somebody else meanwhile", where=str(target), remedy="look at what is there now"
            ) from None
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # gone already when all went well
        os.close(lock)


def _hold(folder: Path) -> int:
    """An open, locked descriptor of ``folder``; a file system without locks loses only the sweeping."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _sweep(left: Path) -> None:
    with suppress(OSError):  # no locks here, or not ours to remove
        lock = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
        except BlockingIOError:
            pass  # its maker is alive
        finally:
            os.close(lock)
