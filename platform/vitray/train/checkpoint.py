"""Checkpoints that are whole or not there: files first, each with a checksum, and a commit record last.

A checkpoint is a folder and also a model package (:mod:`vitray.models.package`), so that ``vitray evaluate`` reads it
as it is. :mod:`vitray.train.checkpoint_names` says which of them count, :mod:`vitray.train.checkpoint_commit` which are
whole. A folder without a commit record is debris of a writer that died, and the next save removes it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitray.data.folder import Folder
from vitray.errors import CheckpointError
from vitray.models.package import INFO, WEIGHTS, PackageInfo, package_json
from vitray.train import retention
from vitray.train.checkpoint_attempt import Attempts, SupersededError
from vitray.train.checkpoint_commit import Commit, read_commit
from vitray.train.checkpoint_files import (
    STORAGE_ERRORS,
    Written,
    check_room,
    make,
    not_saved,
    put,
    reason,
    remove,
    settle,
    shown,
)
from vitray.train.checkpoint_names import COMMIT, History, Name
from vitray.train.checkpoint_place import opened
from vitray.train.checkpoint_read import Files, progress_in, read_files, read_progress
from vitray.train.checkpoint_saved import Saved
from vitray.train.checkpoint_state import TrainState, load_state, tensors_of_state
from vitray.train.checkpoint_writer import CheckpointWriter, Job
from vitray.train.patience import patiently
from vitray.train.progress import STATE, Progress
from vitray.train.ranks import Ranks
from vitray.train.snapshot import Snapshot

__all__ = ["CheckpointStore", "Progress", "Saved", "SupersededError", "TrainState", "committed_in", "verify"]

PATIENCE_S = 600.0  # of a run that has come to its end, for room for its last checkpoint
LEAVING_S = 20.0  # of one that has to go soon
_SMALL = 64 * 2**10  # bytes of the files that are no tensors, for a look at what room there is


@dataclass(frozen=True)
class Cost:
    """What the newest save took: seconds of the training's, those until it was committed, and of a core's."""

    stall_s: float
    write_s: float
    cpu_s: float


class CheckpointStore:
    """The checkpoints of one run. One thread writes, so that training goes on meanwhile.

    Args:
        place: a local folder, a URI, or an opened folder.
        keep_last, keep_best: how many stay.
        attempt: the number that the driver has given to this attempt, above those before; None: the next one.
        tell: says a sentence to people.
    """

    def __init__(
        self,
        place: Path | str | Folder,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        attempt: int | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder = opened(place)
        self._keep_last, self._keep_best, self._tell = keep_last, keep_best, tell
        self._attempts = Attempts(self.folder, attempt, tell)
        self._saves = 0
        self._scores: dict[str, float | None] = {}
        self._snapshot = Snapshot()
        self._writer = CheckpointWriter(tell)
        self._stall_s = 0.0

    @property
    def restored(self) -> Saved | None:
        """What this attempt goes on from; known to the first rank."""
        found = self._attempts.goes_on_from
        return None if found is None else Saved(self.folder, found)

    # Going on

    def begin(self, state: TrainState, ranks: Ranks | None = None) -> Progress:
        """Begin an attempt on all ranks: load the newest checkpoint that is whole, and rule out what older attempts
        may yet save past it.

        The first rank chooses, reads and checks; the others get from it what it has read. A damaged one is passed over,
        which is said.

        Raises:
            CheckpointError: it belongs to another model, storage does not answer, or a newer attempt has begun: on all
                ranks.
        """
        ranks = ranks or Ranks()
        files: Files = {}
        told: dict[str, Any] = {}
        if ranks.first:
            try:
                files = self._attempts.begin()
                told = {"files": {file: data.numel() for file, data in files.items()}}
            except CheckpointError as error:
                told = {"error": [error.what, error.where, error.remedy]}
            except STORAGE_ERRORS as error:
                told = {"error": [f"cannot be used: {reason(error)}", shown(self.folder), "make room, or mend it"]}
        told = json.loads(ranks.tell(json.dumps(told)))
        if "error" in told:
            what, where, remedy = told["error"]
            raise CheckpointError(what, where=where, remedy=remedy)
        for file, size in told["files"].items():
            data = files.setdefault(file, torch.empty(size if not ranks.first else 0, dtype=torch.uint8))
            ranks.share(data)
        if not files:
            return Progress()
        load_state(state, files, shown(self.folder))
        return progress_in(files)

    def restore(self, state: TrainState) -> Progress:
        """Load the newest checkpoint that is whole, and begin no attempt. Errors as :meth:`begin`."""
        found = self._attempts.newest_whole(self.history())
        if found is None:
            return Progress()
        load_state(state, found[1], shown(self.folder))
        return progress_in(found[1])

    # Saving

    @property
    def busy(self) -> bool:
        """Whether a save would have to wait for the one before."""
        return self._writer.busy

    @property
    def cost(self) -> Cost | None:
        """Of the newest save that is committed; None before the first."""
        written = self._writer.took_s
        return Cost(self._stall_s, written, self._writer.cpu_s) if written else None

    def save(self, state: TrainState, progress: Progress, info: PackageInfo) -> Saved:
        """Begin a checkpoint of ``progress.step`` from a copy of the weights, and return what it will be.

        The one before is waited for, unless it has failed: then this takes its place. Once it is committed, others go,
        except the newest and the best.

        Raises:
            SupersededError: a newer attempt has begun. By this call or a later one.
        """
        began = time.monotonic()
        self._writer.ready()
        attempt = self._attempts.current or self._attempts.unbegun()
        self._saves += 1
        name = Name.of(progress.step, attempt, self._saves)
        self._snapshot.take(tensors_of_state(state), state.optimizer)
        small = {STATE: json.dumps(progress.as_json(), indent=1).encode()}
        self._writer.submit(
            Job(
                lambda: self._write(name, progress, small, info),
                lambda error: not_saved(self.folder, progress.step, error, self._needed),
            )
        )
        self._stall_s = time.monotonic() - began
        return Saved(self.folder, name)

    def wait(self, patience_s: float = PATIENCE_S) -> None:
        """Return when the newest save is committed.

        Raises:
            CheckpointError: it cannot be, for so long.
        """
        self._writer.wait(patience_s)

    def close(self) -> None:
        """Finish what is being written and end the thread."""
        self._writer.close()

    @property
    def _needed(self) -> int:
        return self._snapshot.size + _SMALL

    def _write(self, name: Name, progress: Progress, small: dict[str, bytes], info: PackageInfo) -> None:
        self._snapshot.arrived()
        try:
            make(self.folder)
            check_room(self.folder, self._needed)
            self._attempts.check_newest(History.of(self.folder))
            make(self.folder, name.text)
            written: dict[str, Written] = {}
            for file, tensors in self._snapshot.files.items():
                written[file] = put(self.folder, f"{name.text}/{file}", tensors.view)
            small = {**small, INFO: package_json(info, written[WEIGHTS].sha256).encode()}
            for file, data in small.items():
                written[file] = put(self.folder, f"{name.text}/{file}", data)
            settle(self.folder, name.text, "")
            put(self.folder, f"{name.text}/{COMMIT}", Commit(written, progress.score).encode())
            settle(self.folder, name.text)
        except STORAGE_ERRORS:
            with contextlib.suppress(*STORAGE_ERRORS):
                remove(self.folder, name.text, COMMIT)  # half of it takes room
            raise
        self._scores[name.text] = progress.score
        with contextlib.suppress(*STORAGE_ERRORS):  # what stays goes after the next save
            self._prune(name, progress)

    def _prune(self, saved: Name, progress: Progress) -> None:
        history = History.of(self.folder)
        self._attempts.check_newest(history)
        stays = retention.kept(
            history.committed, saved, progress.best_step, self._score, last=self._keep_last, best=self._keep_best
        )
        gone = [name for name in history.committed if name not in stays and name.attempt <= saved.attempt]
        for name in (*gone, *retention.leftovers(history, saved)):
            remove(self.folder, name.text, COMMIT)  # the record first, so that nobody takes a half-removed one
            self._scores.pop(name.text, None)
        for staged in history.staged:
            remove(self.folder, staged)
        for mark in history.spent:
            self.folder.remove(mark)

    def _score(self, name: Name) -> float | None:
        if self._keep_best == 1:
            return None  # the run says itself which is its best
        if name.text not in self._scores:
            try:
                self._scores[name.text] = read_commit(self.folder, name).score
            except CheckpointError:
                self._scores[name.text] = None
        return self._scores[name.text]

    # Looking

    def history(self) -> History:
        """What lies there now; raises StorageAwayError where that does not answer for long."""
        return patiently(lambda: History.of(self.folder), self.folder)

    def committed(self) -> list[Saved]:
        """Those that count, newest first."""
        return [Saved(self.folder, name) for name in self.history().committed]

    def newest(self) -> Saved | None:
        return next(iter(self.committed()), None)

    def best(self) -> Saved | None:
        """The checkpoint of the best validation score so far; the newest where nothing was validated."""
        committed = self.committed()
        if not committed:
            return None
        best_step = read_progress(self.folder, committed[0].at).best_step
        return next((saved for saved in committed if saved.step == best_step), committed[0])


def latest_attempt(place: Path | str | Folder) -> int:
    """The greatest number that an attempt at a run has had; 0 before the first. What a driver gives out is above it.

    Raises:
        CheckpointError: storage does not answer.
    """
    return CheckpointStore(place).history().latest


def committed_in(place: Path | str | Folder) -> list[Saved]:
    """Committed checkpoints of a run that perhaps goes on, newest first."""
    return CheckpointStore(place).committed()


def verify(saved: Saved | Path) -> Progress:
    """Check every file against the commit record before a weight is loaded.

    Raises:
        CheckpointError: names the file that is missing or whose bytes are not those that were written.
    """
    if isinstance(saved, Path):
        name = Name.read(saved.name)
        if name is None:
            raise CheckpointError("is no checkpoint", where=str(saved))
        saved = Saved(Folder.local(saved.parent), name)
    return progress_in(read_files(saved.folder, saved.at))
