"""A sweep that begins with the trials of an earlier one."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.tune.earlier import earlier_trials, kept
from vitray.tune.keys import Point
from vitray.tune.ledger import Ledger
from vitray.tune.plan import SweepPlan, plan_sweep
from vitray.tune.proposer import make_proposer
from vitray.tune.record import TrialRecord
from vitray.tune.state import Sweep, write_state

SPACE: dict[str, Any] = {
    "model.depth": [1, 2, 3],
    "optim.betas": [[0.9, 0.95], [0.9, 0.999]],
    "optim.lr": {"log": [1e-4, 1e-2]},
}
GRID: dict[str, Any] = {"model.depth": [1, 2, 3, 4], "train.mixup": [0.0, 0.2, 0.4]}


def plan(space: dict[str, Any], values: dict[str, Any] | None = None, **search: Any) -> SweepPlan:
    experiment = Experiment(
        data={"path": "/data"},
        model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "embed_dim": 64, "num_heads": 4},
        search={"space": space, **search},
    )
    return plan_sweep(experiment.with_values(values or {}), cpus=4, gpus=0)


def saved(runs: Path, made: SweepPlan, *, metrics: tuple[str, ...] = ("val/accuracy",), points: int = 6) -> list[Point]:
    """A sweep called before, of which ``points`` trials ended: the deeper, the better, but for one that failed."""
    folder = runs / "before"
    sweep = Sweep("before", "before-0", folder, made, "f00d")
    with Ledger(folder) as ledger:
        for index, point in enumerate(made.points[:points]):
            name = made.name_of(index, point)
            ledger.append("trial", index, name=name, point=point, values=point)
            ledger.append("begin", index)
            scores = dict.fromkeys(metrics, 0.1 * made.experiment.with_values(dict(point)).model.depth)
            if index != 1:
                ledger.append("report", index, epoch=1, step=10, metrics=scores)
            ledger.append("end", index, status="failed" if index == 1 else "done")
        ledger.append("trial", points, name="running", point=made.points[0], values={})
    sweep.run.write_config()
    write_state(sweep, "done")
    return list(made.points[:points])


def test_trials_come_back_as_points_of_the_new_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = saved(tmp_path, plan(SPACE))
    known = earlier_trials(tmp_path, "before", plan(SPACE, algorithm="tpe"), "f00d")
    assert [r.point for r in known.records] == points, "tuples are tuples again"
    assert not caplog.records
    narrow = plan({**SPACE, "model.depth": [2, 3]}, algorithm="tpe")
    with caplog.at_level(logging.WARNING):
        fitting = earlier_trials(tmp_path, "before", narrow, "f00d")
    assert [r.point for r in fitting.records] == [p for p in points if p["model.depth"] != 1]
    assert (
        f"{6 - len(fitting.records)} of 6 trials of sweep before lie outside this space and are left out" in caplog.text
    )


def test_a_key_that_was_not_searched_counts_with_the_value_that_the_config_had(tmp_path: Path) -> None:
    saved(tmp_path, plan(SPACE))
    wider = plan({**SPACE, "train.mixup": [0.0, 0.2]}, algorithm="tpe")
    known = earlier_trials(tmp_path, "before", wider, "f00d")
    assert [r.point["train.mixup"] for r in known.records] == [0.0] * 6
    other = plan({**SPACE, "train.mixup": [0.1, 0.2]}, algorithm="tpe")
    with pytest.raises(ConfigError, match="none of the 6 trials"):
        earlier_trials(tmp_path, "before", other, "f00d")


@pytest.mark.parametrize("algorithm", ["grid", "random", "tpe", "nsga2"])
def test_what_was_tried_is_not_tried_again(tmp_path: Path, algorithm: str) -> None:
    points = saved(tmp_path, plan(GRID, algorithm="random", seed=1))
    made = plan(GRID, algorithm=algorithm, trials=9, seed=1)
    known = earlier_trials(tmp_path, "before", made, "f00d")
    assert {frozenset(point.items()) for point in points} == known.repeated
    proposer, records = make_proposer(made, known), list[TrialRecord]()
    while (point := proposer.propose(records)) is not None:
        assert point not in points
        assert point not in [r.point for r in records]
        records.append(TrialRecord(len(records), "t", point, status="running"))
    assert len(records) == 6, "the other half of the twelve"
    if algorithm == "grid":
        assert [r.point for r in records] == [p for p in made.space.grid() if p not in points]


@pytest.mark.parametrize("algorithm", ["grid", "random", "tpe", "nsga2"])
def test_what_would_be_another_training_is_tried_again(tmp_path: Path, algorithm: str) -> None:
    """The same values of the searched keys, in a wider model."""
    points = saved(tmp_path, plan(GRID, algorithm="grid"), points=12)
    made = plan(GRID, {"model.embed_dim": 128}, algorithm=algorithm)
    known = earlier_trials(tmp_path, "before", made, "f00d")
    assert ([r.point for r in known.records], known.repeated) == (points, frozenset())
    assert make_proposer(made, known).propose([]) in points


def test_a_space_that_was_tried_whole_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, plan(GRID, algorithm="grid"), points=12)
    for algorithm in ("grid", "random", "tpe"):
        with pytest.raises(ConfigError, match=r"search\.from: sweep 'before' has tried every point of this space"):
            earlier_trials(tmp_path, "before", plan(GRID, algorithm=algorithm), "f00d")


def test_what_a_sweep_began_with_stays_with_it(tmp_path: Path) -> None:
    saved(tmp_path, plan(SPACE))
    made = plan(SPACE, algorithm="tpe", seed=3)
    found = kept(tmp_path / "mine", lambda: earlier_trials(tmp_path, "before", made, "f00d"))
    shutil.rmtree(tmp_path / "before")
    again = kept(tmp_path / "mine", lambda: pytest.fail("it was to be read"))
    assert again == found
    assert make_proposer(made, again).propose([]) == make_proposer(made, found).propose([]) is not None


def test_tpe_and_nsga2_learn_from_them(tmp_path: Path) -> None:
    space = {"model.depth": {"int": [1, 40]}, "optim.lr": {"log": [1e-4, 1e-2]}}
    saved(tmp_path, plan(space, trials=40), points=40, metrics=("val/accuracy", "val/loss"))
    for algorithm, options in (("tpe", {}), ("nsga2", {"objectives": ["val/accuracy", "val/loss"]})):
        made = plan(space, algorithm=algorithm, trials=8, **options)
        known = earlier_trials(tmp_path, "before", made, "f00d")
        depth = made.space.dimensions["model.depth"]
        assert depth.size == 40
        first = make_proposer(made, known).propose([])
        cold = make_proposer(made).propose([])
        assert first is not None
        assert first != cold
        if algorithm == "tpe":
            assert first["model.depth"] > 25, "the deeper, the better it was"


def test_what_cannot_be_begun_with_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, plan(SPACE), metrics=("train/loss",))
    same = plan(SPACE, algorithm="tpe")

    def refused(said: str, made: SweepPlan = same, name: str = "before", fingerprint: str = "f00d") -> None:
        with pytest.raises(ConfigError, match=said):
            earlier_trials(tmp_path, name, made, fingerprint)

    refused(r"no sweep named 'befor'\n.*did you mean 'before'", name="befor")
    refused(r"search\.from: sweep 'before' was of other data \(fingerprint f00d, not beef\)", fingerprint="beef")
    refused(r"reported val/accuracy\n.*they reported train/loss")
    nsga2 = plan(SPACE, algorithm="nsga2", objectives=["train/loss", "latency_ms"])
    refused("reported latency_ms", nsga2)
    assert earlier_trials(tmp_path, "before", plan(SPACE, algorithm="random"), "f00d"), "which learns nothing of them"
    elsewhere = plan({"model.depth": [7, 8], "train.mixup": [0.0, 0.1]})
    refused(r"none of the 6 trials .* it searched model\.depth, optim\.betas, optim\.lr\n.*model\.depth", elsewhere)
    with Ledger(tmp_path / "before"):
        (tmp_path / "before" / "sweep.json").write_text(
            (tmp_path / "before" / "sweep.json").read_text().replace('"done"', '"running"')
        )
        refused(r"'before' still runs\n.*wait for it")


def test_a_sweep_that_trained_nothing_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, plan(SPACE), points=0)
    with pytest.raises(ConfigError, match="no trial of sweep 'before' was trained"):
        earlier_trials(tmp_path, "before", plan(SPACE), "f00d")
