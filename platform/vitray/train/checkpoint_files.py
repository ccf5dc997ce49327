"""A checkpoint's files, on any file system that pyarrow knows: written and read in one pass, with their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch

from vitray.data.folder import Folder, why
from vitray.errors import CheckpointError
from vitray.files import is_full
from vitray.masking import public

# A write or a hash of so many bytes runs without Python's lock; between them it is held for microseconds.
_CHUNK = 4 * 2**20
STORAGE_ERRORS = (OSError, pa.ArrowException)  # pyarrow's own are not all OSErrors


@dataclass(frozen=True)
class Written:
    """What a commit record keeps of a file."""

    sha256: str
    bytes: int


class _Sink(Protocol):
    def write(self, part: memoryview, /) -> Any: ...


def put(folder: Folder, name: str, data: memoryview | bytes) -> Written:
    """Write a file anew, durably on a local file system; its checksum is taken on the way. Raises STORAGE_ERRORS."""
    view, digest = memoryview(data), hashlib.sha256()
    with _created(folder, name) as file:
        for start in range(0, len(view), _CHUNK):
            part = view[start : start + _CHUNK]
            file.write(part)
            digest.update(part)
    return Written(digest.hexdigest(), len(view))


@contextmanager
def _created(folder: Folder, name: str) -> Iterator[_Sink]:
    if not folder.on_disk:
        # What breaks off here may be closed, and so completed, as it is: there is no commit record for it yet.
        with folder.filesystem.open_output_stream(f"{folder.base}/{name}") as stream:
            yield stream
        return
    with Path(folder.base, name).open("wb", buffering=0) as file:
        yield _Whole(file)
        os.fsync(file.fileno())


class _Whole:
    """Writes all of what it is given; a raw file may take a part of it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, part: memoryview) -> None:
        while len(part):
            part = part[self._file.write(part) :]


def make(folder: Folder, name: str = "") -> None:
    """Make a folder, where that means anything. Raises OSError."""
    if folder.on_disk:
        Path(folder.base, name).mkdir(parents=True, exist_ok=True)


def settle(folder: Folder, *names: str) -> None:
    """Make the entries of some of its folders (``""``: its own) durable. Raises OSError."""
    if folder.on_disk:
        for name in names:
            descriptor = os.open(f"{folder.base}/{name}", os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def get(folder: Folder, name: str) -> tuple[torch.Tensor, Written]:
    """The bytes of a file, uint8 (N,), and what they are. Raises STORAGE_ERRORS."""
    digest = hashlib.sha256()
    with folder.filesystem.open_input_file(f"{folder.base}/{name}") as file:
        data = torch.empty(file.size(), dtype=torch.uint8)
        view = data.numpy().data
        at = 0
        while at < len(view):
            read = file.readinto(view[at : at + _CHUNK])
            if not read:
                raise OSError(errno.EIO, "ends before its end", name)
            digest.update(view[at : at + read])
            at += read
    return data, Written(digest.hexdigest(), len(view))


def remove(folder: Folder, name: str, *first: str) -> None:
    """Remove a folder and all in it, of its files ``first`` before the others. Raises STORAGE_ERRORS."""
    for file in first:
        folder.remove(f"{name}/{file}")
    # In one go: an object store would keep an empty object for a folder whose files are removed one by one.
    folder.remove_tree(name)


def shown(folder: Folder) -> str:
    """Its name for people; for a place that is not local, without what pyarrow keeps to itself."""
    return folder.base if folder.on_disk else public(f"{folder.filesystem.type_name}://{folder.base}")


def reason(error: BaseException) -> str:
    """Why storage failed, in a few words."""
    if isinstance(error, OSError):
        return why(error)
    return public(str(error).partition("\n")[0]) or type(error).__name__


def check_room(folder: Folder, needed: int) -> None:
    """Raise OSError where a local file system has no room for ``needed`` bytes: to fill it would harm others, too."""
    if folder.on_disk and room(folder) < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder.base)


def room(folder: Folder) -> int:
    """Bytes that may yet be written to a local folder."""
    there = os.statvfs(folder.base)
    return there.f_bavail * there.f_frsize


def not_saved(folder: Folder, step: int, error: BaseException, needed: int) -> CheckpointError:
    """What is said of a checkpoint that cannot be saved: where, why, and how much room it takes."""
    what = f"the checkpoint of step {step} cannot be saved: {reason(error)}"
    if folder.on_disk:
        with contextlib.suppress(OSError):
            what += f"; it needs {_mb(needed)}, {_mb(room(folder))} are free"
    remedy = "make room there" if is_full(error) else "check that it can be reached and written"
    return CheckpointError(what, where=shown(folder), remedy=remedy)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
