"""What an autoscaler may add counts as room, where the cluster's environment says how much it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_request import Target, training
from vitray.cluster.job_room import Nodes
from vitray.cluster.local import Cluster
from vitray.errors import ConfigError, ResourceError
from vitray.experiment import ClusterConfig
from vitray.train.resources import Room, plan_groups

EMPTY = Cluster("head:6379", cpus=0, gpus=0, node_cpus=0)


def test_a_cluster_without_workers_takes_what_it_can_grow_to(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ClusterConfig(workers=4, use_gpu=True)
    with pytest.raises(ResourceError, match="but the cluster has 0"):
        plan_groups(wanted, **EMPTY.room)
    monkeypatch.setenv("VITRAY_MAX_CPUS", "32")
    monkeypatch.setenv("VITRAY_MAX_GPUS", "4")
    monkeypatch.setenv("VITRAY_NODE_CPUS", "8")
    plan = plan_groups(wanted, **EMPTY.room)
    assert (plan.ranks, plan.use_gpu, plan.threads) == (4, True, 8)
    with pytest.raises(ResourceError, match="5 workers need 5 GPUs, but the cluster has 4"):
        plan_groups(ClusterConfig(workers=5, use_gpu=True), **EMPTY.room)
    assert Cluster("local", cpus=2, gpus=0, node_cpus=2).room["cpus"] == 2
    monkeypatch.setenv("VITRAY_MAX_CPUS", "many")
    with pytest.raises(ConfigError, match="VITRAY_MAX_CPUS=many: is no number"):
        _ = EMPTY.room


def test_only_where_nodes_cannot_be_added_is_a_submission_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("data: {path: builtin:digits}\ncluster: {workers: 9, use_gpu: false}\n")
    room: Room = {"cpus": 0, "gpus": 0, "node_cpus": None, "node_memory": None, "gpu_memory": None}

    def target(*, scales: bool) -> Target:
        return Target(Dashboard("http://head:8265"), Nodes(room, 1, scales, here=False))

    with pytest.raises(ResourceError, match=r"9 workers need 9 CPUs, but the cluster has 0 \(1 node with 0 CPUs\)"):
        training("train", target(scales=False), "c.yaml", [])
    (note,) = training("train", target(scales=True), "c.yaml", []).notes
    assert "the job will wait for what the autoscaler adds" in note
