"""Row 1, sweeps: a trial's process is killed at a random moment in each trial; no trial is the worse for it."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from disturbed import awaited, spread
from injections import record
from small_runs import assert_bitwise_equal, restored
from small_runs import train as train_without_ray
from test_sweep_kinds import Done, Silent

from vitray.cluster.launch import Prepared
from vitray.cluster.sweeps import sweep
from vitray.data import ShardedImages
from vitray.experiment import Experiment
from vitray.home import Home
from vitray.tune.ledger import read_records
from vitray.tune.record import TrialRecord

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(900)]
_EPOCHS, _RATES = 60, [1e-3, 2e-3, 3e-3, 4e-3]
_TRIAL = "ResourceTrainable"


class TrialKiller(threading.Thread):
    """Kills the process of each trial once, when the trial has come to an epoch that is drawn for it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self._random = folder, random.Random(1)
        self.killed: list[int] = []
        self.recoveries: list[float] = []

    def run(self) -> None:
        for index in range(len(_RATES)):
            epoch = self._random.randint(1, 45)
            while self._epoch(index) < epoch:
                time.sleep(0.02)
            before = self._epoch(index)
            with contextlib.suppress(psutil.NoSuchProcess):
                awaited(_TRIAL)[0].kill()
                at = time.time()
                self.killed.append(index)
                while self._epoch(index) <= before:
                    time.sleep(0.05)
                self.recoveries.append(time.time() - at)

    def _epoch(self, index: int) -> int:
        record = next((r for r in self._records() if r.index == index and r.kind == "search"), None)
        return record.epoch if record is not None else 0

    def _records(self) -> list[TrialRecord]:
        try:
            return list(read_records(self._folder))
        except OSError:  # the sweep has not begun
            return []


def test_trials_whose_process_is_killed_come_to_the_same(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("VITRAY_HOME", str(home.root))
    chosen: dict[str, Any] = {
        "data": {"path": str(digits), "augment": {"shift": 1}},
        "model": {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2, "dropout": 0.1},
        "train": {"epochs": _EPOCHS},
        "optim": {"warmup_epochs": 1},
        "cluster": {"use_gpu": False, "threads": 1},
        "tracking": {"experiment": "killed"},
    }
    search = {
        "space": {"optim.lr": _RATES},
        "algorithm": "grid",
        "scheduler": "none",
        "concurrent": 1,
        "retrain": False,
    }
    experiment = Experiment(**chosen, search=search)
    killer = TrialKiller(home.runs / "killed")
    killer.start()
    done = Done(home, "killed", sweep(Prepared.of(experiment, "killed"), home, lambda plan: Silent()))
    killer.join(1)

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks have
    same = []
    try:
        for trial in done.searched:
            alone = ShardedImages.open(str(digits)).resolve(Experiment(**chosen).with_values(trial.values))
            train_without_ray(alone, tmp_path / trial.name)
            ours = home.runs / "killed" / "trials" / trial.name / "checkpoints"
            with contextlib.suppress(AssertionError):
                assert_bitwise_equal(restored(tmp_path / trial.name, alone)[1], restored(ours, alone)[1])
                same.append(trial.index)
    finally:
        torch.set_num_threads(before)
    points = {trial.name: done.epochs_of(done.runs[trial.name]) for trial in done.searched}
    whole = all(epochs == list(range(1, _EPOCHS + 1)) for epochs in points.values())
    held = len(killer.killed) == len(same) == len(_RATES) and whole
    times = spread(killer.recoveries or [float("inf")])
    record(
        1,
        f"{len(killer.killed)} of {len(_RATES)} kills of a trial's process: {len(same)} trials bitwise equal, "
        f"every epoch tracked once: {'yes' if whole else 'no'}; kill to next report {times['median_s']} s (median)",
        held=held,
        **times,
    )
    assert killer.killed == list(range(len(_RATES)))
    assert [(trial.status, trial.epoch) for trial in done.searched] == [("done", _EPOCHS)] * len(_RATES)
    assert same == list(range(len(_RATES)))
    assert whole, points
