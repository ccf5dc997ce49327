"""A sweep's names, and its state on disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.tune.ledger import Ledger, read_records
from vitray.tune.plan import plan_sweep
from vitray.tune.record import TrialRecord
from vitray.tune.state import Sweep, list_sweeps, load_sweep, write_state


def sweep(runs: Path, name: str = "digits") -> Sweep:
    experiment = Experiment(
        data={"path": "/data"},
        model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10},
        search={"space": {"model.depth": [1, 2]}},
    )
    folder = runs / name
    folder.mkdir(parents=True)
    return Sweep(name, f"{name}-0a1b", folder, plan_sweep(experiment, cpus=2, gpus=0), "fingerprint")


def begin(made: Sweep, ledger: Ledger, *, kind: str = "search", **values: object) -> TrialRecord:
    """Propose the next point."""
    index = len(ledger.records)
    point = made.plan.points[index % len(made.plan.points)]
    name = "final" if kind == "final" else made.plan.name_of(index, point)
    facts = {"name": name, "kind": kind, "point": dict(point), "values": {**point, **values}}
    return ledger.append("trial", index, **facts, repeats=None)


def test_runs_of_a_sweep_hang_together(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    run = made.run
    assert (run.key, run.kind, run.parent, run.folder) == ("digits-0a1b", "sweep", None, made.folder)
    with Ledger(made.folder) as ledger:
        records = [begin(made, ledger), begin(made, ledger), begin(made, ledger, kind="final", **{"train.epochs": 3})]
    runs = [made.run_of(record) for record in records]
    for record, trial in zip(records, runs, strict=True):
        assert trial.parent == made.run.key
        assert trial.key == f"digits-0a1b/{record.name}"
        assert trial.experiment == made.plan.experiment.with_values(dict(record.values))
    assert [r.folder for r in runs[:2]] == [made.folder / "trials" / r.name for r in records[:2]]
    assert runs[2].folder == made.folder / "final"
    assert [r.kind for r in runs] == ["trial", "trial", "final"]
    assert [r.experiment.train.epochs for r in runs] == [40, 40, 3]
    assert len({r.key for r in runs}) == 3


def test_the_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    made.run.write_config()
    with Ledger(made.folder) as ledger:
        begin(made, ledger)
        begin(made, ledger)
        ledger.append("begin", 0, at=1.0)
        facts = {"epoch": 1, "step": 10, "metrics": {"val/accuracy": 0.5}, "start_s": 0.1, "warm": False}
        ledger.append("report", 0, at=2.0, **facts)
        ledger.append("end", 0, at=3.0, status="done")
        write_state(made, "done", best="trial-0", test_accuracy=0.97)
        known = list(ledger.records.values())
    (listed,), state = list_sweeps(tmp_path), load_sweep(tmp_path, "digits")
    assert listed.describe() == state.describe()
    assert [(r.status, r.spans) for r in listed.records] == [("done", [[1.0, 3.0]]), ("pending", [])]
    assert (state.name, state.status, state.fingerprint) == ("digits", "done", "fingerprint")
    assert state.facts == {"best": "trial-0", "test_accuracy": 0.97}
    assert state.records == known == read_records(made.folder)
    assert [(r.status, r.epoch, r.start_s) for r in known] == [("done", 1, 0.1), ("pending", 0, None)]
    assert known[0].reports == [{"epoch": 1.0, "step": 10.0, "at": 2.0, "val/accuracy": 0.5}]
    assert state.experiment == made.plan.experiment
    assert state.search["space"] == {"model.depth": [1, 2]}
    assert state.describe()["trials"] == {"done": 1, "stopped": 0, "failed": 0, "running": 0, "pending": 1}
    assert not list(made.folder.glob("*.tmp"))


def test_a_state_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sweep(tmp_path)
    write_state(made, "failed")

    def broken(*args: object, **kwargs: object) -> str:
        raise OSError(5, "Input/output error")  # a full disk would be waited for

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(OSError, match="Input/output"):
        write_state(made, "done")
    assert [s.status for s in list_sweeps(tmp_path)] == ["failed"]


def test_a_running_sweep_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    with Ledger(made.folder):
        write_state(made, "running")
        assert load_sweep(tmp_path, "digits").status == "running"
    assert load_sweep(tmp_path, "digits").status == "interrupted"


def test_sweeps_are_listed_newest_first_and_other_runs_are_not(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write_state(sweep(tmp_path, name), "done")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "experiment.yaml").write_text("data: {path: x}")
    assert [s.name for s in list_sweeps(tmp_path)] == ["three", "two", "one"]
    assert list_sweeps(tmp_path / "none") == []


def test_an_unknown_sweep_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    write_state(sweep(tmp_path), "done")
    with pytest.raises(ConfigError, match=r"no sweep named 'digit'\n.*'digits'"):
        load_sweep(tmp_path, "digit")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}', "null"])
def test_a_damaged_state_does_not_hide_the_others(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_state(sweep(tmp_path, "good"), "done")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "sweep.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert [s.name for s in list_sweeps(tmp_path)] == ["good"]
    assert "bad/sweep.json is damaged" in caplog.text
    with pytest.raises(ConfigError, match="is damaged"):
        load_sweep(tmp_path, "bad")


def test_values_that_json_does_not_know_are_written_as_text(tmp_path: Path) -> None:
    made = sweep(tmp_path)
    write_state(made, "done", model=Path("/models/x"))
    assert json.loads((made.folder / "sweep.json").read_text())["facts"] == {"model": "/models/x"}
