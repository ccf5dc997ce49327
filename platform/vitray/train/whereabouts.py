"""Where a rank's loop is, noted as it goes on, and told every few seconds by a thread beside it.

Noting costs a step two attribute writes. The telling is what the mailbox knows of a rank (:mod:`vitray.train.hanging`):
a process that is stopped, or whose interpreter is held by somebody's C code, tells nothing; one whose loop stands still
tells of the same place again and again.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from vitray.data.unit import Batch

IDLE, STARTING, WAITING, FIRST, STEP = "idle", "starting", "waiting for data", "in a first step", "in step"
EVALUATING, ENDING, SAVING, ASKING = "evaluating", "ending an epoch", "saving", "waiting for the driver"
_OWN_SHARE = 0.1  # of the newest step in what a step usually takes


@dataclass(frozen=True)
class Pulse:
    """What a rank tells: ``doing`` is one of this module's words, ``moves`` grows with everything it does.

    ``step_s``: seconds that its steps take, without their wait for data. ``collectives``: of its group, begun so far.
    ``line``: of the code that it stands in, where it has not moved since the last pulse.
    """

    rank: int
    doing: str
    step: int
    moves: int
    step_s: float = 0.0
    collectives: int = 0
    line: str = ""


class Whereabouts:
    """One rank's; written by its loop, read by the thread that tells. Made in the thread that will train."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self.doing, self.step, self.moves, self.step_s = IDLE, 0, 0, 0.0
        self._sizes: set[int] = set()  # of batches that this process has trained on

    def at(self, doing: str, step: int | None = None) -> None:
        """The loop gets to something else."""
        if step is not None:
            self.step = step
        if doing == STARTING:
            self._sizes, self.step_s = set(), 0.0
        self.doing = doing
        self.moves += 1

    def through(self, batches: Iterator[Batch], before: int) -> Iterator[Batch]:
        """The same training batches, one a step; ``before`` steps are done. The first of a size is compiled for."""
        step = before
        while True:
            self.at(WAITING)
            batch = next(batches, None)
            if batch is None:
                return
            step += 1
            first = len(batch.label) not in self._sizes
            self._sizes.add(len(batch.label))
            self.at(FIRST if first else STEP, step)
            begun = time.monotonic()
            yield batch
            if not first:
                took = time.monotonic() - begun
                self.step_s = took if not self.step_s else self.step_s + _OWN_SHARE * (took - self.step_s)

    def evaluating(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches of an evaluation."""
        while True:
            self.at(WAITING)
            batch = next(batches, None)
            if batch is None:
                self.at(ENDING)
                return
            self.at(EVALUATING)
            yield batch

    def line(self) -> str:
        """The innermost line of Python that the loop is in, but for torch's own, as ``file.py:12 in function``."""
        frame = sys._current_frames().get(self._thread)
        while frame is not None and (frame.f_code.co_filename == __file__ or "/torch/" in frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None:
            return ""
        file = "/".join(frame.f_code.co_filename.split("/")[-2:])
        return f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"

    def pulse(self, rank: int, collectives: int, last: Pulse | None) -> Pulse:
        """What to tell, after ``last``."""
        still = last is not None and last.moves == self.moves
        line = self.line() if still else ""
        return Pulse(rank, self.doing, self.step, self.moves, self.step_s, collectives, line)
