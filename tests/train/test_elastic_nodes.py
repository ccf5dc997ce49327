"""Which nodes hold how many ranks, what is said of those that come and go, and what each rank has of its node."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitray.experiment import ClusterConfig
from vitray.train.elastic import what_changed
from vitray.train.nodes import Node, ranks_that_fit, without_silent
from vitray.train.resources import plan_groups


def node(name: str, cpus: float, gpus: float = 0, *, going: bool = False, port: int = 1) -> Node:
    return Node(name, "127.0.0.1", port, {"CPU": cpus, "GPU": gpus}, going)


def test_ranks_are_counted_where_there_is_room_beside_others() -> None:
    nodes = [node("a", 4), node("b", 2), node("c", 0.5), node("d", 8, going=True)]
    assert ranks_that_fit(nodes, {"b": {"CPU": 1.5}}, {"CPU": 0.9}) == {"a": 4}
    assert ranks_that_fit(nodes, {"b": {"CPU": 1.0}}, {"CPU": 0.9}) == {"a": 4, "b": 1}
    assert ranks_that_fit([node("many", 64)], {}, {"CPU": 0.9}) == {"many": 64}  # and not 71


def test_with_gpus_these_decide() -> None:
    nodes = [node("a", 4, 8), node("b", 16, 2)]
    assert ranks_that_fit(nodes, {}, {"CPU": 0.45, "GPU": 1.0}) == {"a": 8, "b": 2}
    assert ranks_that_fit(nodes, {"b": {"GPU": 2.0}}, {"CPU": 0.45, "GPU": 1.0}) == {"a": 8}


def test_a_node_that_does_not_answer_is_as_good_as_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there, socket.create_server(("127.0.0.1", 0)) as gone:
        silent = gone.getsockname()[1]
        gone.close()
        nodes = [node("a", 1, port=there.getsockname()[1]), node("b", 1, port=silent)]
        assert [(n.id, n.going) for n in without_silent(nodes)] == [("a", False), ("b", True)]
    assert without_silent([]) == []


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"a": "10.0.0.1", "b": "10.0.0.2"}, {"a": "10.0.0.1"}, "node 10.0.0.2 left"),
        ({"a": "10.0.0.1"}, {"a": "10.0.0.1", "b": "10.0.0.2"}, "node 10.0.0.2 joined"),
        ({"a": "10.0.0.1"}, {"b": "10.0.0.2"}, "node 10.0.0.1 left, node 10.0.0.2 joined"),
        ({"a": "10.0.0.1"}, {"a": "10.0.0.1"}, ""),
        ({}, {n: f"10.0.0.{n}" for n in "54321"}, "nodes 10.0.0.1, 10.0.0.2, 10.0.0.3, ... joined"),
    ],
)
def test_what_changed_is_said_in_a_few_words(before: dict[str, str], now: dict[str, str], said: str) -> None:
    assert what_changed(before, now) == said


@given(
    nodes=st.lists(st.integers(1, 10), min_size=1, max_size=6), least=st.integers(1, 3), more=st.integers(1, 8),
    first=st.integers(1, 6),
)  # fmt: skip
def test_data_tasks_find_room_on_every_node_however_many_ranks_there_are(
    nodes: list[int], least: int, more: int, first: int
) -> None:
    """The group is planned for the first nodes, and more may come, or all but one go."""
    config = ClusterConfig(workers=(least, least + more), use_gpu=False)
    if sum(nodes[:first]) < least:
        return
    plan = plan_groups(config, cpus=sum(nodes[:first]), gpus=0, node_cpus=max(nodes[:first]))
    fitting = ranks_that_fit([node(str(i), cpus) for i, cpus in enumerate(nodes)], {}, plan.per_rank)
    assert list(fitting.values()) == nodes  # a rank for each CPU
    for ranks in range(least, min(plan.most, sum(nodes)) + 1):
        left = ranks
        for here in sorted(nodes, reverse=True):  # packed
            if ranks_here := min(here, left):
                left -= ranks_here
                now = plan.for_ranks(ranks, cpus=sum(nodes), here=here, ranks_here=ranks_here)
                assert now.threads == here // ranks_here
                assert ranks_here * (now.rank_cpus + now.data_workers * now.task_cpus) <= here + 1e-6
