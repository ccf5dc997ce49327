"""A sweep's names, and its state on disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from vitray.experiment import Experiment
from vitray.tune.plan import plan_sweep
from vitray.tune.record import TrialRecord
from vitray.tune.state import Sweep, list_sweeps, write_state


def sweep(runs: Path, name: str = "digits") -> Sweep:
    experiment = Experiment(
        data={"path": "/data"},
        model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10},
        search={"space": {"model.depth": [1, 2]}},
    )
    folder = runs / name
    folder.mkdir(parents=True)
    return Sweep(name, f"{name}-0a1b", folder, plan_sweep(experiment, cpus=2, gpus=0), "fingerprint")


def records(made: Sweep) -> list[TrialRecord]:
    return [TrialRecord(i, made.plan.trial_name(i), point) for i, point in enumerate(made.plan.points)]


def test_runs_of_a_sweep_hang_together(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    assert (made.run.key, made.run.kind, made.run.parent, made.run.folder) == (
        "digits-0a1b",
        "sweep",
        None,
        made.folder,
    )
    trials = [made.trial_run(i) for i in range(2)]
    for index, trial in enumerate(trials):
        assert trial.parent == made.run.key
        assert trial.key == f"digits-0a1b/{trial.name}"
        assert trial.folder == made.folder / "trials" / trial.name
        assert trial.experiment == made.plan.trial(index)
    assert len({t.key for t in trials}) == 2


def test_the_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    known = records(made)
    known[0].take({"epoch": 1, "val/accuracy": 0.5, "start_s": 0.1, "warm": False})
    known[0].status = "done"
    write_state(made, known, "done", best="trial-0", test_accuracy=0.97)
    (state,) = list_sweeps(tmp_path)
    assert (state["name"], state["status"], state["best"], state["test_accuracy"]) == (
        "digits",
        "done",
        "trial-0",
        0.97,
    )
    assert [t["status"] for t in state["trials"]] == ["done", "pending"]
    assert state["trials"][0]["reports"] == [{"epoch": 1.0, "val/accuracy": 0.5, "start_s": 0.1}]
    assert state["search"]["space"] == {"model.depth": [1, 2]}
    assert [p.name for p in made.folder.iterdir()] == ["sweep.json"]


def test_a_state_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sweep(tmp_path)
    write_state(made, records(made), "running")

    def disk_full(*args: object, **kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_state(made, records(made), "done")
    assert [s["status"] for s in list_sweeps(tmp_path)] == ["running"]


def test_sweeps_are_listed_newest_first_and_other_runs_are_not(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        made = sweep(tmp_path, name)
        write_state(made, records(made), "done")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "experiment.yaml").write_text("data: {path: x}")
    assert [s["name"] for s in list_sweeps(tmp_path)] == ["three", "two", "one"]
    assert list_sweeps(tmp_path / "none") == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}', "null"])
def test_a_damaged_state_does_not_hide_the_others(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = sweep(tmp_path, "good")
    write_state(made, records(made), "done")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "sweep.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert [s["name"] for s in list_sweeps(tmp_path)] == ["good"]
    assert "bad/sweep.json is damaged" in caplog.text


def test_values_that_json_does_not_know_are_written_as_text(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    write_state(made, records(made), "done", model=Path("/models/x"))
    assert json.loads((made.folder / "sweep.json").read_text())["model"] == "/models/x"
