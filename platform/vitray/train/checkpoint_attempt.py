"""The beginning of an attempt at a run, on its first rank: what it goes on from, and that nobody else does."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable

from vitray.data.folder import Folder
from vitray.errors import CheckpointError
from vitray.models.package import INFO
from vitray.train.checkpoint_files import make, put, settle, shown
from vitray.train.checkpoint_names import Attempt, History, Name
from vitray.train.checkpoint_read import Files, UnreadableError, read_files
from vitray.train.patience import StorageAwayError, patiently

log = logging.getLogger(__name__)


class SupersededError(CheckpointError):
    """Another attempt at the same run has begun: this one must not go on."""


class Attempts:
    """Those at the run whose checkpoints lie in ``folder``; ``current`` is this process's, once it has begun.

    Args:
        number: that the driver has given to it; None: the next one.
        tell: says a sentence to people.
    """

    def __init__(self, folder: Folder, number: int | None, tell: Callable[[str], None]) -> None:
        self._folder, self._number, self._tell = folder, number, tell
        self.current: Attempt | None = None
        self.goes_on_from: Name | None = None

    def begin(self) -> Files:
        """The newest checkpoint that is whole, or nothing.

        The attempt is claimed first, so that older ones remove nothing more; then looks what there is; then is fenced.

        Raises:
            SupersededError: a newer one has begun.
            CheckpointError: storage does not answer.
            STORAGE_ERRORS: it cannot be written.
        """
        folder = self._folder
        patiently(lambda: make(folder), folder, tell=self._tell)
        attempt = self.unbegun()
        patiently(lambda: self._mark(attempt.claim), folder, tell=self._tell)
        history = self._history()
        self.check_newest(history)
        found = self.newest_whole(history)
        step = 0 if found is None else found[0].step
        self._tell_of_lost_records(history, step)
        patiently(lambda: self._mark(attempt.fence(step)), folder, tell=self._tell)
        patiently(lambda: folder.remove(attempt.claim), folder)
        if found is None:
            return {}
        self.goes_on_from = found[0]
        return found[1]

    def unbegun(self) -> Attempt:
        """One that rules out nobody."""
        number = self._history().latest + 1 if self._number is None else self._number
        self.current = Attempt(number, secrets.token_hex(4))
        return self.current

    def check_newest(self, history: History) -> None:
        """Raises SupersededError where a newer attempt has begun."""
        mine = self.current
        other = None if mine is None else history.newer_than(mine)
        if mine is not None and other is not None:
            raise SupersededError(
                f"attempt {other.number} at this run has begun since attempt {mine.number} did",
                where=shown(self._folder),
                remedy="let only one process train a run",
            )

    def newest_whole(self, history: History) -> tuple[Name, Files] | None:
        """It, and its bytes. Those that are damaged are passed over, which is said.

        Raises:
            UnreadableError: there is none, but for some that may be whole: to begin anew would remove them.
        """
        unreadable: UnreadableError | None = None
        for name in history.committed:
            try:
                return name, read_files(self._folder, name)
            except StorageAwayError:
                raise
            except CheckpointError as error:
                unreadable = error if unreadable is None and isinstance(error, UnreadableError) else unreadable
                self._pass_over(str(error))
        if unreadable is not None:
            remedy = "when it can be read, go on with --resume"
            raise UnreadableError(unreadable.what, where=unreadable.where, remedy=remedy)
        return None

    def _history(self) -> History:
        return patiently(lambda: History.of(self._folder), self._folder)

    def _mark(self, name: str) -> None:
        about = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        put(self._folder, name, json.dumps(about).encode())
        settle(self._folder, "")

    def _tell_of_lost_records(self, history: History, step: int) -> None:
        """A writer that died leaves a part of a checkpoint. Where all but the commit record is there, that was lost."""
        for name in history.begun:
            if name.step > step and INFO in self._files_of(name):
                self._pass_over(f"{shown(self._folder)}/{name.text}: the commit record is missing")

    def _files_of(self, name: Name) -> list[str]:
        below = Folder(self._folder.filesystem, f"{self._folder.base}/{name.text}")
        return patiently(below.files, self._folder)

    def _pass_over(self, why: str) -> None:
        text = f"{why}; going back to the one before"
        log.warning("%s", text)
        self._tell(text)
