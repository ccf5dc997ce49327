"""How many trials get to an epoch, against Tune's own HyperBand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.search_config import SearchConfig
from vitray.tune.rungs import bracket_of, brackets_of, rungs_of


class Trial:
    """As much of a trial as a bracket looks at."""

    status = "RUNNING"


def played(epochs: int, eta: int, trials: int) -> list[list[tuple[int, int]]]:
    """The brackets that Tune's scheduler makes of so many trials, each played to its end."""
    from ray.tune.schedulers import HyperBandScheduler

    scheduler = HyperBandScheduler(time_attr="epoch", metric="m", mode="max", max_t=epochs, reduction_factor=eta)
    controller: Any = None
    for _ in range(trials):
        scheduler.on_trial_add(controller, Trial())
    found = []
    for bracket in (b for band in scheduler._hyperbands for b in band if b is not None):
        rungs = []
        while True:
            at = int(bracket._cumul_r)
            live = bracket.current_trials()
            for score, trial in enumerate(live):
                bracket.update_trial_stats(trial, {"epoch": at, "m": score})
            rungs.append((at, len(live)))
            if bracket.finished():
                break
            for trial in bracket.successive_halving("m", 1.0)[1]:
                bracket.cleanup_trial(trial)
        found.append(rungs)
    return found


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(1, 100), st.integers(2, 5), st.integers(1, 120))
def test_brackets_are_those_that_tune_fills(epochs: int, eta: int, trials: int) -> None:
    search = SearchConfig(space={}, scheduler="hyperband", reduction_factor=eta)
    ours, tunes = brackets_of(search, epochs, trials), played(epochs, eta, trials)
    assert [[n for _, n in bracket] for bracket in ours] == [[n for _, n in bracket] for bracket in tunes]
    assert [bracket[0] for bracket in ours] == [bracket[0] for bracket in tunes]
    for bracket in ours:
        assert [epoch for epoch, _ in bracket] == [epochs // eta**i for i in reversed(range(len(bracket)))]


def test_a_trial_is_in_the_bracket_that_its_place_fills() -> None:
    brackets = brackets_of(SearchConfig(space={}, scheduler="hyperband", reduction_factor=3), 9, 20)
    assert [bracket[0] for bracket in brackets] == [(9, 3), (3, 5), (1, 9), (9, 3)]
    assert [bracket_of(brackets, index)[0] for index in (0, 2, 3, 7, 8, 16, 17)] == [0, 0, 3, 3, 8, 8, 17]
    assert bracket_of(brackets, 4)[1] == brackets[1]


@given(
    st.sampled_from(["none", "asha", "hyperband", "median", "pbt"]), st.integers(1, 100), st.integers(2, 5),
    st.integers(1, 120), st.integers(1, 20),
)  # fmt: skip
def test_rungs_rise_and_ever_fewer_trials_get_there(
    scheduler: str, epochs: int, eta: int, trials: int, grace: int
) -> None:
    search = SearchConfig(space={}, scheduler=scheduler, reduction_factor=eta, grace_epochs=grace)
    rungs = rungs_of(search, epochs, trials)
    assert [epoch for epoch, _ in rungs] == sorted({epoch for epoch, _ in rungs})
    assert rungs[0][1] == trials, "all begin"
    assert [count for _, count in rungs] == sorted((count for _, count in rungs), reverse=True)
    assert rungs[-1][0] <= epochs
    assert rungs[-1][1] >= 1
    if scheduler in ("none", "pbt"):
        assert rungs == [(epochs, trials)]


def test_half_are_taken_to_get_past_the_median() -> None:
    search = SearchConfig(space={}, scheduler="median", grace_epochs=5)
    assert rungs_of(search, 20, 12) == [(5, 12), (20, 6)]
