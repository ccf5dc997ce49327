"""Which trials no other one beats in all objectives, against brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from vitray.experiment import Experiment
from vitray.model_size import count_parameters, flops
from vitray.tune.pareto import front_of, objective_values, pareto_front
from vitray.tune.record import TrialRecord

OBJECTIVES = ("val/accuracy", "gflops", "latency_ms")
rows = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf, math.nan])] * width), max_size=12)
)


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """More of the first objective, less of all others."""
    better = [x > y if i == 0 else x < y for i, (x, y) in enumerate(zip(a, b, strict=True))]
    return all(won or x == y for won, x, y in zip(better, a, b, strict=True)) and any(better)


@given(rows)
def test_the_front_is_what_brute_force_finds(values: list[tuple[float, ...]]) -> None:
    whole = {i: row for i, row in enumerate(values) if not any(map(math.isnan, row))}
    expected = [i for i, row in whole.items() if not any(dominates(other, row) for other in whole.values())]
    width = len(values[0]) if values else 2
    assert pareto_front(values, OBJECTIVES[:width]) == expected


def test_a_trial_counts_with_its_best_metrics_its_last_latency_and_its_models_size() -> None:
    experiment = Experiment(
        data={"path": "/d"}, model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10}
    )
    record = TrialRecord(0, "t", {}, status="done")
    for epoch, metrics in enumerate(
        ({"val/accuracy": 0.9, "val/loss": 0.5}, {"val/accuracy": 0.8, "val/loss": 0.3, "latency_ms": 2.0})
    ):
        record.apply({"event": "report", "at": epoch, "epoch": epoch + 1, "metrics": metrics})
    names = ("val/accuracy", "val/loss", "parameters", "gflops", "latency_ms")
    expected = (0.9, 0.3, count_parameters(experiment.model), flops(experiment.model).forward / 1e9, 2.0)
    assert objective_values(record, experiment, names) == expected
    empty = TrialRecord(1, "e", {}, status="done")
    assert [math.isnan(v) for v in objective_values(empty, experiment, names)] == [True, True, False, False, True]
    stopped = TrialRecord(2, "s", {}, status="stopped", reports=record.reports)
    repeat = TrialRecord(3, "r", {}, status="done", kind="repeat", repeats=0, reports=record.reports)
    front = front_of([record, empty, stopped, repeat], lambda r: experiment, ("val/accuracy", "latency_ms"))
    assert front == [(record, (0.9, 2.0))], "those without a value, or that did not end by themselves, have no place"
