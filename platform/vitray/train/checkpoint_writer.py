"""The thread that writes checkpoints beside the training: at low priority, one at a time, and again where it fails.

A disk that is full, or storage that does not answer, ends no training: it is said, and the newest checkpoint is tried
again until there is room. Only who needs it, at the end of a run or to leave a node, waits for that, and not for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vitray.errors import CheckpointError
from vitray.train.checkpoint_files import STORAGE_ERRORS
from vitray.train.patience import FIRST_S, LONGEST_S

log = logging.getLogger(__name__)
_AGAIN_S = 600.0  # between two words on a failure that lasts
_NICER = 4  # than the ranks, which may take all cores; far more, and a busy node would let it wait for ever


@dataclass(frozen=True)
class Job:
    """``write`` may be called again after it has failed; ``explain`` makes a sentence of why it did."""

    write: Callable[[], None]
    explain: Callable[[BaseException], CheckpointError]


class CheckpointWriter:
    """Writes one checkpoint after the other. What ends the writing for good is raised by the next call.

    Args:
        tell: says a sentence to people.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._job: Job | None = None
        self._trouble: CheckpointError | None = None  # with the job at hand; it is tried again
        self._error: BaseException | None = None  # that ended one for good
        self._given_up = self._closed = self._failing = False
        self._told_at = 0.0
        self.took_s = self.cpu_s = 0.0  # of the last one that was written

    @property
    def busy(self) -> bool:
        """Whether one is being written, without trouble so far."""
        return self._job is not None and self._trouble is None

    def submit(self, job: Job) -> None:
        """Begin to write. What was before is written, or has failed: then this takes its place."""
        self._let_pass()
        with self._changed:
            self._job, self._trouble, self._given_up = job, None, False
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, daemon=True, name="vitray-checkpoint")
                self._thread.start()
            self._changed.notify_all()

    def ready(self) -> None:
        """Return when what is at hand is written, or has failed and is given up: its memory is free then."""
        self._let_pass()

    def wait(self, patience_s: float) -> None:
        """Return when what is at hand is written.

        Raises:
            CheckpointError: it is not, for so long after it first failed; names the place and what it needs.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self.busy)
            written = self._changed.wait_for(lambda: self._job is None, patience_s)
            trouble = self._trouble
        if not written and trouble is not None:
            self._let_pass()
            raise trouble
        self._raise()

    def close(self) -> None:
        """End the thread: when what is being written is, or has failed."""
        try:
            self._let_pass()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            if self._thread is not None:
                self._thread.join()

    def _let_pass(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self.busy)
            self._given_up = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._job is None)
        self._raise()

    def _raise(self) -> None:
        with self._changed:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            me = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, me, os.getpriority(os.PRIO_PROCESS, me) + _NICER)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._job is not None or self._closed)
                job = self._job
            if job is None:
                return
            error: BaseException | None = None
            try:
                self._write(job)
            except BaseException as caught:
                error = caught
            with self._changed:
                self._job, self._error = None, error
                self._changed.notify_all()

    def _write(self, job: Job) -> None:
        pause = FIRST_S
        while True:
            began, cpu = time.monotonic(), time.thread_time()
            try:
                job.write()
            except STORAGE_ERRORS as error:
                self._failed(job.explain(error))
            else:
                self.took_s, self.cpu_s = time.monotonic() - began, time.thread_time() - cpu
                if self._failing:
                    self._failing = False
                    self._say("checkpoints are saved again")
                return
            with self._changed:
                if self._changed.wait_for(lambda: self._given_up, pause):
                    return
            pause = min(2 * pause, LONGEST_S)

    def _failed(self, error: CheckpointError) -> None:
        now = time.monotonic()
        if not self._failing or now - self._told_at >= _AGAIN_S:
            self._failing, self._told_at = True, now
            self._say(f"{error}\n  training goes on, and it is tried again")
        with self._changed:  # after it was said: whoever gives up now says no more
            self._trouble = error
            self._changed.notify_all()

    def _say(self, text: str) -> None:
        log.warning("%s", text)
        with contextlib.suppress(Exception):  # nobody listens any more
            self._tell(text)
