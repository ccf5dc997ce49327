"""Jobs as somebody submits them to a running cluster, by `vitray jobs`, and the scripts in ``jobs/`` by Ray's own tool:
dataset, checkpoint and answers come back.

One machine is head and worker here; that a cluster's machines see the same folders is not shown.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray_head import CPUS, Head
from submitted import Jobs

from vitray.data.images import ShardedImages
from vitray.data.samples import write_samples
from vitray.data.verify import verify as verify_shards
from vitray.train.checkpoint import CheckpointStore
from vitray.train.checkpoint import verify as verify_checkpoint

pytestmark = pytest.mark.ray


@dataclass
class Cluster:
    """A head, and the folder that its jobs share."""

    head: Head
    shared: Path

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``ray job submit -- python jobs/...``: waits, prints the job's log, exits 0 when it succeeded and else 1."""
        variables = json.dumps({"env_vars": {"VITRAY_HOME": str(self.shared / "home")}})
        return self.head.run(
            *("ray", "job", "submit", "--address", self.head.url, "--runtime-env-json", variables, "--"),
            *("python", *words),
        )


@pytest.fixture(scope="module")
def cluster(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "small.yaml").write_text(
        "name: small\ndata: {path: digits}\ntrain: {epochs: 1}\n"
        "model: {patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}\n"
    )
    return Cluster(head, shared)


def test_prepare_train_predict(cluster: Cluster) -> None:
    shared = cluster.shared
    jobs = Jobs(cluster.head, shared)
    shares = ("--fractions", "0.7,0.1,0.2", "--seed", "0")
    prepared = jobs("submit", "prepare", "builtin:digits", "digits", *shares, "--follow")
    assert prepared.code == 0, prepared.out + prepared.err
    data = ShardedImages.open(str(shared / "digits"))
    assert verify_shards(data.store) == []
    assert data.num_samples("train") == 1258

    done = cluster.submit("jobs/train.py", str(shared / "small.yaml"))
    assert done.returncode == 0, done.stdout
    assert f"{CPUS} threads" in done.stdout  # only the head has that many CPUs: the job joined it
    newest = CheckpointStore(shared / "home/runs/small/checkpoints").newest()
    assert newest is not None
    assert verify_checkpoint(newest).step == 10  # 1,258 images in batches of 128
    with sqlite3.connect(shared / "home/mlflow.db") as store:
        assert store.execute("select name, status from runs").fetchall() == [("small", "FINISHED")]

    (image,) = write_samples(data, "test", shared / "samples", 1)
    scored = jobs("submit", "predict", str(newest), str(image), "--to", "answers.jsonl", "--top", "2", "--follow")
    assert scored.code == 0, scored.out + scored.err
    (line,) = (shared / "answers.jsonl").read_text().splitlines()
    answer = json.loads(line)
    assert answer["path"] == str(image)
    assert answer["label"] in data.classes
    assert 0 < answer["probability"] <= 1
    assert len(answer["top"]) == 2
    assert {row["kind"] for row in jobs("list", "--output", "json").said} >= {"prepare", "predict", None}


def test_a_bad_config_fails_the_job_with_one_message(cluster: Cluster) -> None:
    config = cluster.shared / "bad.yaml"
    config.write_text("name: bad\ndata: {path: digits}\nmodel: {dept: 3}\n")
    start = time.monotonic()
    done = cluster.submit("jobs/train.py", str(config))
    assert done.returncode == 1
    assert time.monotonic() - start < 60
    log, _, status = done.stdout.partition("Status message: ")  # which repeats the log
    assert "failed with exit code 2" in status
    assert log.count("error: ") == 1, log
    assert "did you mean 'depth'" in log, log
    assert "Traceback" not in log
    assert not (cluster.shared / "home/runs/bad").exists()
