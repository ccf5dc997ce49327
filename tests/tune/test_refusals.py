"""Searches that cannot work are refused at once, with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.tune.plan import SweepPlan, plan_sweep

LR: dict[str, Any] = {"optim.lr": {"log": [1e-4, 1e-2]}}
WHEN: dict[str, Any] = {"model.pos_encoding": ["none", "learned"], "optim.lr": [1e-4, 1e-2]}
WHEN["optim.lr"] = {"values": [1e-4, 1e-2], "when": "model.pos_encoding == learned"}


def plan(space: dict[str, Any], epochs: int = 40, **search: Any) -> SweepPlan:
    experiment = Experiment(
        data={"path": "/data"},
        model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "embed_dim": 64, "num_heads": 4},
        train={"epochs": epochs},
        search={"space": space, **search},
    )
    return plan_sweep(experiment, cpus=4, gpus=0)


@pytest.mark.parametrize(
    ("space", "search", "said"),
    [
        ({"model.depth": [2]}, {}, r"search\.space: has one valid point, .*\n.*vitray train CONFIG model\.depth=2;"),
        ({"model.num_heads": [4, 7]}, {}, r"one valid point.*\n.*model\.num_heads=4;"),
        ({"optim.betas": [[0.9, 0.95]], "model.depth": [4]}, {}, r"CONFIG model\.depth=4 optim\.betas=\[0\.9,0\.95\];"),
        (WHEN, {"algorithm": "nsga2"}, r"search\.algorithm: nsga2 crosses points.*optim\.lr has a condition.*\n.*tpe"),
        (WHEN, {"scheduler": "pbt"}, r"search\.scheduler: pbt .*optim\.lr has a condition"),
        (
            {**LR, "model.depth": [1, 2], "train.seed": [0, 1]},
            {"scheduler": "pbt"},
            r"while it trains, which model\.depth, train\.seed cannot\n.*optim\.lr, .*data\.augment\.\*",
        ),
        (LR, {"scheduler": "pbt", "from": "before"}, r"search\.from: pbt finds its values"),
        (LR, {"scheduler": "pbt", "perturb_epochs": 40}, r"search\.perturb_epochs: is 40.*\n.*perturb_epochs=4"),
        (LR, {"scheduler": "pbt", "trials": 1}, r"search\.trials: is 1, and pbt compares"),
        (LR, {"scheduler": "pbt", "algorithm": "tpe"}, "pbt finds its values while it trains"),
        (LR, {"scheduler": "pbt", "seeds": 2}, "would be another training; leave finalists and seeds at 1"),
        (LR, {"algorithm": "nsga2", "objectives": ["gflops", "fps"]}, r"search\.objectives: .*'latency_ms', got 'fps'"),
        (LR, {"metric": "val/acc"}, r"search\.metric: input should be 'val/accuracy', 'val/loss' or 'train/loss', got"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(space: dict[str, Any], search: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        plan(space, **search)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "space",
    [
        LR,
        {"train.mixup": [0.0, 0.2], "data.augment.shift": [0, 1, 2], "model.drop_path": {"uniform": [0, 0.2]}},
        {"optim.betas": [[0.9, 0.95], [0.9, 0.999]], "train.clip_grad": [None, 1.0]},
        {"data.augment.erasing.probability": [0.0, 0.5]},
    ],
)  # fmt: skip
def test_a_population_may_change_what_a_step_reads(space: dict[str, Any]) -> None:
    assert plan(space, scheduler="pbt", trials=4).search.scheduler == "pbt"


def test_conditions_are_no_trouble_to_the_others() -> None:
    for algorithm in ("random", "grid", "tpe"):
        assert len(plan(WHEN, algorithm=algorithm).points) == 3
