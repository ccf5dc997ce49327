"""Storage behind a network fails for a while, and comes back: what is asked of it is asked again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from vitray.data.folder import Folder
from vitray.errors import CheckpointError
from vitray.train.checkpoint_files import STORAGE_ERRORS, reason, shown

READ_S = 120.0  # beyond what the client of the storage itself does
FIRST_S, LONGEST_S = 0.5, 30.0  # between two tries

_T = TypeVar("_T")


def patiently(ask: Callable[[], _T], folder: Folder, *, seconds: float | None = None) -> _T:
    """What ``ask`` returns. Where the folder is not local, failures of storage are tried again for a while.

    Raises:
        CheckpointError: it does not answer for so long.
        STORAGE_ERRORS: a local file system's at once; FileNotFoundError of any.
    """
    until = time.monotonic() + (READ_S if seconds is None else seconds)
    pause = FIRST_S
    while True:
        try:
            return ask()
        except STORAGE_ERRORS as error:
            if folder.on_disk or isinstance(error, FileNotFoundError):
                raise
            if time.monotonic() + pause > until:
                raise StorageAwayError(
                    f"cannot be reached: {reason(error)}",
                    where=shown(folder),
                    remedy="when it is back, go on with --resume",
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_S)


class StorageAwayError(CheckpointError):
    """Nothing is known of the checkpoint: its storage does not answer."""
