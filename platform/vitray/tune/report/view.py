"""A sweep as its report sees it: every trial with its score, its cost and what it took; and who won."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vitray.errors import ConfigError, TrainingError
from vitray.experiment import Experiment
from vitray.search_config import HIGHER_IS_BETTER, SearchConfig
from vitray.tune.choose import Standing, choose
from vitray.tune.dimensions import Dimension, parse_dimension
from vitray.tune.keys import changed
from vitray.tune.pareto import objective_values, pareto_front
from vitray.tune.record import TrialRecord, ranked
from vitray.tune.report.importance import Importances, importances
from vitray.tune.report.sample import Sample, plain, sample
from vitray.tune.state import SavedSweep

COSTS = {
    "gflops": "GFLOP an image, forward",
    "parameters": "parameters",
    "latency_ms": "latency (ms)",
}


@dataclass(frozen=True)
class Trial:
    """A record with what it costs. ``score``: its best of the sweep's metric so far, NaN where it has none."""

    record: TrialRecord
    experiment: Experiment
    score: float
    costs: Mapping[str, float]

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def full(self) -> bool:
        """Trained to its last epoch."""
        return self.record.status == "done"

    @property
    def worker_seconds(self) -> float:
        """Seconds of all its ranks; of an elastic group, at most."""
        workers = self.experiment.cluster.workers
        return self.record.seconds * (workers[1] if isinstance(workers, tuple) else workers)


@dataclass(frozen=True)
class SweepView:
    """All that a report shows is worked out of these."""

    saved: SavedSweep
    base: Experiment
    trials: Sequence[Trial]
    repeats: Sequence[Trial]
    finals: Sequence[Trial]

    @classmethod
    def of(cls, saved: SavedSweep) -> SweepView:
        """Read a saved sweep.

        Raises:
            ConfigError: its config is not one that this version knows.
        """
        base = saved.experiment
        assert base.search is not None, "a sweep's config has a search section"
        made = [_trial(base, base.search, record) for record in saved.records]

        def of_kind(kind: str) -> list[Trial]:
            return [t for t in made if t.record.kind == kind]

        return cls(saved, base, of_kind("search"), of_kind("repeat"), of_kind("final"))

    @property
    def search(self) -> SearchConfig:
        assert self.base.search is not None
        return self.base.search

    @property
    def all(self) -> list[Trial]:
        return [*self.trials, *self.repeats, *self.finals]

    @property
    def higher(self) -> bool:
        """A higher score is better."""
        return self.search.mode == "max"

    @property
    def metric(self) -> str:
        """What trials are compared by, for people."""
        return {
            "val/accuracy": "validation accuracy",
            "val/loss": "validation loss (nats)",
            "train/loss": "training loss (nats)",
        }[self.search.metric]

    @property
    def is_share(self) -> bool:
        return self.search.metric in HIGHER_IS_BETTER

    @property
    def finished(self) -> bool:
        return self.saved.status == "done"

    @property
    def best_name(self) -> str:
        """What the best trial is called."""
        return "winner" if self.finished else "leader so far"

    @cached_property
    def standing(self) -> Standing | None:
        """Of the winner, or of who leads so far; None where nothing scored."""
        try:
            standings = choose([t.record for t in self.all], self.search).standings
        except TrainingError:
            return None
        named = [s for s in standings if s.trial.name == self.saved.facts.get("best")]
        return (named or list(standings))[0]

    @cached_property
    def winner(self) -> Trial | None:
        """The winner, or who leads so far."""
        return next((t for t in self.trials if self.standing and t.record is self.standing.trial), None)

    @cached_property
    def scored(self) -> list[Trial]:
        """Trials that scored, the best first."""
        order = ranked([t.record for t in self.trials], self.search.metric, self.search.mode)
        by_index = {t.record.index: t for t in self.trials}
        return [by_index[r.index] for r in order]

    def front(self, cost: str) -> list[Trial]:
        """Scored trials that none other beats both in score and in a cost, the cheapest first."""
        known = [t for t in self.scored if math.isfinite(t.costs[cost])]
        objectives = (self.search.metric, cost)
        front = [known[i] for i in pareto_front([(t.score, t.costs[cost]) for t in known], objectives)]
        return sorted(front, key=lambda t: t.costs[cost])

    @cached_property
    def sample(self) -> Sample | None:
        """The trials as they compare at one epoch; None where none can be."""
        return sample([t.record for t in self.trials], self.search.metric)

    @cached_property
    def importances(self) -> Importances | None:
        """How much each key mattered; takes a second or two."""
        return importances(self.sample, self.keys, higher=self.higher) if self.sample and self.keys else None

    @cached_property
    def keys(self) -> list[str]:
        """Searched keys of which trials had several values, the questions people ask first in front."""
        first = ("model.pos_encoding", "model.patch_size")
        found = dict.fromkeys(key for t in self.trials for key in t.record.begun_with)
        several = [k for k in found if len({plain(t.record.begun_with.get(k)) for t in self.trials}) > 1]
        return sorted(several, key=lambda k: first.index(k) if k in first else len(first))


def dimension_of(search: SearchConfig, key: str) -> Dimension | None:
    """What a searched key may be, as its config holds it; None of one that the space does not name."""
    written = search.space.get(key)
    if isinstance(written, Mapping):
        written = {kind: bounds for kind, bounds in written.items() if kind != "when"}
    try:
        return parse_dimension(key, written)
    except ConfigError:
        return None


def _trial(base: Experiment, search: SearchConfig, record: TrialRecord) -> Trial:
    try:
        experiment = changed(base, record.values)
        parameters, gflops, latency = objective_values(record, experiment, ("parameters", "gflops", "latency_ms"))
    except (ConfigError, AssertionError):  # a trial of another version: it is shown, without what it would cost
        experiment, parameters, gflops, latency = base, math.nan, math.nan, math.nan
    score = record.best(search.metric, search.mode)
    return Trial(
        record,
        experiment,
        score if math.isfinite(score) else math.nan,
        {"gflops": gflops, "parameters": parameters, "latency_ms": latency},
    )
