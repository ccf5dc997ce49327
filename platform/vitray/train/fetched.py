"""A checkpoint's model on this machine, wherever the checkpoint lies."""

from __future__ import annotations

from pathlib import Path

from vitray.tracking.packages import fetch_package
from vitray.train.checkpoint import Saved


def fetched(saved: Saved, cache: Path) -> Path:
    """The package folder: the checkpoint's own where it is local, else a copy below ``cache``, which is made once.

    Raises:
        DataError: it cannot be read.
    """
    return Path(saved) if saved.folder.on_disk else fetch_package(saved.folder, saved.name, cache)
