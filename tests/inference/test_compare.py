"""Two models on the same images: counts against a plain loop, the test against its textbook definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitray.inference.compare import compare, mcnemar
from vitray.inference.score import Score

CLASSES = ("ant", "bee", "cat")
ANSWERS = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=60)  # label, first's, second's


def score(labels: list[int], predicted: list[int], rows: list[int] | None = None) -> Score:
    columns = [np.array(v, dtype=np.int64) for v in (range(len(labels)) if rows is None else rows, labels, predicted)]
    return Score("test", CLASSES, *columns, 1.0)


@given(ANSWERS)
def test_counts_are_those_of_a_plain_loop(answers: list[tuple[int, int, int]]) -> None:
    labels, first, second = (list(column) for column in zip(*answers, strict=True))
    pair = compare(score(labels, first), score(labels, second))
    assert pair.both == sum(a == y == b for y, a, b in answers)
    assert pair.only_first == sum(a == y != b for y, a, b in answers)
    assert pair.only_second == sum(b == y != a for y, a, b in answers)
    assert pair.both + pair.only_first + pair.only_second + pair.neither == pair.images == len(answers)
    assert pair.agreement == pytest.approx(sum(a == b for _, a, b in answers) / len(answers))
    assert pair.difference == pytest.approx((pair.only_first - pair.only_second) / pair.images)
    assert pair.interval[0] <= pair.difference <= pair.interval[1]
    for index, name in enumerate(CLASSES):
        mine = [(a, b) for y, a, b in answers if y == index]
        if mine:
            shares = [sum(given[i] == index for given in mine) / len(mine) for i in (0, 1)]
            assert pair.per_class[name] == pytest.approx((*shares, len(mine)))
        else:
            assert name not in pair.per_class


@given(ANSWERS)
def test_swapping_the_models_mirrors_everything(answers: list[tuple[int, int, int]]) -> None:
    labels, first, second = (list(column) for column in zip(*answers, strict=True))
    here, there = (
        compare(score(labels, first), score(labels, second)),
        compare(score(labels, second), score(labels, first)),
    )
    assert (here.only_first, here.p_value) == (there.only_second, there.p_value)
    assert here.interval == pytest.approx(tuple(-bound for bound in reversed(there.interval)))


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_two_sided_binomial_test(only_first: int, only_second: int) -> None:
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, k) for k in range(fewer + 1)) / 2**total
    assert mcnemar(only_first, only_second) == pytest.approx(min(1.0, 2 * tail))


def test_only_images_that_both_saw_count() -> None:
    pair = compare(score([0, 1, 2], [0, 1, 2], [5, 6, 7]), score([1, 2, 0], [1, 0, 0], [6, 7, 8]))
    assert (pair.images, pair.both, pair.only_first) == (2, 1, 1)
