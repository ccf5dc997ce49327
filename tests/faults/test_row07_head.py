"""Row 7: the head of a cluster is killed and comes back as a new one, while a submitted job trains.

Ray without Redis then knows of no job, and its driver dies with the head. The nodes share one machine here.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from injections import record
from ray_head import Head
from ray_nodes import crash, start_node, wait_for_node
from submitted import Jobs

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1200)]
_EPOCHS = 30
_CONFIG = f"""
data: {{path: DATA}}
model: {{patch_size: 2, embed_dim: 32, depth: 2, num_heads: 2}}
train: {{epochs: {_EPOCHS}, global_batch: 64}}
cluster: {{workers: 1, use_gpu: false, threads: 1}}
"""
_ADDRESS = "127.0.0.2"


class Worker:
    """A node that is started again whenever it ends, as ``restart: unless-stopped`` does."""

    def __init__(self, head: Head) -> None:
        self._head, self._ended = head, threading.Event()
        self._process = start_node(head, "worker", _ADDRESS, cpus=2)
        wait_for_node(head, _ADDRESS, self._process)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            if self._process.poll() is not None:
                crash(self._head, "worker")  # a container ends with all of its processes
                self._process = start_node(self._head, "worker", _ADDRESS, cpus=2)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        crash(self._head, "worker")
        self._process.wait()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("head")
    (folder / "c.yaml").write_text(_CONFIG.replace("DATA", str(digits)))
    head = Head(cpus=0)
    worker = None
    try:
        head.start()
        worker = Worker(head)
        yield Jobs(head, folder)
    finally:
        if worker is not None:
            worker.end()
        left = head.stop()
    assert not left


def weights_of(jobs: Jobs, run: str) -> bytes:
    """Those of the newest checkpoint."""
    newest = max((jobs.home / "runs" / run / "checkpoints").glob("step-*/commit.json"))
    return (newest.parent / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(jobs: Jobs) -> bytes:
    done = jobs("submit", "train", "c.yaml", "name=undisturbed", "--follow")
    assert done.code == 0, done.out + done.err
    return weights_of(jobs, "undisturbed")


@pytest.mark.parametrize("down_s", [0, 20, 60])
def test_a_head_that_is_started_anew(jobs: Jobs, undisturbed: bytes, down_s: int) -> None:
    head, name = jobs.head, f"down-{down_s}"
    submitted = jobs("submit", "train", "c.yaml", f"name={name}", "--output", "json")
    assert submitted.code == 0, submitted.err
    number = submitted.said["id"]
    checkpoints = jobs.home / "runs" / name / "checkpoints"
    environment = {k: v for k, v in jobs.environment().items() if v != head.mark}  # it is no process of the head's
    follower = subprocess.Popen(
        [sys.executable, "-m", "vitray.cli", "jobs", "logs", "-f", number],
        cwd=jobs.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert follower.stdout is not None
        while "epoch 3/" not in follower.stdout.readline():
            assert follower.poll() is None
        assert head.crash() > 5
        died = time.monotonic()
        saved = len(list(checkpoints.glob("step-*/commit.json")))
        assert 0 < len(reported(jobs, name)) < _EPOCHS, "the fault came when the job was done"
        time.sleep(down_s)
        head.start()
        up_s = time.monotonic() - died

        (row,) = [row for row in jobs("list", "--output", "json").said if row["name"] == name]
        assert (row["id"], row["status"], row["kind"]) == (number, "lost", "train")
        status = jobs("status", name)
        assert "the cluster's head was started anew" in status.out
        command = status.out.partition("go on with: vitray jobs ")[2].splitlines()[0]
        assert command == f"submit train --resume {name}"
        out, err = follower.communicate(timeout=150)
    finally:
        follower.kill()
        follower.wait()
    assert follower.returncode == 1, out + err
    assert "lost: the cluster's head was started anew" in err
    assert f"go on with: vitray jobs {command}" in err
    assert "Traceback" not in out + err

    further = jobs(*shlex.split(command), "--follow")
    again_s = time.monotonic() - died
    assert further.code == 0, further.out + further.err
    assert not [row for row in jobs("list", "--output", "json").said if row["status"] == "lost"]

    losses = points(jobs, name)
    same = weights_of(jobs, name) == undisturbed
    runs = runs_named(jobs, name)
    held = same and runs == ["FINISHED"] and losses == list(range(1, _EPOCHS + 1))
    record(
        7,
        f"head down for {down_s} s: the job is listed as lost; one command (`vitray jobs {command}`) went on from its "
        f"checkpoint to {'the same weights as undisturbed' if same else 'OTHER weights'}, {len(runs)} run in MLflow, "
        f"each epoch in it once: {losses == list(range(1, _EPOCHS + 1))}",
        held=held,
        head_up_again_s=up_s,
        done_s=again_s,
        checkpoints_kept=saved,
    )
    assert runs == ["FINISHED"]
    assert losses == list(range(1, _EPOCHS + 1))
    assert same


def reported(jobs: Jobs, run: str) -> list[Any]:
    """The reports in the newest checkpoint of a run."""
    states = sorted((jobs.home / "runs" / run / "checkpoints").glob("step-*/state.json"))
    for state in reversed(states):
        if (state.parent / "commit.json").is_file():
            reports: list[Any] = json.loads(state.read_text())["reports"]
            return reports
    return []


def runs_named(jobs: Jobs, run: str) -> list[str]:
    """The states of the MLflow runs of this name."""
    with closing(sqlite3.connect(jobs.home / "mlflow.db")) as database:
        return [status for (status,) in database.execute("select status from runs where name = ?", (run,))]


def points(jobs: Jobs, run: str) -> list[int]:
    """The epochs that have a point in MLflow, as often as they have one."""
    ask = "select step from metrics join runs using (run_uuid) where name = ? and key = 'train/loss' order by step"
    with closing(sqlite3.connect(jobs.home / "mlflow.db")) as database:
        return [step for (step,) in database.execute(ask, (run,))]
