"""Leaving in mid-epoch: all ranks after the same step, without a collective on the way there.

Ranks that left after different steps would wait for each other for ever. So the mailbox proposes a step, and each rank
answers from a thread beside its training: it *holds* if it has not passed that step, and then waits there until all
have answered. When all hold, they leave after it; else a later step is proposed, and those that wait go on. As no rank
gets more than a step ahead of one that waits, a few rounds are enough. A step costs the loop two looks at an attribute.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Notice:
    """What the mailbox says: leave ``job`` after ``step`` steps, if all hold (``agreed``: they do).

    ``step`` is None in the first round, which asks where everybody is.
    """

    job: int
    version: int
    step: int | None = None
    agreed: bool = False


@dataclass(frozen=True)
class Answer:
    """A rank's answer to the notice of that version: it has done ``step`` steps (-1: not begun)."""

    version: int
    step: int
    holds: bool


class Leaving:
    """A rank's side: between the thread that hears notices and the loop that trains."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._last: Notice | None = None
        self._error: BaseException | None = None
        self._begin(0)

    def _begin(self, job: int) -> None:
        self.job, self.step = job, -1
        self.asked = False  # somebody wants this rank to leave soon
        self.left_at: int | None = None
        self._at: int | None = None
        self._agreed = False

    def begin(self, job: int) -> None:
        """The loop takes a job. What was said of it before counts."""
        with self._changed:
            self._begin(job)
            if self._last is not None and self._last.job == job:
                self._take(self._last)

    def hear(self, notice: Notice) -> Answer:
        """Take a notice; the answer to it."""
        with self._changed:
            self._last = notice
            if notice.job != self.job:
                return Answer(notice.version, -1, holds=True)
            self._take(notice)
            self._changed.notify_all()
            # Read after it was written: the loop writes its step, then reads the notice, so one of both sees the other.
            return Answer(notice.version, self.step, holds=notice.step is None or self.step < notice.step)

    def _take(self, notice: Notice) -> None:
        self.asked, self._agreed = True, notice.agreed
        if notice.step is not None:
            self._at = notice.step

    def fail(self, error: BaseException) -> None:
        """Nobody will answer any more."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def after(self, step: int) -> bool:
        """Whether to leave, asked by the loop after each step."""
        self.step = step
        if self._at is None or step < self._at:
            return False
        return self._wait(step)

    def _wait(self, step: int) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._agreed or step < (self._at or 0) or self._error is not None)
            if self._error is not None and not self._agreed:
                raise self._error
            if step < (self._at or 0):
                return False
            self.left_at = step
            return True


class Vote:
    """The mailbox's side: proposes steps until all ranks hold. ``version`` is above those of earlier votes."""

    def __init__(self, job: int, version: int) -> None:
        self.notice = Notice(job, version)
        self._answers: dict[int, Answer] = {}
        self._ahead = 1  # steps: if all hear of it in time, they leave after the one they are in

    def answer(self, rank: int, world_size: int, answer: Answer) -> None:
        """Count a rank's answer; the last one of a round makes a new notice."""
        if self.notice.agreed or answer.version != self.notice.version:
            return
        self._answers[rank] = answer
        if len(self._answers) < world_size:
            return
        answers, self._answers = self._answers.values(), {}
        job, version, step = self.notice.job, self.notice.version + 1, self.notice.step
        if step is not None and all(answer.holds for answer in answers):
            self.notice = Notice(job, version, step, agreed=True)
            return
        self.notice = Notice(job, version, max(answer.step for answer in answers) + self._ahead)
        self._ahead *= 2  # steps too quick to be heard of in time
