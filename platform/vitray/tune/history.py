"""The trials so far as an Optuna study, kept up to date or built anew: it is the same study either way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from vitray.tune.keys import Point
from vitray.tune.record import TrialRecord
from vitray.tune.samplers import GENERATION
from vitray.tune.space import Space
from vitray.tune.suggest import distributions, internal

_FEW_DISCARDED = 200
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: values of the objectives, or none where it did not end by itself.

    A trial without values is kept away from; ``intermediate`` values by epoch say how far.
    """

    values: Sequence[float] | None = None
    intermediate: Mapping[int, float] = field(default_factory=dict)


class History:
    """A study of the earlier trials and of the records that it is shown.

    Trials lie in it in the order of the records, and the order in which they ended makes nsga2's generations, each of
    ``population`` trials; so nothing depends on when the study was built.
    """

    def __init__(
        self,
        space: Space,
        directions: Sequence[Direction],
        outcome: Callable[[TrialRecord], Outcome],
        earlier: Sequence[TrialRecord],
        population: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._directions, self._outcome = space, list(directions), outcome
        self._population = population
        self._earlier = earlier
        self._distributions: dict[str, BaseDistribution] = distributions(space)
        self._begin()

    def of(self, records: Sequence[TrialRecord]) -> optuna.Study:
        """The study with these records in it."""
        if not self._follows(records):
            self._begin()
        for record in records[len(self._trials) :]:
            self._trials[record.index] = self._add(self._space.point_in(record.point))
        self._tell((r for r in records if r.ended and r.index not in self._told), self._trials, self._told)
        return self.study

    def discard(self, trials: Iterable[optuna.Trial]) -> None:
        """Forget what was asked for."""
        for trial in trials:
            self.study.tell(trial, state=TrialState.FAIL)
            self._discarded += 1

    def _begin(self) -> None:
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(storage=self._storage, directions=self._directions)
        self._study_id = self._storage.get_study_id_from_name(self.study.study_name)
        self._trials: dict[int, int] = {}  # Optuna's number of a record's trial, by the record's index
        self._told: dict[int, tuple[str, int]] = {}
        self._last = (-math.inf, -1)
        self._completed = self._discarded = 0
        trials = {record.index: self._add(self._space.point_in(record.point)) for record in self._earlier}
        self._tell(self._earlier, trials, {})
        self._last = (-math.inf, -1)

    def _follows(self, records: Sequence[TrialRecord]) -> bool:
        """Whether these records only add to what the study has."""
        if self._discarded > max(_FEW_DISCARDED, len(records)):
            return False  # each costs a little at every proposal
        known = list(self._trials)
        if known != [record.index for record in records[: len(known)]]:
            return False
        fresh = (_when(record) for record in records if record.ended and record.index not in self._told)
        same = all(_state(r) == self._told[r.index] for r in records if r.index in self._told)
        return same and all(when > self._last for when in fresh)

    def _add(self, point: Point | None) -> int:
        trial: int = self._storage.create_new_trial(self._study_id)
        for name, value in (point or {}).items():
            self._storage.set_trial_param(
                trial, name, internal(self._space.dimensions[name], value), self._distributions[name]
            )
        return trial

    def _tell(self, ended: Iterable[TrialRecord], trials: Mapping[int, int], told: dict[int, tuple[str, int]]) -> None:
        for record in sorted(ended, key=_when):
            trial, outcome = trials[record.index], self._outcome(record)
            for epoch, value in outcome.intermediate.items():
                self._storage.set_trial_intermediate_value(trial, epoch, value)
            if outcome.values is None:
                self._storage.set_trial_state_values(trial, TrialState.PRUNED)
            else:
                self._storage.set_trial_system_attr(trial, GENERATION, self._completed // self._population)
                self._storage.set_trial_state_values(trial, TrialState.COMPLETE, outcome.values)
                self._completed += 1
            told[record.index], self._last = _state(record), _when(record)


def _when(record: TrialRecord) -> tuple[float, int]:
    """When a trial ended, as far as the ledger tells."""
    ends = [record.spans[-1][-1]] if record.spans else []
    return max([*ends, *(r["at"] for r in record.reports[-1:])], default=-math.inf), record.index


def _state(record: TrialRecord) -> tuple[str, int]:
    return record.status, len(record.reports)
