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
    asked = {"grace_epochs": grace, "reduction_factor": factor, "scheduler": scheduler}
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
    asked = {"grace_epochs": grace, "reduction_factor": factor, "scheduler": scheduler}
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


def test_epochs_that_are_searched_count_for_each_trial() -> None:
    space = {"train.epochs": [2, 4, 50]}
    one = flops(plan().experiment.model).training
    full: Any = plan(space=space, algorithm="grid", scheduler="none").describe(10)["training_flops"]
    assert full == {"expected": one * 10 * 56, "at_most": one * 10 * 56}
    stopped: Any = plan(space=space, algorithm="grid", grace_epochs=8, sections={"train.epochs": 8}).describe(10)
    assert stopped["training_flops"] == {"expected": one * 10 * 14, "at_most": one * 10 * 14}, "ASHA ends at epoch 8"
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
