"""A sweep whose driver is killed, interrupted at once, interrupted politely, and in the end gets there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from command_line import Here
from processes import kill_all

from vitray.cluster.launch import Prepared
from vitray.cluster.sweeps import plan
from vitray.home import Home
from vitray.tracking.mlflow_client import connect
from vitray.tracking.registry import list_models
from vitray.train.checkpoint import CheckpointStore
from vitray.tune.ledger import FILE, read_records
from vitray.tune.record import TrialRecord
from vitray.tune.state import load_sweep, trial_folder

# Five starts of a process, four of them with a Ray of its own: minutes where the machine is busy.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
_EPOCHS = 16
_CONFIG = f"""
name: story
data: {{path: ds, augment: {{shift: 1}}}}
model: {{patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}}
train: {{epochs: {_EPOCHS}}}
cluster: {{use_gpu: false}}
search:
  space: {{optim.lr: {{log: [0.001, 0.004]}}, model.depth: [1, 2]}}
  trials: 5
  concurrent: 2
  grace_epochs: 6
  reduction_factor: 2
tracking: {{experiment: story}}
"""
Condition = Callable[[list[TrialRecord]], bool]


@dataclass
class Driver:
    """``vitray sweep ...`` in a process group of its own, as a shell starts it."""

    process: subprocess.Popen[bytes]
    log: Path
    folder: Path

    def when(self, condition: Condition) -> list[TrialRecord]:
        """Wait until the sweep has come so far."""
        while self.process.poll() is None:
            records = read_records(self.folder)
            if condition(records):
                return records
            time.sleep(0.02)
        raise AssertionError(f"it ended before that:\n{self.log.read_text()}")

    def ranks(self) -> list[psutil.Process]:
        return [p for p in self.started() if any("RayTrainWorker" in part for part in _cmdline(p))]

    def started(self) -> list[psutil.Process]:
        """Every process below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it said to people. Nothing that it started is left."""
        below: list[psutil.Process] = []
        while self.process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                below = list({*below, *self.started()})
            time.sleep(0.1)
        assert_gone(below)
        return self.process.returncode, self.log.read_text()


def _cmdline(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def assert_gone(processes: list[psutil.Process]) -> None:
    # Ray's two agents notice only after a minute that their node was killed. They hold nothing.
    slow = [p for p in processes if _name(p).startswith(("ray::Dashboard", "ray::RuntimeEnv"))]
    _, left = psutil.wait_procs([p for p in processes if p not in slow], timeout=60)
    said = [str(process) for process in left]
    _, late = psutil.wait_procs(slow, timeout=2)
    kill_all(left + late)
    assert not said


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


Start = Callable[..., Driver]


@pytest.fixture
def start(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ds").symlink_to(digits)
    (tmp_path / "story.yaml").write_text(_CONFIG)
    drivers: list[Driver] = []

    def start(*words: str) -> Driver:
        log = tmp_path / f"driver-{len(drivers)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "vitray.cli", "sweep", *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True,
            )  # fmt: skip
        drivers.append(Driver(process, log, Home.find().runs / "story"))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.process.poll() is None:
            left = driver.started()
            driver.process.kill()
            driver.process.wait()
            assert_gone(left)


def ended(records: list[TrialRecord]) -> list[TrialRecord]:
    return [r for r in records if r.ended]


def midway(records: list[TrialRecord]) -> list[TrialRecord]:
    """Trials that have a checkpoint and some epochs to go."""
    return [r for r in records if r.status == "running" and 2 <= r.epoch <= _EPOCHS - 4]


def runs_of(home: Home) -> dict[str, tuple[str, str, list[int]]]:
    """By name: MLflow's status, kind and the epochs of validation accuracy, doubles included."""
    client = connect(home.tracking_uri)
    experiment = client.get_experiment_by_name("story")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names), "one run a trial"
    return {
        run.info.run_name: (
            run.info.status,
            run.data.tags["vitray.kind"],
            [point.step for point in client.get_metric_history(run.info.run_id, "val/accuracy")],
        )
        for run in found
    }


def test_a_sweep_survives_the_death_of_its_driver_and_both_kinds_of_ctrl_c(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    home, vitray = Home.find(), Here(capsys)
    folder = home.runs / "story"

    # SIGKILL, with one trial at its end and one in the midst of its epochs.
    driver = start("run", "story.yaml")
    driver.when(lambda records: bool(ended(records) and midway(records)))
    left = driver.started()
    driver.process.kill()
    driver.process.wait()
    assert_gone(left)
    ledger, known = (folder / FILE).read_bytes(), read_records(folder)
    assert ended(known)
    assert midway(known)
    listed = json.loads(vitray("sweep", "list", "--output", "json").out)
    assert [(s["name"], s["status"]) for s in listed] == [("story", "interrupted")]

    # What resume refuses, before anything starts.
    said = vitray("sweep", "resume", "story", "optim.weight_decay=0.5")
    assert said.code == 2
    assert "optim.weight_decay was 0.05, is 0.5" in said.err
    said = vitray("sweep", "run", "story.yaml")
    assert said.code == 2
    assert "go on with it: vitray sweep resume story" in said.err

    # Ctrl-C twice. Its ranks are held, so that no report comes which the first one would wait for.
    before = len(ledger.splitlines())
    driver = start("resume", "story")
    driver.when(lambda records: bool(midway(records)) and len((folder / FILE).read_bytes().splitlines()) > before + 4)
    for rank in driver.ranks():
        rank.suspend()
    said = vitray("sweep", "resume", "story")
    assert said.code == 2
    assert "is running in another process" in said.err
    driver.ctrl_c()
    time.sleep(3)
    assert driver.process.poll() is None, "it waits for the reports"
    driver.ctrl_c()
    code, log = driver.end()
    assert code == 130
    assert "go on with: vitray sweep resume story" in log
    assert "Traceback" not in log
    assert "RUNNING" not in {status for status, _, _ in runs_of(home).values()}

    # Ctrl-C once, while the winner is retrained.
    driver = start("resume", "story")
    driver.when(lambda records: records[-1].kind == "final" and bool(midway(records)))
    driver.ctrl_c()
    code, log = driver.end()
    assert code == 130
    assert "go on with: vitray sweep resume story" in log
    assert "Traceback" not in log
    runs = runs_of(home)
    assert runs["final"][0] == runs["story"][0] == "KILLED"
    assert {status for status, kind, _ in runs.values() if kind == "trial"} == {"FINISHED"}
    assert load_sweep(home.runs, "story").status == "interrupted"

    # And to its end.
    code, log = start("resume", "story").end()
    assert code == 0, log
    after = read_records(folder)
    assert (folder / FILE).read_bytes().startswith(ledger), "what was known stays"
    for record in ended(known):
        assert after[record.index] == record, "finished trials stay finished"
    for record in midway(known):
        newest = CheckpointStore(trial_folder(folder, record) / "checkpoints").newest()
        assert newest is not None
        kept = json.loads((newest / "state.json").read_text())["reports"]
        assert kept[0]["timestamp_ms"] == round(record.reports[0]["at"] * 1000), "it went on from its checkpoint"
        assert len(after[record.index].spans) >= 2
    searched = [r for r in after if r.kind == "search"]
    points = plan(Prepared.load("story.yaml", ()), home=home).points
    assert [dict(r.point) for r in searched] == [dict(point) for point in points], "the same points"
    assert [r.kind for r in after[5:]] == ["final"]
    assert all(r.ended and r.failure is None for r in after)
    runs = runs_of(home)
    assert {status for status, _, _ in runs.values()} == {"FINISHED"}
    assert runs.keys() == {"story"} | {r.name for r in after}
    for record in searched:
        assert runs[record.name][2] == list(range(1, record.epoch + 1)) == [r["epoch"] for r in record.reports]
    assert [version.aliases for version in list_models(home.tracking_uri)] == [("champion",)]

    said = vitray("sweep", "resume", "story")
    assert said.code == 2
    assert "story: is done: models:/story/1" in said.err
