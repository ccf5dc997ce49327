"""What a sweep tries next: valid points alone, none twice, and after a restart the very same ones."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.tune.keys import Point
from vitray.tune.plan import SweepPlan, plan_sweep
from vitray.tune.proposer import Proposer, make_proposer
from vitray.tune.record import TrialRecord

ALGORITHMS = ("grid", "random", "tpe", "nsga2")
SPACE: dict[str, Any] = {
    "model.depth": [1, 2, 3, 4],
    "model.num_heads": [2, 4, 7],
    "model.pos_encoding": ["none", "learned", "rope_2d"],
    "optim.lr": {"log": [1e-4, 1e-2]},
}


def plan(space: dict[str, Any], **search: Any) -> SweepPlan:
    experiment = Experiment(
        data={"path": "/data"},
        model={
            "image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10,
            "embed_dim": 64, "num_heads": 4, "depth": 2,
        },
        search={"space": space, **search},
    )  # fmt: skip
    return plan_sweep(experiment, cpus=4, gpus=0)


def record(
    index: int, point: Point, status: str = "running", score: float = 0.5, epochs: int = 2, took: float = 9.0
) -> TrialRecord:
    made = TrialRecord(index, f"trial-{index}", dict(point), values=dict(point))
    began, made_in = 10.0 * index, took / (epochs + 1)
    made.apply({"event": "begin", "at": began})
    for epoch in range(1, epochs + 1):
        metrics = {"val/accuracy": score * epoch / epochs, "val/loss": 1 - score, "latency_ms": 1 + score}
        made.apply({"event": "report", "at": began + made_in * epoch, "epoch": epoch, "metrics": metrics})
    if status != "running":
        made.apply({"event": "end", "at": began + took, "status": status})
    return made


def reread(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """As a ledger that was read gives them: tuples are lists."""
    return [TrialRecord(**json.loads(json.dumps(dataclasses.asdict(r)))) for r in records]


def frozen(point: Point) -> frozenset[tuple[str, Any]]:
    return frozenset(point.items())


def run(proposer: Proposer, judge: Callable[[int, Point], TrialRecord], at_once: int = 1) -> list[TrialRecord]:
    """A whole search, in which ``at_once`` trials have not ended when the next one is proposed."""
    records: list[TrialRecord] = []
    while (point := proposer.propose(records)) is not None:
        records.append(record(len(records), point))
        if (ended := len(records) - at_once) >= 0:
            records[ended] = judge(ended, records[ended].point)
    return records


raw_spaces = st.fixed_dictionaries(
    {"model.num_heads": st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=2, unique=True)},
    optional={
        "model.patch_size": st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, unique=True),
        "model.pos_encoding": st.lists(st.sampled_from(["none", "learned", "rope_2d"]), min_size=1, unique=True),
        "train.mixup": st.lists(st.sampled_from([0.0, 0.2, 0.4]), min_size=1, unique=True),
        "optim.betas": st.just([(0.9, 0.95), (0.9, 0.999)]),
        "train.clip_grad": st.just([None, 1.0, 5.0]),
        "train.compile": st.just([True, False]),
    },
)
endings = st.lists(
    st.tuples(st.sampled_from(["done", "done", "stopped", "failed"]), st.floats(1, 60)), min_size=16, max_size=16
)


@pytest.mark.slow
@settings(max_examples=80)
@given(
    raw_spaces, st.sampled_from(ALGORITHMS), st.booleans(), st.integers(1, 16), st.integers(0, 3), endings,
    st.integers(0, 15),
)  # fmt: skip
def test_proposals_are_valid_and_different_and_the_same_after_a_restart(
    raw: dict[str, Any], algorithm: str, continuous: bool, trials: int, seed: int, ends: list[tuple[str, float]],
    stop: int,
) -> None:  # fmt: skip
    if continuous and algorithm != "grid":
        raw = raw | {"optim.lr": {"log": [1e-4, 1e-2]}}
    if algorithm in ("random", "tpe"):
        raw = raw | {"model.registers": {"values": [0, 4], "when": "model.num_heads != 2"}}
    try:
        made = plan(raw, algorithm=algorithm, trials=trials, seed=seed)
    except ConfigError:
        return  # no point or one point: nothing to search
    proposer, points = make_proposer(made), list[Point]()

    def known(count: int) -> list[TrialRecord]:
        """The first trials when the next one is proposed: some have ended, in whatever order, and others run."""
        found = []
        for index, (status, took) in enumerate(ends[:count]):
            ended = 10 * index + took <= 10 * count
            score = math.sin(7.0 * index) ** 2
            found.append(record(index, points[index], status if ended else "running", score, took=took))
        return found

    while (point := proposer.propose(known(len(points)))) is not None:
        points.append(point)
    assert len(points) == min(trials, made.space.valid_size), "as many as were asked for, or all that there are"
    assert len({frozen(p) for p in points}) == len(points)
    for index, point in enumerate(points):
        assert dict(point) == dict(made.space.canonical(point))
        made.experiment.with_values(dict(point))
        assert made.name_of(index, point).startswith(f"trial-{index:04d}-")
    stop = min(stop, len(points) - 1)
    again = make_proposer(made).propose(reread(known(stop)))
    assert again == points[stop], "a new process goes on as the old one would"


def test_a_grid_is_proposed_in_order_and_random_points_as_the_plan_has_them() -> None:
    for algorithm in ("grid", "random"):
        made = plan({"model.depth": [1, 2, 3], "train.mixup": [0.0, 0.5]}, algorithm=algorithm)
        records = run(make_proposer(made), lambda i, p: record(i, p, "done"))
        assert [r.point for r in records] == list(made.points)


def test_points_that_pbt_changed_are_not_begun_with_again() -> None:
    made = plan({"optim.lr": {"log": [1e-4, 1e-2]}}, scheduler="pbt", trials=4, grace_epochs=1)
    records = [record(i, made.points[i]) for i in range(3)]
    for moved in records:
        moved.apply({"event": "change", "epoch": 1, "donor": 0, "point": {"optim.lr": made.points[3]["optim.lr"]}})
    assert make_proposer(made).propose(records) == made.points[3]
    assert make_proposer(made).propose([*records, record(3, made.points[3])]) is None


def test_tpe_finds_a_better_place_than_chance() -> None:
    space = {"optim.lr": {"log": [1e-5, 1e-1]}, "train.mixup": {"uniform": [0, 1]}, "model.depth": [1, 2, 3, 4]}

    def judge(index: int, point: Point) -> TrialRecord:
        far = abs(math.log10(point["optim.lr"]) + 3) + abs(point["train.mixup"] - 0.3) + abs(point["model.depth"] - 3)
        return record(index, point, "done", 1 / (1 + far))

    best = {}
    for algorithm in ("tpe", "random"):
        scores = []
        for seed in range(3):
            records = run(make_proposer(plan(space, algorithm=algorithm, trials=30, seed=seed)), judge, at_once=2)
            scores.append(max(r.best("val/accuracy", "max") for r in records))
        best[algorithm] = sum(scores) / len(scores)
    assert best["tpe"] > best["random"] + 0.03


@pytest.mark.parametrize("conditional", [False, True])
def test_a_restart_in_a_long_search_changes_nothing(conditional: bool) -> None:
    space = dict(SPACE)
    if conditional:
        space["train.mixup"] = {"uniform": [0, 1], "when": "model.pos_encoding == learned"}
    for algorithm in ("tpe",) if conditional else ("tpe", "nsga2"):  # nsga2 in generations of four
        made = plan(space, algorithm=algorithm, trials=20)
        records = run(make_proposer(made), lambda i, p: record(i, p, "done", 1 / p["model.depth"]), at_once=2)
        for stop in (11, 19):
            before = [r if r.index < stop - 1 else record(r.index, r.point) for r in records[:stop]]
            assert make_proposer(made).propose(reread(before)) == records[stop].point


def test_nsga2_breeds_from_the_front() -> None:
    space = {"optim.lr": {"log": [1e-5, 1e-1]}, "train.mixup": {"uniform": [0, 1]}, "model.depth": [1, 2, 3, 4]}

    def off(point: Point) -> float:
        return abs(math.log10(point["optim.lr"]) + 3) + abs(point["train.mixup"] - 0.3)

    made = plan(space, algorithm="nsga2", objectives=["val/accuracy", "parameters"], trials=80)
    records = run(make_proposer(made), lambda i, p: record(i, p, "done", 1 / (1 + off(p))))
    first, last = ([off(r.point) for r in part] for part in (records[:20], records[-20:]))
    assert sum(last) < 0.5 * sum(first)
    assert len({r.point["model.depth"] for r in records[-20:]}) > 1, "what is small stays beside what is good"
