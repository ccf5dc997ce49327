"""Small files that are whole or as they were, whenever the process is killed and however full the disk is."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_AGAIN_S = 0.5
T = TypeVar("T")
log = logging.getLogger("vitray")


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that whoever reads it, also after a kill in the midst of this, finds all of it or what was
    there before. The folder must exist.

    It survives the death of the process, not a power cut.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def is_full(error: BaseException) -> bool:
    """Whether a disk, or what a person may have of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def when_there_is_room(write: Callable[[], T], where: Path, needed: int) -> T:
    """What ``write`` returns. While the disk is full it is tried again; a person hears of it once, and when it is over.

    For what must be written before anything follows from it. ``needed``: bytes, to be told.
    """
    waited = False
    while True:
        try:
            done = write()
        except OSError as error:
            if not is_full(error):
                raise
            if not waited:
                log.warning("%s: the disk is full, and %d bytes are needed; waiting until there is room", where, needed)
            waited = True
            time.sleep(_AGAIN_S)
        else:
            if waited:
                log.warning("%s: there is room again", where)
            return done
