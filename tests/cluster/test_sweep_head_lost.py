"""The whole cluster of a sweep is lost, head and all: the driver says so, and the sweep goes on upon another one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import kill_all
from ray_head import Head

from vitray.home import Home
from vitray.tracking.mlflow_client import connect
from vitray.tune.ledger import read_records
from vitray.tune.state import load_sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]
_EPOCHS = 30
_CONFIG = f"""
name: lost
model: {{patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}}
train: {{epochs: {_EPOCHS}}}
cluster: {{use_gpu: false}}
search:
  space: {{optim.lr: {{log: [0.001, 0.004]}}}}
  trials: 3
  concurrent: 2
  scheduler: none
  retrain: false
tracking: {{experiment: lost}}
"""


def start(head: Head, folder: Path, log: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = head.environment(VITRAY_HOME=str(folder / "home"), RAY_ADDRESS=head.address)
    environment = {k: v for k, v in environment.items() if v != head.mark}  # it is no process of the head's
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "vitray.cli", "sweep", *words],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file,
        )  # fmt: skip


def test_a_sweep_goes_on_after_its_cluster_is_lost(tmp_path: Path, digits: Path) -> None:
    home, log = Home(tmp_path / "home"), tmp_path / "log"
    folder = home.runs / "lost"
    (tmp_path / "lost.yaml").write_text(f"data: {{path: {digits}, augment: {{shift: 1}}}}{_CONFIG}")
    first, second = Head(), Head()
    driver = None
    try:
        first.start()
        driver = start(first, tmp_path, log, "run", "lost.yaml")
        while not any(2 <= r.epoch < _EPOCHS - 5 for r in read_records(folder)):
            assert driver.poll() is None, log.read_text()
            time.sleep(0.02)
        kill_all(first.processes())
        assert driver.wait(180) == 1
        said = log.read_text()
        assert "Traceback" not in said
        assert "vitray sweep resume lost" in said
        known = read_records(folder)
        assert load_sweep(home.runs, "lost").status in ("interrupted", "failed")
        second.start()
        driver = start(second, tmp_path, log, "resume", "lost")
        assert driver.wait(300) == 0, log.read_text()
    finally:
        if driver is not None and driver.poll() is None:
            driver.kill()
        left = [*first.stop(), *second.stop()]
    assert not left
    records = read_records(folder)
    assert [dict(r.point) for r in records[: len(known)]] == [dict(r.point) for r in known]
    assert [(r.status, r.epoch) for r in records] == [("done", _EPOCHS)] * 3
    client = connect(home.tracking_uri)
    experiment = client.get_experiment_by_name("lost")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(["lost", "final", *(r.name for r in records)])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not [p for p in psutil.Process(os.getpid()).children() if p.pid == driver.pid]
