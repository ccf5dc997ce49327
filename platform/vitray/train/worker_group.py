"""A worker group that outlives its experiments: ranks that stay up and serve one after another.

Process start, imports, process group and warm data tasks are paid once; the next experiment begins in a fraction of a
second. A rank that dies or hangs is brought back by Ray Train; where what holds the ranks together dies, another crew
takes its place; and the group goes on from the newest checkpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitray.experiment import Experiment
from vitray.train.checkpoint import latest_attempt
from vitray.train.checkpoint_place import take_place
from vitray.train.crew import MAILBOX_CALLS, Crew, CrewLostError
from vitray.train.failures import first_line, group_ended
from vitray.train.messages import Ended, Heard, Note
from vitray.train.places import free_places
from vitray.train.report import OnProgress, OnReport, Report
from vitray.train.resources import GroupPlan
from vitray.train.serve import serve

__all__ = ["MAILBOX_CALLS", "WorkerGroup"]
_POLL_S = 0.5
_CLOSE_S = 20.0  # of the time that a job has for its end
_FREE_EVERY_S = 5.0


@dataclass(frozen=True)
class _Offer:
    """An experiment as the ranks get it; also those of the next crew."""

    experiment: Experiment
    run_dir: str
    asks_at: frozenset[int] | None
    known_epoch: int | None


class WorkerGroup:
    """Ranks that serve one experiment after another.

    Args:
        plan: resources (:func:`vitray.train.resources.plan_groups`).
        max_restarts: times in a row that lost ranks are replaced without getting on: a report, or a newer checkpoint.
    """

    def __init__(self, plan: GroupPlan, *, max_restarts: int = 3) -> None:
        self.plan, self._max_restarts = plan, max_restarts
        self._crew = Crew(plan, max_restarts, serve)
        self._offer: _Offer | None = None
        self._heard = Heard()
        self._freed = 0.0

    def start(
        self,
        experiment: Experiment,
        run_dir: Path,
        asks_at: frozenset[int] | None = None,
        known_epoch: int | None = None,
    ) -> None:
        """Offer a resolved experiment to the ranks. The one before must have ended.

        ``asks_at``: epochs whose reports want a :meth:`decide`; by default all. Ranks do not wait for the others to be
        taken, and hear of a stop at their next report. ``known_epoch``: see :func:`vitray.train.loop.fit`.
        """
        place = take_place(run_dir, experiment.train.checkpoints)
        self._heard = Heard(place=place, earlier=latest_attempt(place))
        self._offer = _Offer(experiment, str(run_dir), asks_at, known_epoch)
        self._tell("submit", experiment, str(run_dir), asks_at, known_epoch, self._heard)

    def next(
        self, on_progress: OnProgress | None = None, on_note: Callable[[Note], None] | None = None
    ) -> Report | Ended:
        """Wait for the next report, or for the end. A report wants a :meth:`decide`, unless :meth:`start` said not.

        Raises:
            LostWorkersError: what holds the ranks together has died, too often.
        """
        shown: Any = None
        while True:
            said: Report | Note | Ended | None
            try:
                said = self._crew.hear(_POLL_S)
                if said is None and on_progress is not None:
                    latest = self._crew.tell("latest_progress")
                    if latest is not None and latest != shown:
                        shown = latest
                        on_progress(*latest)
            except CrewLostError as error:
                said = self._renew(error)
            if isinstance(said, Note):
                if on_note is not None:
                    on_note(said)
            elif isinstance(said, Report):
                assert self._offer is not None
                self._heard = replace(self._heard, step=said.step, losses=0)
                self._offer = replace(self._offer, known_epoch=said.epoch)
                return said
            elif said is not None:
                return said
            elif time.monotonic() - self._freed > _FREE_EVERY_S:
                self._freed = time.monotonic()
                free_places()  # of groups that died, for which this one may be waiting

    def stop(self, on_report: OnReport) -> int | None:
        """Ask the ranks to save at the next step and to end what they run; returns the step that is saved.

        None where nothing was saved, or the ranks did not come to the end of a step in time; closing the group then
        costs what came since the newest checkpoint. Reports that were on their way are handed over.
        """
        try:
            until = time.monotonic() + max(self._crew.tell("stop"), _grace_s())
            while time.monotonic() < until:
                said = self._crew.hear(_POLL_S)
                if isinstance(said, Ended):
                    return said.saved_step
                if isinstance(said, Report):
                    on_report(said)
        except CrewLostError:
            pass
        return None

    def decide(self, go_on: bool) -> None:
        """Answer the last report: go on, or stop there."""
        stopped = self._heard.stopped or not go_on
        self._heard = replace(self._heard, decided=self._heard.step, stopped=stopped)
        self._tell("decide", go_on)

    def run(
        self,
        experiment: Experiment,
        run_dir: Path,
        on_report: OnReport,
        on_progress: OnProgress | None = None,
        on_note: Callable[[Note], None] | None = None,
    ) -> None:
        """Train an experiment to its end, or until ``on_report`` returns False.

        Raises:
            VitrayError: what made the experiment fail.
        """
        self.start(experiment, run_dir)
        while isinstance(said := self.next(on_progress, on_note), Report):
            self.decide(on_report(said))
        if said.error is not None:
            raise said.error

    def close(self) -> None:
        """Send the ranks home and remove what the group left on disk."""
        self._crew.close()

    def _tell(self, method: str, *said: Any) -> None:
        """Call the mailbox. Another crew knows it from what was offered."""
        try:
            self._crew.tell(method, *said)
        except CrewLostError as error:
            self._renew(error)

    def _renew(self, lost: CrewLostError) -> Note:
        """Another crew, which goes on with the experiment. What to tell of it.

        Raises:
            LostWorkersError: that was tried too often, or cannot be done.
        """
        while True:
            losses = self._heard.losses + 1
            if losses > self._max_restarts:
                raise group_ended(lost.cause)
            earlier = latest_attempt(self._heard.place) if self._heard.place else 0
            self._heard = replace(self._heard, losses=losses, attempt=self._heard.attempt + 1, earlier=earlier)
            try:
                self._crew.end()
                self._crew = Crew(self.plan, self._max_restarts, serve)
                if (offer := self._offer) is not None:
                    said = (offer.experiment, offer.run_dir, offer.asks_at, offer.known_epoch)
                    self._crew.tell("submit", *said, self._heard)
            except CrewLostError as error:
                lost = error
            else:
                return Note(f"{lost.who} has ended ({first_line(lost.cause)}): other ranks go on")


def _grace_s() -> float:
    """Seconds that a job which is stopped has for its checkpoint, less those for its end; 0 outside of a job."""
    try:
        return float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "0")) - _CLOSE_S
    except ValueError:
        return 0.0
