"""How many of a sweep's trials are expected to get to an epoch, by its scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vitray.search_config import SearchConfig

Rung = tuple[int, int]  # an epoch, and the trials expected to get there


def rungs_of(search: SearchConfig, epochs: int, trials: int) -> list[Rung]:
    """Rungs in rising order; the last is the last epoch.

    asha lets one of ``reduction_factor`` pass each rung. hyperband's brackets are merged (:func:`brackets_of`). Of the
    median rule no number can be known; half are taken to get past its ``grace_epochs``. All others stop nothing.
    """
    if search.scheduler == "hyperband":
        brackets = brackets_of(search, epochs, trials)
        at = sorted({epoch for bracket in brackets for epoch, _ in bracket})
        return [(epoch, sum(_alive(bracket, epoch) for bracket in brackets)) for epoch in at]
    grace = min(search.grace_epochs, epochs)
    at = []
    if search.scheduler == "asha":
        while grace < epochs:
            at.append(grace)
            grace *= search.reduction_factor
    elif search.scheduler == "median" and grace < epochs:
        at.append(grace)
    factor = search.reduction_factor if search.scheduler == "asha" else 2
    return [(epoch, max(1, trials // factor**i)) for i, epoch in enumerate([*at, epochs])]


def brackets_of(search: SearchConfig, epochs: int, trials: int) -> list[list[Rung]]:
    """The brackets of hyperband (Li et al. 2018) as Tune fills them, one after the other: each its own rungs.

    The first begins with few trials that all get to the last epoch, every further one with more that are stopped
    earlier; after the last comes the first again. All end at the last epoch (Tune's, where rungs are rounded, before
    it).
    """
    eta = search.reduction_factor
    most = round(math.log(epochs) / math.log(eta)) + 1
    brackets: list[list[Rung]] = []
    left, halvings = trials, 0
    while left > 0:
        first = epochs // eta**halvings
        if first > 0:
            alive = math.ceil(most / (halvings + 1) * eta**halvings)
            bracket, keeps = [(first, min(left, alive))], alive
            left -= bracket[0][1]
            for further in reversed(range(halvings)):
                keeps = math.ceil(keeps / eta)
                bracket.append((epochs // eta**further, min(bracket[-1][1], keeps)))
            brackets.append(bracket)
        halvings = (halvings + 1) % most
    return brackets


def bracket_of(brackets: Sequence[list[Rung]], index: int) -> tuple[int, list[Rung]]:
    """The bracket that a trial belongs to, and the index of its first trial."""
    first = 0
    for bracket in brackets:
        if index < first + bracket[0][1]:
            return first, bracket
        first += bracket[0][1]
    raise IndexError(f"no bracket has a place for trial {index}")


def _alive(bracket: list[Rung], epoch: int) -> int:
    """Trials of a bracket that get to an epoch; after its last rung its survivors have ended."""
    return next((count for at, count in bracket if at >= epoch), 0)
