"""Reliability and the expected calibration error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitray.inference.calibration import reliability

SAMPLES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200)


def by_hand(confidence: list[float], correct: list[bool], bins: int) -> float:
    """Guo et al. 2017, equation 3, word for word."""
    ece = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, p in enumerate(confidence) if (m - 1) / bins < p <= m / bins or (m == 1 and p == 0)]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            ece += len(inside) / len(confidence) * abs(accuracy - mean)
    return ece


@given(SAMPLES, st.sampled_from([1, 2, 4, 16]))  # whose edges are exact in binary
def test_ece_is_the_papers(samples: list[tuple[float, bool]], bins: int) -> None:
    confidence, correct = [p for p, _ in samples], [right for _, right in samples]
    found = reliability(confidence, correct, bins)
    assert found.ece == pytest.approx(by_hand(confidence, correct, bins), abs=1e-12)
    assert found.counts.sum() == len(samples)
    assert found.mean_accuracy == pytest.approx(np.mean(correct))
    assert found.mean_confidence == pytest.approx(np.mean(confidence))


@given(SAMPLES, st.randoms())
def test_ece_is_bounded_knows_no_order_and_is_no_less_than_the_gap_in_all(
    samples: list[tuple[float, bool]], random: object
) -> None:
    found = reliability(*zip(*samples, strict=True))
    assert abs(found.mean_accuracy - found.mean_confidence) - 1e-12 <= found.ece <= 1
    mixed = list(samples)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert reliability(*zip(*mixed, strict=True)).ece == pytest.approx(found.ece, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=10))
def test_ece_of_a_model_that_is_as_often_right_as_it_says_is_0(groups: list[tuple[int, int]]) -> None:
    confidence: list[float] = []
    correct: list[bool] = []
    for right, wrong in groups:
        count = right + wrong
        confidence += [right / count] * count
        correct += [True] * right + [False] * wrong
    assert reliability(confidence, correct).ece == pytest.approx(0, abs=1e-12)


def test_a_model_that_is_always_sure_and_wrong_has_an_ece_of_1() -> None:
    assert reliability([1.0, 1.0], [False, False]).ece == 1
    assert reliability([0.0], [True]).ece == 1
