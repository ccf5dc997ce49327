"""Worker groups on a real Ray: warm experiments, stops that waste nothing, ranks that die and come back."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file

from vitray.cluster.local import Cluster
from vitray.data import ShardedImages
from vitray.data.prepare import prepare
from vitray.errors import TrainingError
from vitray.experiment import ClusterConfig, Experiment
from vitray.train import nodes
from vitray.train.checkpoint import CheckpointStore, verify
from vitray.train.report import Report
from vitray.train.resources import GroupPlan, plan_groups
from vitray.train.worker_group import WorkerGroup

pytestmark = pytest.mark.ray
_STEPS_PER_EPOCH = 10  # 1,258 digits in batches of 128


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "digits"
    prepare("builtin:digits", str(folder))
    return str(folder)


def experiment(digits: str, **values: object) -> Experiment:
    base = Experiment(
        data={"path": digits, "augment": {"shift": 1}},
        model={"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path": 0.1, "dropout": 0.1},
        train={"epochs": 3},
        optim={"lr": 2e-3},
    )
    chosen = {key.replace("__", "."): value for key, value in values.items()}
    return ShardedImages.open(digits).resolve(base.with_values(chosen))


@pytest.fixture(scope="module")
def pair(cluster: Cluster) -> Iterator[WorkerGroup]:
    """A group of two ranks, on however many CPUs there are."""
    group = WorkerGroup(plan_groups(ClusterConfig(workers=2, use_gpu=False), cpus=cluster.cpus, gpus=0))
    yield group
    group.close()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = CheckpointStore(folder / "checkpoints").newest()
    assert newest is not None
    verify(newest)
    return load_file(newest / "model.safetensors")


def assert_bitwise_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def rank_pids() -> list[int]:
    """Processes of ranks: children of this test's own Ray, told by the name that Ray gives its Train workers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked
            if any("RayTrainWorker" in part for part in process.cmdline()):
                found.append(process.pid)
    return found


def test_an_experiment_is_the_same_in_a_used_group(pair: WorkerGroup, digits: str, tmp_path: Path) -> None:
    reports: list[Report] = []
    run = experiment(digits)
    pair.run(run, tmp_path / "first", lambda r: reports.append(r) or True)
    pair.run(
        experiment(digits, model__patch_size=2, train__seed=5, train__epochs=1), tmp_path / "other", lambda r: True
    )
    pair.run(run, tmp_path / "again", lambda r: True)
    assert [r.epoch for r in reports] == [1, 2, 3]
    assert reports[-1].metrics["val/samples"] == 180  # every validation image, once
    assert reports[-1].metrics["train/loss"] < reports[0].metrics["train/loss"]
    assert_bitwise_equal(weights(tmp_path / "first"), weights(tmp_path / "again"))


def test_a_stop_takes_effect_at_the_report(pair: WorkerGroup, digits: str, tmp_path: Path) -> None:
    seen: list[int] = []
    pair.run(experiment(digits), tmp_path, lambda r: seen.append(r.epoch) or r.epoch < 2)
    assert seen == [1, 2]
    newest = CheckpointStore(tmp_path / "checkpoints").newest()
    assert newest is not None
    assert verify(newest).step == 2 * _STEPS_PER_EPOCH


def test_a_failed_experiment_leaves_the_group_usable(pair: WorkerGroup, digits: str, tmp_path: Path) -> None:
    before = set(rank_pids())
    with pytest.raises(TrainingError, match="training loss is"):
        pair.run(experiment(digits, optim__lr=1e30, train__clip_grad=None), tmp_path / "nan", lambda r: True)
    pair.run(experiment(digits, train__epochs=1), tmp_path / "next", lambda r: True)
    assert set(rank_pids()) == before


def test_a_killed_rank_changes_nothing(pair: WorkerGroup, digits: str, tmp_path: Path) -> None:
    """SIGKILL in mid-epoch at world size 2: training goes on by itself, to bitwise the same weights."""
    # 79 steps an epoch take far longer than the half second after which the rank is killed.
    run = experiment(digits, model__depth=4, train__global_batch=16, train__epochs=3, train__checkpoint_steps=7)
    pair.run(run, tmp_path / "undisturbed", lambda r: True)
    epochs: list[int] = []
    before = set(rank_pids())

    def kill_in_the_next_epoch(report: Report) -> bool:
        epochs.append(report.epoch)
        if report.epoch == 1:
            threading.Timer(0.5, os.kill, (max(before), signal.SIGKILL)).start()
        return True

    pair.run(run, tmp_path / "killed", kill_in_the_next_epoch)
    assert epochs == [1, 2, 3]
    assert max(before) not in rank_pids()
    assert_bitwise_equal(weights(tmp_path / "undisturbed"), weights(tmp_path / "killed"))


def test_closing_a_group_ends_its_processes(cluster: Cluster) -> None:
    before = set(rank_pids())
    group = WorkerGroup(GroupPlan(workers=1, use_gpu=False, rank_cpus=0.1, task_cpus=0.1, threads=1))
    deadline = time.monotonic() + 60
    while not set(rank_pids()) - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert set(rank_pids()) - before
    group.close()
    deadline = time.monotonic() + 20
    while set(rank_pids()) - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not set(rank_pids()) - before


def test_nodes_are_counted_again_and_not_filled_with_tasks_that_count(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "_COUNTED_S", 2.0)

    @ray.remote
    class Greedy:
        def here(self) -> bool:
            return True

    greedy = Greedy.options(num_cpus=ray.available_resources()["CPU"]).remote()
    assert ray.get(greedy.here.remote())
    waiting = nodes.count_again(nodes.nodes_now())
    assert len(waiting) == 1
    assert nodes.count_again(nodes.nodes_now(), waiting) == waiting
    ray.kill(greedy)
    assert ray.wait(waiting, timeout=30)[0] == waiting
    assert nodes.count_again(nodes.nodes_now(), waiting) == []
