"""docker/compose.yaml's own commands, a network namespace for each: a sweep whose trials train across two hosts.

What this shows: that the services start confined as the file says, find each other by name, wait for one another, and
that jobs reach data, Ray and MLflow with the secrets where the file puts them. What it does not: container.py says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import psutil
import pytest
from engine import Engine
from laptop import Laptop

pytestmark = pytest.mark.ray

CONFIG = """
data: {path: "builtin:digits"}
model: {embed_dim: 32, patch_size: 4, depth: 2, num_heads: 2}
train: {epochs: 1, global_batch: 256}
cluster: {workers: 2, use_gpu: false}
search:
  space: {model.pos_encoding: [learned, sinusoidal_2d]}
  trials: 2
  scheduler: none
  retrain_epochs: 1
tracking: {experiment: digits}
"""


@pytest.fixture
def laptop(engine: Engine, tmp_path: Path) -> Laptop:
    return Laptop(engine, tmp_path)


def test_a_sweep_from_the_laptop_trains_across_hosts_and_is_in_mlflow(
    engine: Engine, laptop: Laptop, tmp_path: Path
) -> None:
    (tmp_path / "sweep.yaml").write_text(CONFIG)
    done = laptop.run(
        "vitray", "jobs", "submit", "sweep", "sweep.yaml", "name=hosts", "--address", laptop.ray, "--follow"
    )
    assert done.returncode == 0, done.stdout
    assert "registered: models:/digits/1, alias champion" in done.stdout

    # Each group of ranks was on two hosts.
    actors = laptop.ask_ray("/api/v0/actors?detail=1&limit=1000")["data"]["result"]["result"]
    hosts = defaultdict(set)
    for actor in actors:
        if actor["class_name"] == "RayTrainWorker":
            hosts[actor["placement_group_id"]].add(actor["node_id"])
    assert hosts
    assert all(len(nodes) == 2 for nodes in hosts.values())

    # Everything is in MLflow, made by the cluster's user, and seen from the laptop by the published port.
    listed = laptop.run("vitray", "models", "list", mlflow=True)
    assert listed.returncode == 0, listed.stdout
    assert "digits" in listed.stdout
    pulled = laptop.run("vitray", "models", "pull", "digits@champion", "model", mlflow=True)
    assert pulled.returncode == 0, pulled.stdout
    assert list((tmp_path / "model").glob("*.safetensors"))
    experiment = laptop.ask_mlflow("2.0/mlflow/experiments/get-by-name?experiment_name=digits")["experiment"]
    about = f"username=vitray&resource_type=experiment&resource_id={experiment['experiment_id']}"
    assert laptop.ask_mlflow(f"3.0/mlflow/users/permissions/get?{about}")["permission"] == "MANAGE"
    ask = ["psql", "--host=postgres", "--username=mlflow", "mlflow", "-tAc"]
    password = engine.secret("postgres_password")
    count = engine.containers["postgres-1"].run(
        *ask, "select count(*) from runs where status='FINISHED'", PGPASSWORD=password
    )
    assert int(count.stdout) >= 4  # the sweep, two trials, the winner trained anew


def test_the_containers_are_confined_as_the_file_says(engine: Engine) -> None:
    look = "for x in /x /usr/x /etc/x /opt/x; do touch $x 2>/dev/null && echo WRITTEN; done; cat /proc/self/status"
    secrets = {path.read_text().strip() for path in (engine.docker / "secrets").iterdir()}
    for container in engine.containers.values():
        if not container.running():
            continue
        said = container.run("sh", "-c", look).stdout
        assert "WRITTEN" not in said
        assert re.search(r"^Uid:\s+1000\s+1000\s+1000\s+1000$", said, re.MULTILINE)
        assert re.findall(r"^Cap\w+:\s+(\d+)$", said, re.MULTILINE) == ["0" * 16] * 5
        assert re.search(r"^NoNewPrivs:\s+1$", said, re.MULTILINE)
        for process in psutil.Process(container.init()).children(recursive=True):
            command = " ".join(process.cmdline())
            assert not any(secret in command for secret in secrets), container.name
    for name in ("ray-head-1", "ray-worker-1", "postgres-1"):
        environment = engine.containers[name].spec.environment.values()
        assert not any(secret in value for secret in secrets for value in environment)


def test_a_worker_joins_and_leaves(engine: Engine, laptop: Laptop) -> None:
    worker = engine.add("ray-worker")
    engine.wait("ray-worker", "service_healthy")
    address = worker.addresses["cluster"]
    assert laptop.nodes()[address] == "ALIVE"
    assert worker.stop(), f"not within its stop_grace_period:\n{worker.log}"
    assert laptop.nodes()[address] == "DEAD"
