"""What a sweep tries next, given everything that is known of its trials.

The answer is a function of the plan, the earlier trials and the records alone: a sweep that was killed and goes on in
another process proposes the very points that it would have proposed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vitray.data.rng import key
from vitray.tune.keys import Point
from vitray.tune.record import TrialRecord
from vitray.tune.space import Frozen, Space, frozen

if TYPE_CHECKING:
    from vitray.tune.plan import SweepPlan


class Proposer(Protocol):
    """Decides on the next point."""

    def propose(self, records: Sequence[TrialRecord]) -> Point | None:
        """A valid point that no record has; None where the search is through.

        ``records``: those that search, by index, running ones too.
        """


@dataclass(frozen=True)
class Earlier:
    """Trials of another sweep, by points of this space; ``repeated``: the points that would be the same trainings."""

    records: Sequence[TrialRecord] = ()
    repeated: frozenset[Frozen] = frozenset()


NOTHING = Earlier()


def make_proposer(plan: SweepPlan, earlier: Earlier = NOTHING) -> Proposer:
    """The proposer of ``search.algorithm``."""
    if plan.search.algorithm in ("grid", "random"):
        return Listed(plan, earlier)
    from vitray.tune.searcher import Searcher  # Optuna, which a plan has no need of

    return Searcher(plan, earlier)


class Listed:
    """Proposes the plan's points in order, without those that an earlier sweep has tried; others take their place."""

    def __init__(self, plan: SweepPlan, earlier: Earlier = NOTHING) -> None:
        tried = earlier.repeated
        self._known = Points(plan.space)
        fresh = (point for point in _candidates(plan, tried) if frozen(point) not in tried)
        self._points = list(itertools.islice(fresh, plan.search.trials)) if tried else list(plan.points)

    def propose(self, records: Sequence[TrialRecord]) -> Point | None:
        known = self._known.of(records)
        return next((point for point in self._points[len(records) :] if frozen(point) not in known), None)


class Points:
    """The points that records were proposed with, each read once: in a ledger are lists where points have tuples."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._read: dict[int, tuple[Point, Frozen, Point]] = {}

    def of(self, records: Iterable[TrialRecord]) -> dict[Frozen, Point]:
        """Different ones, by what they hold."""
        found = {}
        for record in records:
            read = self._read.get(record.index)
            if read is None or read[0] is not record.begun_with:
                if (point := self._space.point_in(record.begun_with)) is None:
                    continue
                read = self._read[record.index] = record.begun_with, frozen(point), point
            found[read[1]] = read[2]
        return found


def proposal_seed(seed: int, number: int) -> int:
    """A seed of 32 bits for one proposal of a sweep."""
    return key("proposal", seed, number) % 2**32


def _candidates(plan: SweepPlan, tried: frozenset[Frozen]) -> Iterator[Point]:
    if plan.search.algorithm == "grid":
        yield from plan.space.grid()
        return
    yield from plan.points
    known = [dict(point) for point in tried] + list(plan.points)
    for number in itertools.count():
        point = plan.space.another(known, proposal_seed(plan.search.seed, number))
        if point is None:
            return
        known.append(point)
        yield point
