"""A server that lost a run has lost others: all that was ever sent of the same family is sent again, parents first.

What it still has stays as it is: a run is found by its key, and MLflow drops points that it has. All of them are sent,
since an older backup lacks points also below those that were reported later. The families to bring back are written
down until that is done, so that neither an outage nor a kill in the midst of it loses one.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote, unquote

from vitray.tracking.delivery import Delivery, is_for
from vitray.tracking.finished import REPLAY, compacted, first_record
from vitray.tracking.server import Server
from vitray.tracking.spool import AGAIN, ENDING, Spool

_FOLDER = "lost"


def family(run: str) -> str:
    """What the key of a sweep and those of its trials begin with; any other run is a family of its own."""
    return run.partition("/")[0]


class LostFamilies:
    """Which families a spool folder's server has lost runs of, also for the process after this one.

    A file each, so that what one process has done leaves those that another has found.
    """

    def __init__(self, spool_dir: Path) -> None:
        self._folder = spool_dir / _FOLDER
        self.names: set[str] = set()
        with contextlib.suppress(OSError):
            self.names = {unquote(file.name) for file in self._folder.iterdir()}

    def add(self, name: str) -> None:
        self.names.add(name)
        for _ in range(3):  # another process may tidy the folder away in between
            with contextlib.suppress(OSError):  # a full disk: then only this process knows
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file(name).touch()
                return

    def done(self, name: str) -> None:
        self.names.discard(name)
        with contextlib.suppress(OSError):
            self._file(name).unlink(missing_ok=True)
            self._folder.rmdir()  # unless there are others

    def _file(self, name: str) -> Path:
        return self._folder / quote(name, safe="")


def send_again(
    spool_dir: Path, name: str, server: Server, *, only: str | None = None, but: Collection[str] = ()
) -> int:
    """Send what compacted spools hold of a family, or ``only`` of one run, or of all ``but`` some. Returns how many.

    Raises:
        UnavailableError: the server does not answer.
    """
    found = []
    for file in compacted(spool_dir):
        first = first_record(file)
        run = str(first.get("run", ""))
        wanted = family(run) == name and only in (None, run) and run not in but
        if wanted and is_for(first.get("store"), server.tracking_uri):
            found.append((first.get("timestamp_ms", 0), first.get("parent") is not None, file, run, first))
    sent = 0
    for _, _, file, run, first in sorted(found, key=lambda one: one[:3]):
        if not server.was_deleted(run, str(first["experiment"])):  # by a person, who does not want it back
            sent += _send(spool_dir / f"{file.name.removesuffix(ENDING)}{AGAIN}", file, run, server)
    return sent


def _send(folder: Path, file: Path, run: str, server: Server) -> bool:
    """The compacted file stays: it is what there is to send from, should this one be lost as well."""
    try:
        lines = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error):
        return False  # damaged
    spool = Spool(folder, wait_s=0.0)
    try:
        spool.refill(lines)  # whatever a process left there that was killed
        spool.save_state(REPLAY)
        Delivery(run, spool, server).deliver()
    finally:
        spool.remove()
    return True
