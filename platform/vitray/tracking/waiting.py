"""What waits in a spool folder, and bringing it to the server by hand: ``vitray track``.

Looking takes no lock and needs no MLflow.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitray.errors import ConfigError, TrackingError, nearest
from vitray.masking import masked
from vitray.tracking.finished import compacted, first_record, unpack
from vitray.tracking.spool import FINISHED, decode, leftovers


@dataclass(frozen=True)
class Waiting:
    """One run's spool. ``records`` were taken in all, ``waiting`` of them the server does not have.

    ``store``: the MLflow address it is meant for, without credentials; None where an earlier vitray took it.
    ``since_ms``: Unix time of the first that waits. ``held``: a living process has the file, and delivers it itself.
    ``ended``: the run has said that it is over; otherwise it goes on, or its process was killed.
    """

    run: str
    name: str
    experiment: str
    store: str | None
    folder: Path
    records: int
    waiting: int
    bytes: int
    since_ms: int | None
    held: bool
    ended: bool

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "folder": str(self.folder)}


@dataclass(frozen=True)
class SpoolFolder:
    """All that lies in a spool folder. ``refused``: reports that MLflow will never take, kept in ``refused.jsonl``."""

    folder: Path
    runs: tuple[Waiting, ...]
    refused: int
    finished: int
    finished_bytes: int

    @classmethod
    def look(cls, folder: Path) -> SpoolFolder:
        """What is there now; nothing where there is no such folder."""
        refused = folder / "refused.jsonl"
        files = compacted(folder)
        return cls(
            folder,
            tuple(found for path in leftovers(folder) if (found := _look(path)) is not None),
            len(refused.read_bytes().splitlines()) if refused.is_file() else 0,
            len(files),
            sum(path.stat().st_size for path in files),
        )


@dataclass(frozen=True)
class Synced:
    """What :func:`sync` came to: how many runs were delivered whole, which wait for their own process or are meant for
    another store, and why it stopped where it did (None when nothing stopped it)."""

    delivered: int
    held: tuple[str, ...]
    elsewhere: tuple[tuple[str, str], ...]  # run, store
    obstacle: str | None = None


def sync(
    tracking_uri: str, spool_dir: Path, artifact_root: Path, *, here: bool = False, again: Sequence[str] | None = None
) -> Synced:
    """Deliver everything that waits for the store at ``tracking_uri``, and say what is left.

    Args:
        here: also what was taken for another store.
        again: runs that were delivered before, and that the server has lost since; an empty list means all of them.
            What it still has it does not take twice.

    Raises:
        ConfigError: ``again`` names a run that is not kept.
        TrackingError: the store does not let us in.
    """
    from vitray.tracking.delivery import finish, take_over
    from vitray.tracking.mlflow_client import brief
    from vitray.tracking.server import Server, UnavailableError

    if again is not None:
        _bring_back(spool_dir, again, None if here else tracking_uri)
    server = Server(tracking_uri, artifact_root)
    delivered, held, elsewhere, obstacle = 0, [], [], None
    for folder in leftovers(spool_dir):
        found = _look(folder)
        if found is None:
            continue
        try:
            delivery = take_over(folder, server, anywhere=here)
        except TrackingError:
            held.append(found.run)
            continue
        if delivery is None:
            elsewhere.append((found.run, found.store or "?"))
            continue
        try:
            had = delivery.pending
            delivery.deliver()
            delivered += had
        except UnavailableError as error:
            obstacle = masked(brief(error))
        if delivery.finished:
            finish(delivery)
        else:
            delivery.spool.close()
        if obstacle:
            break  # the others would wait for the same answer
    return Synced(delivered, tuple(held), tuple(elsewhere), obstacle)


def _bring_back(spool_dir: Path, runs: Sequence[str], tracking_uri: str | None) -> None:
    """Lay out the compacted spools of ``runs`` (all, where none is named) that are of this store, if one is given."""
    from vitray.tracking.delivery import is_for

    kept = {str(first["run"]): file for file in compacted(spool_dir) if "run" in (first := first_record(file))}
    if unknown := [run for run in runs if run not in kept]:
        raise ConfigError(
            f"the reports of run {unknown[0]!r} are not kept",
            where=str(spool_dir / FINISHED),
            remedy=nearest(unknown[0], kept) + "; or ALL",
        )
    for run in runs or kept:
        if tracking_uri is None or is_for(first_record(kept[run]).get("store"), tracking_uri):
            with contextlib.suppress(OSError, EOFError, TrackingError):  # damaged, or in use: the others are not
                unpack(kept[run])


def _look(folder: Path) -> Waiting | None:
    """A spool as its files say; None for one that has vanished or says nothing."""
    try:
        offset = int(json.loads((folder / "state.json").read_text()).get("offset", 0))
    except (OSError, ValueError, AttributeError):
        offset = 0
    start: dict[str, Any] = {}
    records = waiting = position = 0
    since, ended = None, False
    try:
        file = (folder / "log.jsonl").open("rb")
    except OSError:
        return None
    with file:
        for line in file:
            position += len(line)
            content = decode(line[:-1]) if line.endswith(b"\n") else None
            if content is None:
                continue
            records += 1
            if content["kind"] == "start":
                start, ended = {**start, **content}, bool(content.get("late"))
            ended = ended or content["kind"] == "end"
            if position > offset:
                waiting += 1
                since = since or content.get("timestamp_ms")
        held = _is_held(file.fileno())
    if "run" not in start:
        return None
    return Waiting(
        run=start["run"],
        name=start["name"],
        experiment=start["experiment"],
        store=start.get("store"),
        folder=folder,
        records=records,
        waiting=waiting,
        bytes=position,
        since_ms=since,
        held=held,
        ended=ended,
    )


def _is_held(descriptor: int) -> bool:
    """Whether a process has the file locked. Shared, and let go at once, so that nobody is kept out by the question."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
