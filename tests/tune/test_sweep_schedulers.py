"""Schedulers under the conductor: they decide after a restart as they would have, and need fewer groups than trials."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduled import Played, sweep_of

from vitray.tune.record import TrialRecord
from vitray.tune.rungs import brackets_of

pytestmark = pytest.mark.slow  # Ray Tune is imported
_EPOCHS, _TRIALS = 8, 9


def lucky(seed: int) -> Any:
    """Scores that rise with the epochs, of trials that are not equal, with luck; some are equal to the digit."""

    def score(index: int, epoch: int) -> float:
        gift = random.Random(f"{seed}/{index}").random()
        return round(0.5 * gift + 0.05 * epoch + 0.2 * random.Random(f"{seed}/{index}/{epoch}").random(), 2)

    return score


def outcome(records: list[TrialRecord]) -> list[Any]:
    return [(r.name, r.status, r.epoch, r.ended_by, r.point, r.changes) for r in records]


@pytest.fixture(scope="module")
def no_weights() -> Iterator[None]:
    """Played trials have no checkpoints to hand over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitray.tune.pbt.adopt", lambda donor, into, step: into)
        yield


@settings(max_examples=80)
@given(
    scheduler=st.sampled_from(["asha", "median", "hyperband", "pbt"]),
    seed=st.integers(0, 10**6),
    kills=st.sets(st.integers(1, 45), min_size=1, max_size=4),
    behind=st.integers(0, 2),
    groups=st.integers(1, 4),
    fails=st.dictionaries(st.integers(0, _TRIALS - 1), st.integers(1, _EPOCHS), max_size=3),
)
def test_after_a_restart_it_is_decided_as_if_there_had_been_none(
    scheduler: str, seed: int, kills: set[int], behind: int, groups: int, fails: dict[int, int], no_weights: None
) -> None:
    asked: dict[str, Any] = {
        "scheduler": scheduler, "trials": _TRIALS, "grace_epochs": 2, "reduction_factor": 2, "perturb_epochs": 3
    }  # fmt: skip
    score = lucky(seed)
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        undisturbed = Played(sweep_of(Path(one), groups, _EPOCHS, **asked), score, random.Random(seed), fails=fails)
        expected = outcome(undisturbed.run())
        sweep = sweep_of(Path(two), groups, _EPOCHS, **asked)
        killed = Played(sweep, score, random.Random(seed), kills=sorted(kills), behind=behind, fails=fails)
        assert outcome(killed.run()) == expected
        assert sorted(killed.trained) == sorted(undisturbed.trained), "no epoch more, none less"


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_the_worse_are_stopped_and_the_best_are_not(tmp_path: Path, scheduler: str) -> None:
    asked: dict[str, Any] = {"scheduler": scheduler, "trials": 12, "grace_epochs": 2, "reduction_factor": 2}
    sweep = sweep_of(tmp_path, 3, _EPOCHS, **asked)
    records = Played(sweep, lambda index, epoch: index / 20 + epoch / 100).run()
    assert records[-1].status == "done"
    stopped = [r for r in records if r.status == "stopped"]
    assert all(r.ended_by == scheduler and r.epoch >= 2 for r in stopped)
    falling = Played(sweep_of(tmp_path / "falling", 3, _EPOCHS, **asked), lambda index, epoch: 1 - index / 20).run()
    assert falling[0].status == "done"
    assert sum(r.status == "stopped" for r in falling) >= 6


@settings(max_examples=20)
@given(groups=st.integers(1, 4), trials=st.integers(2, 24), seed=st.integers(0, 10**6), epochs=st.sampled_from([8, 9]))
def test_hyperbands_brackets_wait_for_their_trials(groups: int, trials: int, seed: int, epochs: int) -> None:
    """Fewer groups than a bracket has trials: it is halved when all are there, or no more come, and nothing hangs."""
    search: dict[str, Any] = {"scheduler": "hyperband", "trials": trials, "reduction_factor": 3}
    with TemporaryDirectory() as folder:
        sweep = sweep_of(Path(folder), groups, epochs, **search)
        score = lucky(seed)
        played = Played(sweep, score, random.Random(seed))
        records = played.run()
        assert all(r.ended for r in records)
        assert played.most_at_once == min(groups, trials)
        assert len(played.trained) == len(set(played.trained)), "no epoch is trained twice"
        first = 0
        for bracket in brackets_of(sweep.plan.search, epochs, trials):
            members = records[first : first + bracket[0][1]]
            first += len(members)
            for epoch, count in bracket:
                assert sum(r.epoch >= epoch for r in members) == count, (bracket, [r.epoch for r in members])
            for rung, (_, kept) in itertools.pairwise(bracket):
                there = [r for r in members if r.epoch >= rung[0]]
                on = {r.index for r in there if r.epoch > rung[0]}
                worst_kept = min((score(i, rung[0]) for i in on), default=1.0)
                assert len(on) == kept
                assert all(score(r.index, rung[0]) <= worst_kept for r in there if r.index not in on)
        assert first == trials
