"""A dataset where nothing can be renamed: a marker first, then the shards, the manifest last.

A folder with a manifest is a whole dataset at any moment. One with the marker and no manifest was never finished: the
next preparation empties it and begins again.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitray.data.folder import STAGING, Folder, foreign
from vitray.data.manifest import MANIFEST, MARKER
from vitray.errors import DataError

_CHECK_S = 5.0
_THREADS = 16  # that wait for a server


class Publication:
    """The making of a dataset in ``folder``, whose earlier dataset or attempt is removed at once.

    Args:
        folder: what it holds was found to be vitray's.
        shown: its name in errors.

    Raises:
        DataError: another process of this machine is preparing into this folder.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Folder, shown: str) -> None:
        self._folder, self._shown, self._id = folder, shown, secrets.token_hex(8)
        maker = _marker(folder)
        here, pid = socket.gethostname(), maker.get("pid")
        born = _birth(pid) if maker.get("host") == here and pid != os.getpid() else None
        if born is not None and born == maker.get("born"):
            raise DataError(
                f"process {pid} is preparing into this folder", where=shown, remedy="wait for it, or choose another"
            )
        ours = {"id": self._id, "host": here, "pid": os.getpid(), "born": _birth(os.getpid())}
        folder.make()
        folder.put(MARKER, json.dumps(ours).encode())
        self._checked = time.monotonic()
        _empty(folder)

    def still_ours(self, *, now: bool = False) -> None:
        """Look, every few seconds or ``now``, whether another machine began to prepare into this folder.

        Raises:
            DataError: it did; what this one would write on would damage the other's work.
        """
        if now or time.monotonic() - self._checked > _CHECK_S:
            if not self._owned():
                raise DataError(
                    "another preparation took this folder over", where=self._shown, remedy="let only one write there"
                )
            self._checked = time.monotonic()

    def commit(self, manifest: bytes) -> None:
        """Make it a dataset. Raises DataError as :meth:`still_ours`, OSError where it cannot be written."""
        self.still_ours(now=True)
        self._folder.remove_tree(STAGING)
        self._folder.put(MANIFEST, manifest)
        self._folder.remove(MARKER)

    def withdraw(self, *, tasks_may_run: bool) -> None:
        """Remove what was written; where tasks may still write, the marker stays and tells what theirs is."""
        with suppress(OSError):  # the reason for withdrawing is the better message
            if self._owned():
                _empty(self._folder)
                if not tasks_may_run:
                    self._folder.remove(MARKER)

    def _owned(self) -> bool:
        return _marker(self._folder).get("id") == self._id


def _marker(folder: Folder) -> dict[str, Any]:
    try:
        marker = json.loads(folder.read(MARKER) or b"{}")
    except ValueError:  # cut off while it was written
        return {}
    return marker if isinstance(marker, dict) else {}


def _birth(pid: object) -> str | None:
    """When a process of this machine started, which tells it from a later one of its number; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _empty(folder: Folder) -> None:
    """Remove all but the marker; the manifest first, so that what is half gone is no dataset."""
    folder.remove(MANIFEST)
    files = folder.files()
    strangers = set(foreign(files))
    folder.remove_tree(STAGING)
    ours = [name for name in files if name not in strangers and name != MARKER and not name.startswith(f"{STAGING}/")]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(folder.remove, ours))
