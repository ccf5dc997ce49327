"""What the policy of an elastic group decides, on a made-up cluster: which nodes there are, and what is held."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2.api.config import ScalingConfig

from vitray.experiment import ClusterConfig
from vitray.train import elastic
from vitray.train.elastic import GroupPolicy
from vitray.train.nodes import Node
from vitray.train.resources import plan_groups


class World:
    """Two nodes of two CPUs come and go; a placement group that is asked for is placed on the second at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes = {name: Node(name, f"10.0.0.{name}", 1, {"CPU": 2.0}) for name in "12"}
        self.there = "1"
        self.held: dict[str, dict[str, float]] = {}
        self.left = self.hangs = False
        self.notes: list[str] = []
        monkeypatch.setattr(elastic, "nodes_now", lambda: [self.nodes[name] for name in self.there])
        monkeypatch.setattr(elastic, "without_silent", lambda nodes: nodes)
        monkeypatch.setattr(elastic, "reserved_by_others", lambda own: self.held)
        monkeypatch.setattr(elastic, "named_place", self._hold)
        self.counted: list[list[Node]] = []
        monkeypatch.setattr(elastic, "count_again", lambda nodes, earlier: self.counted.append(nodes) or [])
        monkeypatch.setattr(elastic, "remove_placement_group", lambda place: self.held.clear())
        self.killed: list[str] = []
        monkeypatch.setattr(elastic.ray, "get", lambda said: said)
        monkeypatch.setattr(elastic.ray, "kill", self.killed.append)
        monkeypatch.setattr(elastic.ray.util, "placement_group_table", lambda place: {"state": "CREATED"})
        monkeypatch.setattr(elastic, "_YOUNG_S", 0.0)
        monkeypatch.setattr(elastic, "_SETTLE_S", 0.0)
        monkeypatch.setattr(elastic, "_LOOK_S", 0.0)
        monkeypatch.setattr(elastic, "_WAIT_S", 0.0)
        monkeypatch.setattr(GroupPolicy, "_maybe_send_resource_request", lambda self: None)

    def _hold(self, mailbox: str, bundles: list[dict[str, float]], **_: Any) -> str:
        self.held["2"] = {"CPU": sum(bundle["CPU"] for bundle in bundles)}
        return "place"

    @property
    def mailbox(self) -> Any:
        def note(text: str) -> bool:
            self.notes.append(text)
            return True

        answers = {"note": note, "vacate": lambda: self.left, "hangs": lambda: self.hangs}
        return SimpleNamespace(**{name: SimpleNamespace(remote=answer) for name, answer in answers.items()})

    def running(self, node: str, ranks: int) -> Any:
        worker = SimpleNamespace(metadata=SimpleNamespace(node_id=node), actor="rank")
        place = SimpleNamespace(placement_group=SimpleNamespace(id=b"own"))
        return SimpleNamespace(
            placement_group_handle=place, workers=[worker] * ranks, num_workers=ranks, start_time=time.monotonic() - 1e3
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def policy(world: World) -> GroupPolicy:
    plan = plan_groups(ClusterConfig(workers=(1, 4), use_gpu=False), cpus=4, gpus=0, node_cpus=2)
    return GroupPolicy(ScalingConfig(num_workers=(1, 4)), plan, world.mailbox, "m")


def grown_until_vacating(policy: GroupPolicy, world: World) -> None:
    first = policy.make_decision_for_non_running_worker_group()
    assert isinstance(first, ResizeDecision)
    assert first.num_workers == 2
    world.there = "12"
    for _ in range(4):
        assert isinstance(policy.make_decision_for_running_worker_group(world.running("1", 2), None), NoopDecision)  # type: ignore[arg-type]
    assert world.held


def test_a_group_grows_when_room_is_held_and_its_ranks_have_left(policy: GroupPolicy, world: World) -> None:
    grown_until_vacating(policy, world)
    world.left = True
    decision = policy.make_decision_for_running_worker_group(world.running("1", 2), None)  # type: ignore[arg-type]
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == 4
    assert not world.held  # the ranks themselves want it


def test_what_it_holds_is_its_own_when_its_ranks_die_before_they_left(policy: GroupPolicy, world: World) -> None:
    grown_until_vacating(policy, world)
    world.there = "2"
    decision = policy.make_decision_for_non_running_worker_group()
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == 2
    assert not world.notes


@pytest.mark.parametrize("workers", [2, (1, 4)])
def test_nodes_are_counted_again_where_ranks_have_room_and_do_not_come_up(
    world: World, workers: int | tuple[int, int]
) -> None:
    plan = plan_groups(ClusterConfig(workers=workers, use_gpu=False), cpus=4, gpus=0, node_cpus=2)
    policy = GroupPolicy(ScalingConfig(num_workers=workers), plan, world.mailbox, "m")
    assert isinstance(policy.make_decision_for_non_running_worker_group(), ResizeDecision)
    assert not world.counted
    policy.make_decision_for_non_running_worker_group()
    assert world.counted == [[world.nodes["1"]]]
    world.there = ""
    policy.make_decision_for_non_running_worker_group()
    assert len(world.counted) == 1, "there is none to count"


def test_with_too_little_room_it_waits_and_says_so(policy: GroupPolicy, world: World) -> None:
    world.there = ""
    assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)
    (said,) = world.notes
    assert said.startswith("waiting for nodes: 1 rank needs")
    assert said.endswith("there is room for 0")


def test_ranks_that_hang_are_replaced_also_while_they_were_asked_to_leave(policy: GroupPolicy, world: World) -> None:
    """Whoever hangs does not leave."""
    grown_until_vacating(policy, world)
    world.hangs = True
    decision = policy.make_decision_for_running_worker_group(world.running("1", 2), None)  # type: ignore[arg-type]
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == 4
    assert world.killed == ["rank", "rank"]
    assert not world.held
    world.hangs = False
    assert isinstance(policy.make_decision_for_running_worker_group(world.running("1", 4), None), NoopDecision)  # type: ignore[arg-type]
