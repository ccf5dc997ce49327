"""Reading a checkpoint: every byte is checked against the commit record before one of them is used."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from vitray.data.folder import Folder
from vitray.errors import CheckpointError
from vitray.train.checkpoint_commit import read_commit
from vitray.train.checkpoint_files import STORAGE_ERRORS, get, reason, shown
from vitray.train.checkpoint_names import Name
from vitray.train.patience import patiently
from vitray.train.progress import STATE, Progress

Files = dict[str, torch.Tensor]


class UnreadableError(CheckpointError):
    """Its storage fails, for as long as was waited for it. What it holds may be whole."""


def read_files(folder: Folder, name: Name, wanted: Callable[[str], bool] = lambda file: True) -> Files:
    """The bytes of its files, uint8 (N,) each, as they were written.

    Raises:
        CheckpointError: one is missing or is not as it was written; or storage does not answer, which is told apart by
            ``remedy``.
    """
    try:
        commit = patiently(lambda: read_commit(folder, name), folder, mounted=True)
    except STORAGE_ERRORS as error:
        raise UnreadableError(f"cannot be read: {reason(error)}", where=f"{shown(folder)}/{name.text}") from None
    files = {}
    for file, expected in commit.files.items():
        if wanted(file):
            files[file] = _read(folder, f"{name.text}/{file}", expected.sha256)
    return files


def _read(folder: Folder, path: str, expected: str) -> torch.Tensor:
    where = f"{shown(folder)}/{path}"
    try:
        data, found = patiently(lambda: get(folder, path), folder, mounted=True)
    except FileNotFoundError:
        raise CheckpointError("is missing", where=where) from None
    except STORAGE_ERRORS as error:
        if folder.on_disk or getattr(error, "errno", None) == errno.EIO:
            raise UnreadableError(f"cannot be read: {reason(error)}", where=where) from None
        raise
    if found.sha256 != expected:
        raise CheckpointError("is damaged: its bytes are not those that were written", where=where)
    return data


def progress_in(files: Mapping[str, torch.Tensor]) -> Progress:
    return Progress.from_json(_json(files[STATE]))


def read_progress(folder: Folder, name: Name) -> Progress:
    """Where a checkpoint stands, without its weights. Errors as :func:`read_files`."""
    return progress_in(read_files(folder, name, lambda file: file == STATE))


def _json(data: torch.Tensor) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data.numpy().tobytes())
    return found
