"""Nothing of an experiment reaches the next one in a group, however it ended; and its failure keeps its class."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_ranks
import pytest
import ray
import torch
from safetensors.torch import load_file

from vitray.cluster.local import Cluster
from vitray.data import ShardedImages
from vitray.errors import CodeError, NotFiniteError
from vitray.experiment import ClusterConfig, Experiment
from vitray.tracking import RecordingTracker
from vitray.train.checkpoint import CheckpointStore
from vitray.train.report import Report
from vitray.train.resources import plan_groups
from vitray.train.run import Run, train_run
from vitray.train.worker_group import WorkerGroup

pytestmark = pytest.mark.ray
_MANY = 40
_TIMES = ("images_per_s", "data_wait", "epoch_s", "eval_s", "checkpoint_s")
_Result = tuple[list[dict[str, float]], dict[str, torch.Tensor]]


def experiment(data: Path, name: str = "a", **values: Any) -> Experiment:
    base = Experiment(
        name=name,
        data={"path": str(data), "augment": {"shift": 1}},
        model={"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path": 0.1, "dropout": 0.1},
        train={"epochs": 3, "precision": "float32"},
        optim={"lr": 2e-3},
    )
    chosen = base.with_values({key.replace("__", "."): value for key, value in values.items()})
    return ShardedImages.open(str(data)).resolve(chosen)


@pytest.fixture(scope="module")
def faults() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(faulty_ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitray.train.worker_group.serve", faulty_ranks.serve_with_faults)
        yield
    ray.cloudpickle.unregister_pickle_by_value(faulty_ranks)


def new_group(cluster: Cluster, ranks: int) -> WorkerGroup:
    return WorkerGroup(
        plan_groups(ClusterConfig(workers=ranks, use_gpu=False), cpus=max(2, cluster.cpus), gpus=0), max_restarts=0
    )


@pytest.fixture(scope="module")
def pair(cluster: Cluster, faults: None) -> Iterator[WorkerGroup]:
    group = new_group(cluster, 2)
    yield group
    group.close()


@pytest.fixture(scope="module")
def undisturbed(pair: WorkerGroup, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> _Result:
    """What experiment "a" comes to in a group that has served nothing before."""
    return result(pair, experiment(digits), tmp_path_factory.mktemp("undisturbed"))


def result(group: WorkerGroup, run: Experiment, folder: Path) -> _Result:
    """Metrics of every epoch but for times and what the machine did, and the last weights."""
    reports: list[Report] = []
    group.run(run, folder, lambda report: reports.append(report) or True)  # type: ignore[func-returns-value]
    newest = CheckpointStore(folder / "checkpoints").newest()
    assert newest is not None
    metrics = [
        {key: value for key, value in r.metrics.items() if key not in _TIMES and not key.startswith("system/")}
        for r in reports
    ]
    return metrics, load_file(newest / "model.safetensors")


def assert_same(one: _Result, other: _Result) -> None:
    assert one[0] == other[0]
    assert len(one[0]) == 3
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        assert torch.equal(one[1][name], other[1][name]), name


def found(folder: Path) -> list[dict[str, Any]]:
    """What each rank's process was like when the experiment came."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("found-*.json"))]


def assert_clean(folder: Path) -> None:
    for rank in found(folder):
        assert (rank["held"], rank["threads"], rank["settings"]) == ([], [], {})


def test_nothing_is_left_of_experiments_that_raised_turned_nan_or_changed_the_process(
    pair: WorkerGroup, undisturbed: _Result, digits: Path, tmp_path: Path
) -> None:
    def again(name: str) -> None:
        assert_same(result(pair, experiment(digits), tmp_path / name), undisturbed)
        assert_clean(tmp_path / name)

    with pytest.raises(CodeError, match=r"rank \d: ZeroDivisionError: on purpose") as raised:
        pair.run(experiment(digits, "raises", data__cache="none"), tmp_path / "raised", lambda r: True)
    assert raised.value.failure == "code"
    again("after-raised")
    with pytest.raises(NotFiniteError, match="training loss is") as nan:
        pair.run(experiment(digits, optim__lr=1e30, train__clip_grad=None), tmp_path / "nan", lambda r: True)
    assert nan.value.failure == "nan"
    again("after-nan")
    other = experiment(
        digits, "changes", model__patch_size=2, model__pos_encoding="rope_2d", model__embed_dim=64,
        train__precision="bfloat16", train__seed=5, train__epochs=2, cluster__threads=2, data__cache="none",
    )  # fmt: skip
    pair.run(other, tmp_path / "other", lambda r: True)
    again("after-other")
    pids = [[rank["pid"] for rank in found(tmp_path / name)] for name in ("raised", "after-other")]
    assert len(pids[0]) == 2
    assert pids[0] == pids[1], "the group was not restarted"


def test_a_failure_of_one_rank_keeps_its_class_and_the_group_comes_back(
    pair: WorkerGroup, undisturbed: _Result, digits: Path, tmp_path: Path
) -> None:
    """The other rank waits in all-reduce. The group has no restarts to spare: this one is not charged to anybody."""
    with pytest.raises(CodeError, match="rank 1: ZeroDivisionError: on purpose") as caught:
        pair.run(experiment(digits, "raises-on-1"), tmp_path / "raised", lambda r: True)

    assert caught.value.failure == "code"
    assert "on purpose" in (tmp_path / "raised" / "error-rank1.txt").read_text()

    assert_same(result(pair, experiment(digits), tmp_path / "next"), undisturbed)

    assert {r["pid"] for r in found(tmp_path / "raised")}.isdisjoint(r["pid"] for r in found(tmp_path / "next"))


def test_out_of_memory_is_tried_again_once_with_smaller_micro_batches(
    pair: WorkerGroup, digits: Path, tmp_path: Path
) -> None:
    """The allocator's own error, at more than 32 images at a time: 128 a step are 64 a rank, then 32."""
    tracker, epochs, notes = RecordingTracker(), list[int](), list[str]()
    run = Run(
        "key", "hungry", "train", tmp_path / "run", experiment(digits, "hungry", cluster__workers=2), "fingerprint"
    )
    train_run(run, pair, tracker, on_report=lambda r: epochs.append(r.epoch) or True, on_note=notes.append)  # type: ignore[func-returns-value]
    assert epochs == [1, 2, 3]
    entry = tracker.runs["key"]
    assert entry.status == "FINISHED"
    assert (
        entry.tags["vitray.retry"] == notes[0] == "out of memory: again with 32 images at a time (train.accumulate=2)"
    )
    assert [p.step for p in entry.points if p.key == "train/loss"] == [1, 2, 3]


def test_memory_is_flat_over_many_experiments(pair: WorkerGroup, digits: Path, tmp_path: Path) -> None:
    """Of changing architectures, each of megabytes. What torch keeps for ever is there after the first ten."""
    for number in range(_MANY):
        shape = {"model__depth": 1 + number % 3, "model__embed_dim": 32 * (1 + number % 4), "train__epochs": 1}
        run = experiment(digits, train__global_batch=512, train__seed=number, **shape)
        pair.run(run, tmp_path / str(number), lambda r: True)
    for rank in range(2):
        mib = [found(tmp_path / str(number))[rank]["rss"] / 2**20 for number in range(10, _MANY)]
        assert statistics.median(mib[-10:]) - statistics.median(mib[:10]) < 24, str(mib)
