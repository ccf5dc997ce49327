"""Where a driver and its ranks meet: jobs go in, reports come out, decisions go back.

An actor of its own, so that it outlives a rank that dies. It holds one job at a time. Ranks take the job, also again
after a restart; the first rank's report waits here until the driver has decided whether training goes on, so that a
stop wastes no step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitray.errors import CheckpointError, HangingError, OutOfMemoryError
from vitray.experiment import Experiment
from vitray.train.current import Current
from vitray.train.hanging import Watch
from vitray.train.leaving import Answer, Notice, Vote
from vitray.train.messages import Ended, Heard, Job, Note, RankEnd
from vitray.train.report import Report
from vitray.train.whereabouts import Pulse

_TOGETHER_S = 2.0  # between the failures of ranks that fail for the same reason
_PATIENCE_S, _PATIENCE_STEPS = 20.0, 5  # for ranks that were asked to save and stop


class Mailbox:
    """The actor's class; plain asyncio, so that it is tested without Ray."""

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._changed = asyncio.Condition()
        self._current: Current | None = None
        self._number = 0
        self._closed = False
        self._progress: tuple[int, Mapping[str, float]] | None = None
        self._losses = 0
        self._restarting = False  # a rank that failed alone has ended, and Ray Train is about to replace them all
        self._moving = False  # the ranks that are there will be replaced, and take nothing more
        self._restarts = 0
        self._versions = 0  # of notices
        self._pace: tuple[int, float, float] | None = None  # a step, when it was heard of, seconds a step
        self._why = ""  # the ranks are not those of before
        self._watch = Watch()
        self._visits = 0  # of Ray Train's controller

    # The driver's side

    async def submit(
        self,
        experiment: Experiment,
        run_dir: str,
        asks_at: frozenset[int] | None = None,
        known_epoch: int | None = None,
        heard: Heard | None = None,
    ) -> int:
        """Offer a job to the ranks and return its number. ``heard``: another mailbox had it before, which has died.

        ``asks_at``: epochs after which ranks wait for the driver's decision; by default after every one. After others
        they go on at once, and hear of a stop at their next report. ``known_epoch``: see :func:`vitray.train.loop.fit`.
        """
        async with self._changed:
            assert self._current is None or self._current.ended, "one job at a time"
            self._number += 1
            heard = heard or Heard()
            job = Job(self._number, experiment, run_dir, heard.attempt, known_epoch, heard.place, heard.earlier)
            self._current = current = Current(job, asks_at)
            current.reported_step = current.handed_step = heard.step
            current.decided_step, current.stop_step = heard.decided, heard.decided if heard.stopped else None
            self._losses, self._progress, self._pace, self._why = heard.losses, None, None, ""
            self._changed.notify_all()
            return self._number

    async def next(self, timeout_s: float) -> Report | Note | Ended | None:
        """The next report or note, or how the job ended; None when nothing came in time."""
        current = self._of_job()
        async with self._changed:
            await self._wait_for(lambda: bool(current.outgoing), timeout_s)
            if not current.outgoing:
                return None
            said = current.outgoing.popleft()
            if isinstance(said, Report):
                current.handed_step = said.step
            return said

    async def decide(self, go_on: bool) -> None:
        """Answer the report that was handed out last."""
        async with self._changed:
            current = self._of_job()
            current.decided_step = current.handed_step
            if not go_on and current.stop_step is None:
                current.stop_step = current.handed_step
                current.forget_reports()
            self._changed.notify_all()

    async def stop(self) -> float:
        """Ask the ranks to save at the next step and to leave the job, which then ends. Returns for how many seconds
        to wait for it.

        A report that was due meanwhile is handed out, and a stop there is as good.
        """
        async with self._changed:
            current = self._of_job()
            current.stop_asked = True
            if not current.ended and not current.takers:
                self._end(current, Ended(saved_step=current.left_step))  # nobody is at work on it
            elif not current.ended:
                self._ask_to_leave(current)
            self._changed.notify_all()
            return max(_PATIENCE_S, _PATIENCE_STEPS * (self._pace[2] if self._pace else 0.0))

    async def latest_progress(self) -> tuple[int, Mapping[str, float]] | None:
        return self._progress

    async def visits(self) -> int:
        """How often Ray Train's controller was here: it comes every second or so, unless ranks are coming up."""
        return self._visits

    async def close(self) -> None:
        """Send the ranks home."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    # The ranks' side

    async def take(self, rank: int, after: int, timeout_s: float) -> Job | str | None:
        """The job with a number above ``after``; "wait" when there is none yet, None when the group closes."""
        async with self._changed:
            await self._wait_for(lambda: self._closed or self._offers(after), timeout_s)
            if self._closed:
                return None
            if self._current is None or not self._offers(after):
                return "wait"
            self._current.takers.add(rank)
            return self._current.job

    async def begin(self, number: int, step: int, world_size: int) -> None:
        """The first rank goes on after ``step`` steps. Told to people if others than before do."""
        async with self._changed:
            current = self._of_job()
            self._pace = None
            if current.job.number != number:
                return
            if current.begun_step is not None and step > current.begun_step:
                self._losses = 0  # it got on since ranks last began, and that is saved
            current.begun_step = step
            if current.job.attempt > 1:
                ranks = f"{world_size} rank{'s' if world_size > 1 else ''}"
                why = f" ({self._why})" if self._why else ""
                self._tell(Note(f"now {ranks}{why}, from step {step}", step))

    async def listen(
        self, rank: int, world_size: int, answer: Answer | None, seen: int, timeout_s: float
    ) -> Notice | str | None:
        """A rank's answer to the last notice, if it had one; then the next notice, with a version above ``seen``.

        "wait" when there is none yet, None when the group closes.
        """
        async with self._changed:
            vote = self._vote
            if vote is not None and answer is not None:
                before = vote.notice
                vote.answer(rank, world_size, answer)
                if vote.notice is not before:
                    self._versions = vote.notice.version
                    self._changed.notify_all()
            await self._wait_for(lambda: self._closed or self._notice(seen) is not None, timeout_s)
            return None if self._closed else self._notice(seen) or "wait"

    async def pulse(self, pulse: Pulse) -> None:
        """A rank says where it is."""
        self._watch.hear(pulse)

    async def report(self, number: int, report: Report, attempt: int | None = None) -> bool:
        """Pass the first rank's report on and wait for the decision. A rank of an earlier attempt is told to stop.

        A report that an earlier attempt has already made (the ranks restarted from a checkpoint before it) is answered
        with the decision it got, and not passed on again. Once a stop was decided, there is nothing more to pass on:
        ranks that died before they heard of it may come back from a checkpoint at or beyond it.
        """
        async with self._changed:
            current = self._of_job()
            if not current.hears(number, attempt) or self._stopped(current, report.step):
                return False
            if report.step > current.reported_step:
                current.reported_step, current.left_step = report.step, None
                current.outgoing.append(report)
                self._losses = 0  # it gets on: restarts are counted since then
                self._changed.notify_all()
            if current.asks_at is not None and report.epoch not in current.asks_at:
                return True
            await self._changed.wait_for(
                lambda: current.decided_step >= report.step or current.stop_asked or self._stopped(current, report.step)
            )
            return not current.stop_asked and not self._stopped(current, report.step)

    async def progress(self, step: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        if self._pace is not None and step > self._pace[0]:
            self._pace = (step, now, (now - self._pace[1]) / (step - self._pace[0]))
        elif self._pace is None:
            self._pace = (step, now, 0.0)
        self._progress = (step, values)

    async def finish(self, number: int, end: RankEnd) -> None:
        """A rank is through; the job has ended when all are."""
        async with self._changed:
            current = self._of_job()
            if not current.hears(number, end.attempt):
                return
            current.ends[end.rank] = end.collectives
            self._changed.notify_all()
            if len(current.ends) == end.world_size and current.failure is None:
                saved = current.stop_asked and current.reported_step >= 0
                self._end(current, Ended(saved_step=current.reported_step if saved else None))

    async def left(self, number: int, end: RankEnd, step: int) -> None:
        """A rank has left the job after ``step`` steps, as all do, and its checkpoint is committed."""
        async with self._changed:
            current = self._of_job()
            if not current.hears(number, end.attempt):
                return
            current.ends[end.rank] = end.collectives
            if len(current.ends) < end.world_size or current.failure is not None:
                return
            self._losses, current.left_step = 0, step  # it got on, and that is saved
            if current.stop_asked:
                self._end(current, Ended(saved_step=step))
            else:
                self._again(current)
                current.away = self._moving = True
            self._changed.notify_all()

    async def fail(self, number: int, error: BaseException, end: RankEnd) -> bool:
        """The job itself is at fault (not its workers): it ends, and is not tried again.

        Returns whether the ranks can go on with another. They cannot if one waits for another in a collective: then
        this rank has to end, so that Ray Train replaces them all. Where all ranks left the job at the same place, for
        the same reason or not, nobody waits; they are given a moment to do so.
        """
        async with self._changed:
            current = self._current
            if current is None or current.job.number != number:
                return end.world_size == 1
            if not current.hears(number, end.attempt):
                return False  # it was cut off, and comes back: others have the job
            if isinstance(error, CheckpointError) and current.vote is not None and not current.stop_asked:
                return False  # asked to make room for others, it could not save in time: others go on from the last
            over = current.ended
            current.ends[end.rank] = end.collectives
            current.failure = current.failure or error
            self._changed.notify_all()
            before = self._restarts
            await self._wait_for(lambda: len(current.ends) >= end.world_size or current.ended, _TOGETHER_S)
            together = len(current.ends) == end.world_size and len(set(current.ends.values())) == 1
            if not together and before == self._restarts and not over:
                self._restarting = True
            self._end(current, Ended(current.failure))
            return together

    async def workers_lost(self, reason: BaseException) -> bool:
        """Workers died. The job is offered again, unless it has used up its restarts and got nowhere; then False.

        Nor is it where they died for want of memory: the same would happen again.
        """
        async with self._changed:
            self._visits += 1
            current = self._current
            self._restarts += 1
            if self._restarting or (current is not None and current.failure and not current.ended):
                self._restarting = False  # a job that failed wanted it so; the next one is not to blame
                self._changed.notify_all()
                return True
            if current is not None and current.away:
                return True  # of no use any more
            return self._lose(current, reason)

    def _lose(self, current: Current | None, reason: BaseException) -> bool:
        self._losses += 1
        if current is not None:
            current.left_step = None
        going_on = self._losses <= self._max_restarts
        if current is None or current.ended:
            return going_on
        self._again(current)
        if current.stop_asked:
            self._end(current, Ended())
        elif not going_on or isinstance(reason, OutOfMemoryError):
            self._end(current, Ended(reason))
        return going_on

    # The side of Ray Train's controller, which brings ranks and takes them away

    async def hangs(self) -> bool:
        """Whether the ranks hang, so that they have to be replaced. To be asked every second.

        That is told to people, and counts as a loss of ranks.
        """
        async with self._changed:
            self._visits += 1
            current = None if self._current is None or self._current.ended else self._current
            limit_s = None if current is None else current.job.experiment.cluster.hang_timeout_s
            at_work = set() if current is None else current.takers - current.ends.keys()
            what = self._watch.look(time.monotonic(), limit_s or float("inf"), at_work)
            if what is None:
                return False
            self._tell(Note(f"{what}: the ranks are replaced"))
            self._lose(current, HangingError(what))
            self._moving = True
            self._changed.notify_all()
            return True

    async def vacate(self) -> bool:
        """Ask the ranks to save and leave, so that others can go on. Whether they have; to be asked again until then.

        Raises:
            RuntimeError: the group closes; there is no need for others.
        """
        async with self._changed:
            self._visits += 1
            if self._closed:
                raise RuntimeError("the group closes")
            current = self._current
            if current is not None and not current.ended and current.takers:
                self._ask_to_leave(current)
                self._changed.notify_all()
            else:
                self._moving = True
            return self._moving

    async def starting(self) -> None:
        """New ranks come up; the old ones are gone."""
        async with self._changed:
            self._visits += 1
            self._moving = self._restarting = False
            self._watch.begin(0)
            if self._current is not None:
                self._current.away = False
                self._current.takers.clear()
                self._current.ends.clear()
            self._changed.notify_all()

    async def started(self, why: str, ranks: int) -> None:
        """So many are there. ``why`` they are not the same as before, in a few words."""
        self._visits += 1
        self._why = why
        self._watch.begin(ranks)

    async def note(self, text: str) -> bool:
        """Tell people something. False when the group closes."""
        async with self._changed:
            self._visits += 1
            self._tell(Note(text))
            return not self._closed

    def _tell(self, note: Note) -> None:
        if self._current is not None and not self._current.ended:
            self._current.outgoing.append(note)
            self._changed.notify_all()

    def _again(self, current: Current) -> None:
        """The job is for other ranks."""
        current.ends.clear()
        current.takers.clear()
        current.vote = None
        current.job = replace(current.job, attempt=current.job.attempt + 1)

    def _ask_to_leave(self, current: Current) -> None:
        if current.vote is None:
            self._versions += 1
            current.vote = Vote(current.job.number, self._versions)

    @property
    def _vote(self) -> Vote | None:
        return None if self._current is None or self._current.ended else self._current.vote

    def _notice(self, seen: int) -> Notice | None:
        return self._vote.notice if self._vote is not None and self._vote.notice.version > seen else None

    def _stopped(self, current: Current, step: int) -> bool:
        over = self._closed or current.ended
        return over or (current.stop_step is not None and step >= current.stop_step)

    def _end(self, current: Current, ended: Ended) -> None:
        if not current.ended:
            current.ended = True
            current.outgoing.append(ended)
            self._changed.notify_all()

    def _offers(self, after: int) -> bool:
        current = self._current
        busy = self._restarting or self._moving
        return current is not None and not (current.ended or busy) and current.job.number > after

    def _of_job(self) -> Current:
        assert self._current is not None, "no job was submitted"
        return self._current

    async def _wait_for(self, condition: Any, timeout_s: float) -> None:
        # A bounded wait: whoever asks must notice when the other side's process has died.
        try:
            await asyncio.wait_for(self._changed.wait_for(condition), timeout_s)
        except TimeoutError:
            return
