"""What is known of trials: kept metrics, best values, ranks."""

from __future__ import annotations

import math

import pytest

from vitray.tune.record import TrialRecord, ranked


def record(index: int, *accuracies: float, losses: tuple[float, ...] = (), status: str = "done") -> TrialRecord:
    made = TrialRecord(index, f"trial-{index}", {"model.depth": index}, status=status)  # type: ignore[arg-type]
    for epoch, accuracy in enumerate(accuracies, start=1):
        loss = losses[epoch - 1] if losses else 1.0
        made.take({"epoch": epoch, "val/accuracy": accuracy, "val/loss": loss})
    return made


def test_a_result_is_kept_as_numbers_without_what_tune_adds() -> None:
    made = TrialRecord(0, "t", {})
    result = {
        "epoch": 2, "step": 20, "timestamp_ms": 123, "checkpoint": "/c", "done": False, "warm": True, "start_s": 0.25,
        "val/accuracy": 0.5, "train/loss": 1, "lr": 1e-3, "images_per_s": 10, "training_iteration": 2,
        "time_total_s": 3.0, "pid": 77, "config": {"index": 0}, "val/flag": True,
    }  # fmt: skip
    metrics = made.take(result)
    assert metrics == {"val/accuracy": 0.5, "train/loss": 1.0, "lr": 1e-3, "images_per_s": 10.0, "start_s": 0.25}
    assert made.epoch == 2
    assert (made.start_s, made.warm) == (0.25, True)
    assert made.reports == [{"epoch": 2.0, **metrics}]


def test_the_first_reports_start_time_stands() -> None:
    made = TrialRecord(0, "t", {})
    made.take({"epoch": 1, "start_s": 0.2, "warm": True})
    made.take({"epoch": 2, "start_s": 9.0, "warm": False})
    assert (made.start_s, made.warm) == (0.2, True)


def test_the_best_value_is_the_best_of_all_epochs() -> None:
    made = record(0, 0.1, 0.9, 0.5, losses=(3.0, 0.2, 0.7))
    assert made.best("val/accuracy", "max") == 0.9
    assert made.best("val/loss", "min") == 0.2
    assert made.best("val/accuracy", "min") == 0.1


def test_nothing_reported_is_the_worst_there_is() -> None:
    assert record(0).best("val/accuracy", "max") == -math.inf
    assert record(0).best("val/loss", "min") == math.inf
    assert record(0, 0.5).best("val/unknown", "max") == -math.inf


@pytest.mark.parametrize(
    ("metric", "mode", "order"), [("val/accuracy", "max", [2, 0, 1]), ("val/loss", "min", [1, 2, 0])]
)
def test_trials_are_ranked_by_their_best_value(metric: str, mode: str, order: list[int]) -> None:
    trials = [record(0, 0.8, losses=(0.9,)), record(1, 0.2, losses=(0.1,)), record(2, 0.9, 0.1, losses=(0.5, 0.5))]
    assert [t.index for t in ranked(trials, metric, mode)] == order


def test_equals_are_ranked_by_validation_loss_then_stay_in_order() -> None:
    trials = [record(0, 0.9, losses=(0.5,)), record(1, 0.9, losses=(0.3,)), record(2, 0.9, losses=(0.5,))]
    assert [t.index for t in ranked(trials, "val/accuracy", "max")] == [1, 0, 2]


def test_failed_and_silent_trials_have_no_rank_stopped_ones_do() -> None:
    failed, silent, stopped = (
        record(0, 0.99, status="failed"),
        record(1, status="pending"),
        record(2, 0.3, status="stopped"),
    )
    nan = record(3, math.nan)
    assert [t.index for t in ranked([failed, silent, stopped, nan], "val/accuracy", "max")] == [2]
