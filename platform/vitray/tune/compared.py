"""Trials that wait for each other at certain epochs, and go on once all are there: HyperBand's and PBT's.

What comes of a comparison follows from the reports at its epoch alone, so it is the same after a restart: a driver that
died before it was carried out has left all that it needs in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from vitray.tune.conducted import Conducted, index_of
from vitray.tune.conductor import Conductor
from vitray.tune.record import TrialRecord


class Compared(Conducted):
    """A scheduler whose trials wait at the plan's ``comparisons``, each for its ``peers``."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__(conductor)
        self._paused_at: dict[int, int] = {}
        self._released: dict[int, int] = {}  # by trial, the comparison that it has behind it
        self._ready: list[int] = []

    def peers(self, record: TrialRecord) -> list[TrialRecord] | None:
        """The trials that one is compared with, itself among them; None while some of them are still to come."""
        raise NotImplementedError

    def compare(self, peers: Sequence[TrialRecord], epoch: int, waiting: dict[int, Trial]) -> set[int]:
        """Who of the peers does not go on after a comparison. ``waiting``: by index, those that can be changed now."""
        raise NotImplementedError

    def judge(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        # A trial that goes on first repeats its last report, or that of the checkpoint which it was given.
        index, epoch = index_of(trial), int(result["epoch"])
        waits = epoch > self._released.get(index, 0) and epoch in self._conductor.sweep.plan.comparisons(index)
        if waits:
            self._paused_at[index] = epoch
        return TrialScheduler.PAUSE if waits else TrialScheduler.CONTINUE

    def choose(self, tune_controller: Any) -> Trial | None:
        waiting = {index_of(t): t for t in tune_controller.get_trials() if t.status == Trial.PAUSED}
        self._ready = [index for index in self._ready if index in waiting]
        for index in list(waiting):
            if index in waiting and index not in self._ready:
                for loser in self._compared(index, waiting):
                    tune_controller.stop_trial(waiting.pop(loser))
        return waiting[self._ready.pop(0)] if self._ready else None

    def _compared(self, index: int, waiting: dict[int, Trial]) -> list[int]:
        """Compare a trial with its peers if all of them are there; those among the waiting that are to be stopped."""
        epoch, peers = self._paused_at[index], self.peers(self._conductor.ledger.records[index])
        if peers is None:
            return []
        waits = {p.index for p in peers if p.index in waiting and self._paused_at[p.index] == epoch}
        if not all(p.ended or p.epoch > epoch or p.index in waits for p in peers):
            return []
        lost = self.compare(peers, epoch, waiting)
        here = [p.index for p in peers if p.index in waits and p.index not in self._ready]
        for going_on in (i for i in here if i not in lost):
            self._released[going_on] = epoch
            self._ready.append(going_on)
        return [i for i in here if i in lost]
