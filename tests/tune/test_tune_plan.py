"""A sweep worked out before it starts: points, names, rungs, resources, and what it says of itself."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitray.errors import ConfigError, ResourceError
from vitray.experiment import Experiment
from vitray.model_size import count_parameters, flops
from vitray.tune.plan import SweepPlan, plan_sweep
from vitray.tune.speed import Speed

SPACE = {"model.depth": [1, 2, 3], "model.num_heads": [2, 4, 7], "optim.lr": {"log": [1e-3, 1e-2]}}


def plan(cpus: float = 4, gpus: float = 0, sections: dict[str, Any] | None = None, **search: Any) -> SweepPlan:
    base = Experiment(
        data={"path": "/data"},
        model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "embed_dim": 64, "num_heads": 4},
        search={"space": SPACE, "trials": 9, **search},
    )
    return plan_sweep(base.with_values(sections or {}), cpus=cpus, gpus=gpus)


def test_trials_are_the_experiment_with_their_points_values() -> None:
    made = plan()
    assert len(made.points) == 9
    for index, point in enumerate(made.points):
        trial = made.trial(index)
        assert {key: trial.flat()[key] for key in point} == dict(point)
        assert trial.data == made.experiment.data


def test_names_are_unique_and_the_same_in_every_process() -> None:
    names = [plan().trial_name(i) for i in range(9)]
    assert len(set(names)) == 9
    assert names == [plan(cpus=16).trial_name(i) for i in range(9)]
    assert names[3].startswith("trial-0003-")
    assert names[3].endswith(plan().trial(3).identity[:8])
    assert names != [plan(seed=1).trial_name(i) for i in range(9)]


@given(
    st.integers(1, 60), st.integers(1, 100), st.integers(1, 20), st.integers(2, 5), st.sampled_from(["asha", "none"])
)
def test_rungs_rise_in_epochs_fall_in_trials_and_end_with_the_last_epoch(
    trials: int, epochs: int, grace: int, factor: int, scheduler: str
) -> None:
    asked: dict[str, Any] = {"grace_epochs": grace, "reduction_factor": factor, "scheduler": scheduler}
    made = plan(sections={"train.epochs": epochs}, trials=trials, **asked)
    rungs = made.rungs()
    at, counts = [epoch for epoch, _ in rungs], [count for _, count in rungs]
    assert at == sorted(set(at))
    assert at[-1] == epochs
    assert at[0] == (min(grace, epochs) if scheduler == "asha" else epochs)
    assert all(b == a * factor for a, b in pairwise(at[:-1]))
    assert counts[0] == len(made.points)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= 1


def test_no_more_groups_than_trials() -> None:
    assert plan(cpus=64).groups.groups == 9
    assert plan(cpus=4).groups.groups == 4
    assert plan(cpus=64, concurrent=3).groups.groups == 3
    assert plan(cpus=64, concurrent=3, trials=2).groups.groups == 2
    assert plan(cpus=64, gpus=2).groups.groups == 2


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"search\.concurrent=4"):
        plan(cpus=4, concurrent=5)
    with pytest.raises(ResourceError, match="8 workers need 8 CPUs"):
        plan(cpus=4, sections={"cluster.workers": 8})


def test_trials_that_train_on_the_val_split_could_not_be_compared() -> None:
    with pytest.raises(ConfigError, match=r"train\.split: is train\+val"):
        plan(sections={"train.split": "train+val"})


def test_the_description_is_plain_data_and_counts_the_space() -> None:
    facts = plan(metric="val/loss").describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["space"] == SPACE
    assert facts["points_in_grid"] is None
    assert facts["valid_points"] is None
    assert (facts["architectures"], facts["valid_architectures"]) == (9, 6)
    assert facts["refused"] == {"num_heads 7 does not divide embed_dim 64": 3}
    assert (facts["trials"], facts["trials_at_once"]) == (9, 4)
    assert facts["metric"] == "min val/loss"
    discrete = plan(space={"model.depth": [1, 2], "train.mixup": [0.0, 0.1, 0.2]}).describe()
    assert (discrete["points_in_grid"], discrete["valid_points"], discrete["trials"]) == (6, 6, 6)


def test_the_cheapest_and_the_dearest_architecture_are_named_with_their_cost() -> None:
    made = plan()
    facts = made.describe()
    costs = {
        (depth, heads): made.experiment.with_values({"model.depth": depth, "model.num_heads": heads}).model
        for depth in (1, 2, 3)
        for heads in (2, 4)
    }
    training = {key: flops(model).training for key, model in costs.items()}
    for end, pick in (("cheapest", min), ("dearest", max)):
        said: Any = facts[end]
        key = said["point"]["model.depth"], said["point"]["model.num_heads"]
        assert said["training_flops_an_image"] == training[key] == pick(training.values())
        assert said["parameters"] == count_parameters(costs[key])


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 9), st.integers(2, 4), st.sampled_from(["asha", "none"]))
def test_operations_are_at_most_those_of_every_trial_and_fewer_where_trials_are_stopped(
    trials: int, epochs: int, grace: int, factor: int, scheduler: str
) -> None:
    asked: dict[str, Any] = {"grace_epochs": grace, "reduction_factor": factor, "scheduler": scheduler}
    made = plan(sections={"train.epochs": epochs}, trials=trials, **asked)
    said: Any = made.describe(100)["training_flops"]
    each = [flops(made.trial(index).model).training * 100 for index in range(len(made.points))]
    assert said["at_most"] == sum(each) * epochs
    begun, expected = 0, 0.0
    for epoch, count in made.rungs():
        expected += (epoch - begun) * count * sum(each) / len(each)
        begun = epoch
    assert said["expected"] == pytest.approx(expected)
    assert said["expected"] <= said["at_most"] * (1 + 1e-9)


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_what_is_proposed_later_is_stood_for_by_random_points(algorithm: str) -> None:
    made = plan(algorithm=algorithm)
    facts = made.describe(100)
    assert facts["proposed"] == "at most 9 trials, proposed as results come in"
    assert (facts["trials"], facts["algorithm"]) == (9, algorithm)
    assert made.points == plan(algorithm="random").points
    assert "proposed" not in plan().describe()


def test_a_name_is_that_of_the_values_wherever_they_come_from() -> None:
    made = plan()
    assert made.name_of(3, made.points[3]) == made.trial_name(3)
    assert made.name_of(3, {**made.points[3], "train.seed": 1}) != made.trial_name(3)
    assert made.name_of(3, {"optim.betas": [0.9, 0.99]}) == made.name_of(3, {"optim.betas": (0.9, 0.99)})


def test_architectures_are_counted_once_whatever_decides_on_them() -> None:
    space = {
        "model.depth": [1, 2],
        "train.epochs": [10, 20, 30],
        "model.num_heads": {"values": [4, 7], "when": "train.epochs == 30"},
    }
    facts = plan(space=space).describe()
    assert (facts["architectures"], facts["valid_architectures"]) == (6, 4), "two depths: no heads, 4 heads, 7 heads"
    assert (facts["combinations"], facts["valid_combinations"]) == (8, 6)
    assert facts["refused"] == {"num_heads 7 does not divide embed_dim 64": 2}


def test_what_follows_the_search_is_counted_apart() -> None:
    search: dict[str, Any] = {"space": {"train.seed": [0, 1]}, "algorithm": "grid", "scheduler": "none"}
    one = flops(plan().experiment.model).training * 10 * 40  # a training of 40 epochs over ten images
    facts: Any = plan(**search, finalists=2, seeds=3, retrain_epochs=80).describe(10)
    assert facts["training_flops"] == {"expected": 2 * one, "at_most": 2 * one}
    after = {"repeats": 6, "retraining_epochs": 80, "training_flops": {"expected": 8 * one, "at_most": 8 * one}}
    assert facts["afterwards"] == {**after, "worker_hours": None}
    facts = plan(**search, retrain=False).describe(10)
    nothing = {"repeats": 0, "retraining_epochs": None, "training_flops": {"expected": 0, "at_most": 0}}
    assert facts["afterwards"] == {**nothing, "worker_hours": None}


def test_hours_follow_from_the_speed_and_stay_within_the_budget() -> None:
    search: dict[str, Any] = {"space": {"train.seed": [0, 1, 2, 3]}, "algorithm": "grid", "scheduler": "none"}
    sections = {"train.global_batch": 32, "train.epochs": 10}
    a_step = 0.5 + 1e-9 * 32 * flops(plan().experiment.model).training
    hours = 4 * 10 * 4 * a_step / 3600  # trials, epochs, steps an epoch
    speed = Speed(0.5, 1e-9, "as it was")
    facts: Any = plan(sections=sections, **search).describe(100, speed)
    expected = {"expected": pytest.approx(hours), "at_most": pytest.approx(hours), "source": "as it was"}
    assert facts["worker_hours"] == expected
    assert facts["wall_hours_expected"] == pytest.approx(hours / 4)
    assert facts["afterwards"]["worker_hours"]["expected"] == pytest.approx(hours / 4), "one retraining"
    less: Any = plan(sections=sections, **search, budget={"worker_hours": 0.001}).describe(100, speed)
    assert less["worker_hours"]["at_most"] == 0.001
    assert less["budget"] == {"worker_hours": 0.001}
    half: Any = plan(sections=sections, **search, budget={"trials": 2}).describe(100, speed)
    assert half["worker_hours"]["at_most"] == pytest.approx(hours / 2)
    assert plan(**search).describe(100)["worker_hours"] is None, "nothing is known of the speed"


def test_epochs_that_are_searched_count_for_each_trial() -> None:
    space = {"train.epochs": [2, 4, 50]}
    one = flops(plan().experiment.model).training
    full: Any = plan(space=space, algorithm="grid", scheduler="none").describe(10)["training_flops"]
    assert full == {"expected": one * 10 * 56, "at_most": one * 10 * 56}
    made = plan(space=space, algorithm="grid", grace_epochs=8, sections={"train.epochs": 8})
    assert made.epochs == 50, "ASHA lets the longest run to its end"
    assert [epoch for epoch, _ in made.rungs()] == [8, 24, 50]
    stopped: Any = made.describe(10)["training_flops"]
    assert stopped["at_most"] == one * 10 * 56
    assert stopped["expected"] == one * 10 * (2 + 4 + 8 + (24 - 8) / 3 + (50 - 24) / 3)
    assert "training_flops" not in plan().describe(), "how many images there are is not known"


def test_a_plan_of_ten_million_points_is_made_at_once() -> None:
    start = time.process_time()
    made = plan(
        space={
            "model.depth": [1, 2, 3], "model.pos_encoding": ["learned", "relative"], "train.seed": {"int": [0, 999]},
            "train.global_batch": {"int": [8, 256, 8]}, "optim.lr": {"quant": [0.001, 0.1, 0.001]},
            "model.registers": {"values": [0, 4], "when": "model.pos_encoding == relative"},
        },
    )  # fmt: skip
    assert made.describe(1000)["points_in_grid"] == 9 * 1000 * 32 * 100
    assert time.process_time() - start < 2
