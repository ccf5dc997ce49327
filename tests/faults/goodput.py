"""How much of the time of a run was of use, by what its ranks wrote down of their steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


class Step(Protocol):
    """A step that somebody took, and when they began it (Unix time)."""

    @property
    def step(self) -> int: ...
    @property
    def at(self) -> float: ...


@dataclass(frozen=True)
class Goodput:
    """``useful_s``: of steps whose result was kept, from the begin of each to that of the next; of ``wall_s`` in all.

    ``again``: at each new start, steps that had been done and were done again.
    """

    useful_s: float
    wall_s: float
    again: tuple[int, ...]

    @property
    def share(self) -> float:
        return self.useful_s / self.wall_s


def goodput(starts: Sequence[Sequence[Step]]) -> Goodput:
    """Of the first rank's steps, by start, oldest first; the last step of a start counts as a usual one."""
    useful, again = 0.0, []
    for steps, after in zip(starts, [*starts[1:], None], strict=True):
        kept_until = after[0].step if after else steps[-1].step + 1
        took = [late.at - early.at for early, late in pairwise(steps)]
        took.append(statistics.median(took) if took else 0.0)
        useful += sum(duration for step, duration in zip(steps, took, strict=True) if step.step < kept_until)
        if after:
            again.append(steps[-1].step + 1 - kept_until)
    return Goodput(useful, starts[-1][-1].at - starts[0][0].at, tuple(again))
