"""Which trial wins: the best as it is, or the finalist with the best mean over other seeds."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vitray.errors import TrainingError
from vitray.search_config import SearchConfig
from vitray.train.intervals import of_mean, of_paired_difference, wilson
from vitray.tune.choose import choose, finalists
from vitray.tune.record import TrialRecord

ACCURACY = st.integers(0, 359).map(lambda right: right / 359)


def search(**values: Any) -> SearchConfig:
    return SearchConfig(space={"model.depth": [1, 2]}, **values)


def trial(
    index: int, *scores: float, status: str = "done", repeats: int | None = None, **metrics: float
) -> TrialRecord:
    """A trial with these validation accuracies, epoch by epoch."""
    reports = [
        {"epoch": float(i + 1), "val/accuracy": s, "val/loss": 1 - s, "val/samples": 359.0, **metrics}
        for i, s in enumerate(scores)
    ]
    kind = "search" if repeats is None else "repeat"
    return TrialRecord(index, f"trial-{index:04d}", {}, kind=kind, repeats=repeats, status=status, reports=reports)  # type: ignore[arg-type]


SWEEPS = st.lists(st.lists(ACCURACY, min_size=1, max_size=4), min_size=1, max_size=6)


@given(SWEEPS, st.integers(1, 4), st.integers(1, 3))
def test_finalists_are_the_best_trials_and_nobody_is_repeated_for_one_seed_of_one(
    scores: list[list[float]], count: int, seeds: int
) -> None:
    records = [trial(i, *s) for i, s in enumerate(scores)]
    chosen = finalists(records, search(finalists=count, seeds=seeds))
    assert len(chosen) == (0 if count == seeds == 1 else min(count, len(records)))
    others = [max(s) for i, s in enumerate(scores) if i not in {t.index for t in chosen}]
    assert all(max(scores[t.index]) >= max(others, default=0) for t in chosen)


@given(SWEEPS)
def test_without_repeats_the_best_trial_wins_with_the_interval_of_its_images(scores: list[list[float]]) -> None:
    choice = choose([trial(i, *s) for i, s in enumerate(scores)], search())
    assert choice.standing.mean == max(map(max, scores)) == max(scores[choice.best.index])
    assert choice.standing.interval == wilson(choice.standing.mean, 359)
    assert [s.mean for s in choice.standings] == sorted(map(max, scores), reverse=True)


@st.composite
def repeated(draw: st.DrawFn) -> tuple[list[TrialRecord], dict[int, list[float]]]:
    """Finalists with repeats, some of which failed, and the scores of those that did not."""
    count = draw(st.integers(1, 4))
    records = [trial(i, draw(ACCURACY)) for i in range(count)]
    scores: dict[int, list[float]] = {}
    for index in range(count):
        for _ in range(draw(st.integers(0 if index else 1, 4))):
            last, failed = draw(ACCURACY), draw(st.booleans()) and bool(scores)
            if not failed:
                scores.setdefault(index, []).append(last)
            status = "failed" if failed else "done"
            records.append(trial(len(records), draw(ACCURACY), last, status=status, repeats=index))
    return records, scores


@given(repeated(), st.randoms(use_true_random=False))
def test_with_repeats_the_best_mean_of_last_epochs_wins(
    made: tuple[list[TrialRecord], dict[int, list[float]]], shuffle: random.Random
) -> None:
    records, scores = made
    choice = choose(records, search(finalists=4, seeds=4))
    assert {s.trial.index: sorted(s.scores) for s in choice.standings} == {i: sorted(v) for i, v in scores.items()}
    means = {i: math.fsum(v) / len(v) for i, v in scores.items()}
    assert choice.standing.mean == pytest.approx(max(means.values()))
    for standing in choice.standings:
        of_it = [r for r in records if r.repeats == standing.trial.index]
        assert standing.left_out == sum(r.status == "failed" for r in of_it)
        assert standing.interval is not None
        low, high = standing.interval
        assert -1e-9 <= low <= standing.mean + 1e-9
        assert standing.mean - 1e-9 <= high <= 1 + 1e-9
    shuffle.shuffle(records)
    again = choose(records, search(finalists=4, seeds=4))
    assert again.standing.mean == choice.standing.mean


@given(repeated())
def test_a_loss_is_ranked_the_other_way_round(made: tuple[list[TrialRecord], dict[int, list[float]]]) -> None:
    records, scores = made
    choice = choose(records, search(metric="val/loss", finalists=4, seeds=4))
    assert choice.standing.mean == pytest.approx(min(1 - math.fsum(v) / len(v) for v in scores.values()))


def test_the_checkpoint_that_becomes_the_model_is_the_one_that_counts() -> None:
    records = [trial(0, 0.8), trial(1, 0.9, 0.6, repeats=0), trial(2, 0.7, 0.8, repeats=0)]
    assert choose(records, search(seeds=2)).standing.scores == (0.6, 0.8)  # retrained: the last epoch is taken
    assert choose(records, search(seeds=2, retrain=False)).standing.scores == (0.9, 0.8)


def test_repeats_that_all_failed_leave_the_search_as_it_was() -> None:
    records = [
        trial(0, 0.8),
        trial(1, 0.9),
        trial(2, status="failed", repeats=1),
        trial(3, 0.99, status="stopped", repeats=0),
    ]
    choice = choose(records, search(finalists=2, seeds=1))
    assert (choice.best.index, choice.standing.mean, choice.standing.left_out) == (1, 0.9, 1)
    assert choice.standing.describe() == ("val/accuracy 0.9000 (95 % interval 0.8646 to 0.9269, 1 of 1 repeats failed)")


def test_one_repeat_has_the_interval_of_its_images_and_several_that_of_seeds() -> None:
    one = choose([trial(0, 0.8), trial(1, 0.7, repeats=0)], search(finalists=2)).standing
    assert one.interval == wilson(0.7, 359)
    two = choose([trial(0, 0.8), trial(1, 0.7, repeats=0), trial(2, 0.74, repeats=0)], search(seeds=2)).standing
    assert two.interval == (
        pytest.approx(0.72 - 12.706 * 0.02, abs=1e-4),
        pytest.approx(0.72 + 12.706 * 0.02, abs=1e-4),
    )
    assert two.describe().endswith("2 other seeds)")


def test_a_sweep_without_a_result_says_why() -> None:
    failed = trial(0, status="failed")
    failed.failure = "loss is nan"
    with pytest.raises(TrainingError, match="loss is nan"):
        choose([failed], search())


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_the_interval_of_a_mean_is_students(values: list[float]) -> None:
    low, high = of_mean(values)
    spread = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=math.fsum(values) / len(values), scale=spread or 1e-300)
    assert (low, high) == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 500), st.data())
def test_wilsons_interval_is_scipys(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(1, 400), st.data())
def test_a_paired_difference_is_the_same_from_either_side(count: int, data: st.DataObject) -> None:
    gained = data.draw(st.integers(0, count))
    lost = data.draw(st.integers(0, count - gained))
    low, high = of_paired_difference(gained, lost, count)
    assert low - 1e-12 <= (gained - lost) / count <= high + 1e-12
    assert of_paired_difference(lost, gained, count) == pytest.approx((-high, -low))


@given(st.integers(0, 60), st.integers(0, 60))
def test_who_is_worse_beyond_the_interval_is_so_for_mcnemar_too(gained: int, lost: int) -> None:
    """McNemar's exact test, which is somewhat more careful: never a verdict where its p is far from 5 %."""
    _, high = of_paired_difference(gained, lost, 400)
    p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    if high < 0:
        assert p < 0.08
        assert gained < lost
    elif gained < lost:
        assert p > 0.02
