"""Storage fails for a while, and comes back: what is asked of it is asked again."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from vitray.data.folder import Folder
from vitray.errors import CheckpointError
from vitray.files import is_full
from vitray.train.checkpoint_files import STORAGE_ERRORS, reason, shown

_FOR_GOOD = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR}  # no wait mends that
READ_S = 120.0  # beyond what the client of the storage itself does
FIRST_S, LONGEST_S = 0.5, 30.0  # between two tries

_T = TypeVar("_T")


def patiently(
    ask: Callable[[], _T],
    folder: Folder,
    *,
    seconds: float | None = None,
    tell: Callable[[str], None] | None = None,
    mounted: bool = False,
) -> _T:
    """What ``ask`` returns. Failures of storage that is not local are tried again for a while; so is a local disk that
    is full, where somebody is told (``tell``, a sentence) to make room. ``mounted``: and so is any failure of a local
    path, behind which NFS may be, or a bucket.

    Raises:
        CheckpointError: it does not answer for so long.
        STORAGE_ERRORS: a local file system's at once, or when it is full for so long; FileNotFoundError of any.
    """
    full = False
    until = time.monotonic() + (READ_S if seconds is None else seconds)
    pause = FIRST_S
    while True:
        try:
            done = ask()
        except STORAGE_ERRORS as error:
            if isinstance(error, FileNotFoundError):
                raise
            late = time.monotonic() + pause > until
            if folder.on_disk:
                wants_room = tell is not None and is_full(error)
                may_pass = mounted and getattr(error, "errno", None) not in _FOR_GOOD
                if late or not (wants_room or may_pass):
                    raise
                if tell is not None and wants_room and not full:
                    tell(f"{shown(folder)}: {reason(error)}; going on when there is room")
                full = full or wants_room
            elif late:
                raise StorageAwayError(
                    f"cannot be reached: {reason(error)}",
                    where=shown(folder),
                    remedy="when it is back, go on with --resume",
                ) from None
        else:
            if full and tell is not None:
                tell(f"{shown(folder)}: there is room again")
            return done
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_S)


class StorageAwayError(CheckpointError):
    """Nothing is known of the checkpoint: its storage does not answer."""
