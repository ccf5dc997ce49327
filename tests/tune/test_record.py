"""What is known of trials: kept metrics, best values, ranks, the time that groups had them."""

from __future__ import annotations

import math

import pytest

from vitray.tune.record import TrialRecord, busy_seconds, metrics_of, ranked


def record(index: int, *accuracies: float, losses: tuple[float, ...] = (), status: str = "done") -> TrialRecord:
    made = TrialRecord(index, f"trial-{index}", {"model.depth": index}, status=status)  # type: ignore[arg-type]
    for epoch, accuracy in enumerate(accuracies, start=1):
        loss = losses[epoch - 1] if losses else 1.0
        report(made, epoch, {"val/accuracy": accuracy, "val/loss": loss})
    return made


def report(made: TrialRecord, epoch: int, metrics: dict[str, float], at: float = 0.0, **start: object) -> None:
    made.apply({"event": "report", "epoch": epoch, "step": 10 * epoch, "at": at, "metrics": metrics, **start})


def test_a_result_is_kept_as_numbers_without_what_tune_adds() -> None:
    result = {
        "epoch": 2, "step": 20, "timestamp_ms": 123, "checkpoint": "/c", "done": False, "warm": True, "start_s": 0.25,
        "val/accuracy": 0.5, "train/loss": 1, "lr": 1e-3, "images_per_s": 10, "training_iteration": 2,
        "time_total_s": 3.0, "pid": 77, "config": {"index": 0}, "val/flag": True,
    }  # fmt: skip
    assert metrics_of(result) == {"val/accuracy": 0.5, "train/loss": 1.0, "lr": 1e-3, "images_per_s": 10.0}


def test_a_report_tells_where_and_when() -> None:
    made = TrialRecord(0, "t", {})
    report(made, 2, {"val/accuracy": 0.5}, at=7.5, start_s=0.25, warm=True)
    assert (made.epoch, made.start_s, made.warm) == (2, 0.25, True)
    assert made.reports == [{"epoch": 2.0, "step": 20.0, "at": 7.5, "val/accuracy": 0.5}]


def test_the_first_reports_start_time_stands() -> None:
    made = TrialRecord(0, "t", {})
    report(made, 1, {}, start_s=0.2, warm=True)
    report(made, 2, {}, start_s=9.0, warm=False)
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


def test_a_trial_takes_the_time_that_groups_had_it() -> None:
    made = TrialRecord(0, "t", {})
    made.apply({"event": "begin", "at": 100.0})
    report(made, 1, {}, at=130.0)
    assert made.seconds == 30.0, "it runs: its last word is what is known"
    made.apply({"event": "begin", "at": 500.0})  # its driver was killed in between, and wrote down no end
    assert made.spans == [[100.0, 130.0], [500.0]]
    made.apply({"event": "pause", "at": 520.0})
    made.apply({"event": "pause", "at": 590.0})  # said twice: it was with no group any more
    assert (made.status, made.seconds) == ("running", 50.0)
    made.apply({"event": "end", "at": 600.0, "status": "stopped", "ended_by": "asha"})
    assert (made.status, made.ended_by, made.ended, made.seconds) == ("stopped", "asha", True, 50.0)


def test_a_change_of_values_keeps_those_it_began_with() -> None:
    made = TrialRecord(0, "t", {"optim.lr": 1.0}, values={"optim.lr": 1.0, "train.seed": 3})
    for epoch, rate in ((4, 0.8), (8, 0.64)):
        made.apply({"event": "change", "epoch": epoch, "donor": 1, "point": {"optim.lr": rate}, "at": 0.0})
    assert made.begun_with == {"optim.lr": 1.0}
    assert made.point == {"optim.lr": 0.64}
    assert made.values == {"optim.lr": 0.64, "train.seed": 3}
    assert [(c["epoch"], c["donor"], c["point"]) for c in made.changes] == [
        (4, 1, {"optim.lr": 0.8}), (8, 1, {"optim.lr": 0.64})
    ]  # fmt: skip


def test_trials_side_by_side_keep_groups_busy_once() -> None:
    given: list[list[list[float]]] = [[[0, 10], [100, 110]], [[5, 20]], [[8]]]
    trials = [TrialRecord(i, "t", {}, spans=spans) for i, spans in enumerate(given)]
    assert busy_seconds(trials, now=30.0) == 30.0 + 10.0
    assert busy_seconds([], now=30.0) == 0.0
