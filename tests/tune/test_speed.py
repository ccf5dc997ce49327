"""How fast trainings run here, from the sweeps that ran and from a matrix product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitray.experiment import Experiment
from vitray.model_size import flops
from vitray.train.resources import plan_groups
from vitray.train.run import Run
from vitray.tune.ledger import Ledger
from vitray.tune.plan import plan_sweep
from vitray.tune.speed import Speed, assumed, measured, speed_of
from vitray.tune.state import Sweep, write_state

STEP_S, FLOP_S = 0.02, 1e-10


def experiment(**sections: Any) -> Experiment:
    return Experiment(
        data={"path": "/data"},
        model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "embed_dim": 64, "num_heads": 4},
        search={"space": {"model.depth": [1, 2, 3, 6], "train.global_batch": [32, 64]}, "algorithm": "grid"},
        **sections,
    )


def saved(runs: Path, name: str, made: Experiment, *, slow: tuple[int, ...] = (), trials: int = 8) -> None:
    """A sweep whose trials took what a line says, and some of them ten times as much."""
    plan = plan_sweep(made, cpus=4, gpus=0)
    sweep = Sweep(name, f"{name}-0", runs / name, plan, "f00d")
    with Ledger(sweep.folder) as ledger:
        for index, point in enumerate(plan.points[:trials]):
            trial = plan.trial(index)
            ranks = 2 if made.cluster.workers == 2 else 1
            work = STEP_S + FLOP_S * flops(trial.model).training * trial.train.global_batch
            seconds = 100 * work / ranks * (10 if index in slow else 1)
            ledger.append("trial", index, name=plan.trial_name(index), point=point, values=dict(point))
            ledger.append("begin", index, at=1000.0)
            start = {"start_s": 0.1 if index else 30.0, "warm": index > 0}
            ledger.append("report", index, at=1000.5, epoch=4, step=100, metrics={}, **start)
            ledger.append("end", index, at=1000.0 + seconds + (0 if index else 30.0), status="done")
    Run("k", name, "sweep", sweep.folder, made, "f00d").write_config()
    write_state(sweep, "done")


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_what_earlier_trials_took_whatever_a_few_waited_for(tmp_path: Path, workers: int) -> None:
    made = experiment(cluster={"workers": workers})
    saved(tmp_path, "before", made, slow=(3,))
    speed = measured(tmp_path, made)
    assert speed is not None
    assert (speed.step_s, speed.flop_s) == (pytest.approx(STEP_S, rel=0.2), pytest.approx(FLOP_S, rel=0.2))
    assert speed.source == "as 8 trials of sweep before took"
    deep = made.with_values({"model.depth": 12, "train.global_batch": 32})
    expected = 4 * (speed.step_s + speed.flop_s * flops(deep.model).training * 32)
    assert speed.seconds(deep, 100) == pytest.approx(expected), "three steps and a short one"


def test_trials_of_one_size_tell_the_proportion(tmp_path: Path) -> None:
    one = experiment().with_values({"search.space": {"train.seed": [0, 1, 2]}})
    saved(tmp_path, "before", one)
    speed = measured(tmp_path, one)
    assert speed is not None
    operations = flops(one.model).training * one.train.global_batch
    assert speed.step_s == 0
    assert speed.flop_s == pytest.approx((STEP_S + FLOP_S * operations) / operations)
    speed = measured(tmp_path, one, Speed(0.5, FLOP_S, "assumed"))
    assert speed is not None
    assert (speed.step_s, speed.flop_s) == (pytest.approx(STEP_S), FLOP_S), "or the part that grows with it is known"
    speed = measured(tmp_path, one, Speed(0.5, 100 * FLOP_S, "assumed"))
    assert speed is not None
    assert speed.step_s == 0, "not so: they took less than that"


def test_what_ran_otherwise_or_hardly_at_all_says_nothing(tmp_path: Path) -> None:
    made = experiment()
    assert measured(tmp_path / "none", made) is None
    saved(tmp_path, "few", made, trials=2)
    assert measured(tmp_path, made) is None
    saved(tmp_path, "cpu", experiment(cluster={"use_gpu": False}))
    assert measured(tmp_path, made) is None
    saved(tmp_path, "bf16", made.with_values({"train.precision": "bfloat16"}))
    assert measured(tmp_path, made) is None
    (tmp_path / "bf16" / "experiment.yaml").write_text("data: {path: /d}\nmodel: {deep: 1}\n")
    assert measured(tmp_path, made.with_values({"train.precision": "bfloat16"})) is None, "a config of another version"


def test_else_it_is_assumed_from_a_matrix_product_on_cpus_alone(tmp_path: Path) -> None:
    made = experiment()
    groups = plan_groups(made.cluster, cpus=2, gpus=0)
    speed = speed_of(tmp_path, made, groups)
    assert speed is not None
    assert "of a matrix product here, no sweep yet" in speed.source
    assert 0 < speed.flop_s < 1e-6
    assert speed_of(tmp_path, made, groups, here=False) is None, "nothing is known of a cluster elsewhere"
    assert speed_of(tmp_path, made, plan_groups(made.cluster, cpus=2, gpus=1)) is None
    two = plan_groups(made.with_values({"cluster.workers": 2}).cluster, cpus=4, gpus=0)
    assert assumed(two).step_s == 2 * speed.step_s
