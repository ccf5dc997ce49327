"""The nodes of a cluster as an elastic group sees them: who is there, who is about to go, how many ranks they hold."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private.state import state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_EPSILON = 1e-6
_CRUMB, _CRUMB_S, _COUNTED_S = 0.001, 0.3, 10.0  # CPUs of a task that has a node counted again, and seconds
_PROBE_S, _PROBES = 1.0, 32  # seconds to connect to a node, and how many at once


@dataclass(frozen=True)
class Node:
    """A node that Ray believes alive. ``going``: somebody has announced its end; ``ends_at``: when, Unix time."""

    id: str
    address: str
    port: int
    total: Mapping[str, float]
    going: bool = False
    ends_at: float | None = None

    @property
    def answers(self) -> bool:
        """Whether somebody listens there: Ray takes many seconds to believe that a node is dead."""
        try:
            with socket.create_connection((self.address, self.port), timeout=_PROBE_S):
                return True
        except OSError:
            return False


def nodes_now() -> list[Node]:
    """The nodes of the cluster that this process is connected to."""
    going = state.get_draining_nodes()
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["NodeManagerPort"],
            node["Resources"],
            node["NodeID"] in going,
            going[node["NodeID"]] / 1000 if going.get(node["NodeID"]) else None,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def without_silent(nodes: list[Node]) -> list[Node]:
    """Those that answer as they are; the others as going."""
    if not nodes:
        return []
    with ThreadPoolExecutor(min(_PROBES, len(nodes))) as pool:
        answers = pool.map(lambda node: node.answers, nodes)
        return [node if answer else replace(node, going=True) for node, answer in zip(nodes, answers, strict=True)]


def reserved_by_others(own: str) -> dict[str, dict[str, float]]:
    """By node, what placement groups hold, but for those of the mailbox ``own`` (:mod:`vitray.train.places`).

    Tasks that come and go, our data's too, do not count.
    """
    held: dict[str, dict[str, float]] = {}
    table: dict[str, dict[str, Any]] = state.placement_group_table() or {}
    for group in table.values():
        if group["state"] != "CREATED" or group["name"].startswith(f"{own}/"):
            continue
        for index, node in group["bundles_to_node_id"].items():
            for name, amount in group["bundles"][index].items():
                on_node = held.setdefault(node, {})
                on_node[name] = on_node.get(name, 0.0) + amount
    return held


def ranks_that_fit(
    nodes: Iterable[Node], held: Mapping[str, Mapping[str, float]], per_rank: Mapping[str, float]
) -> dict[str, int]:
    """By node that stays, how many ranks have room beside what others hold; without GPUs, one for each CPU at most."""
    fitting = {}
    for node in nodes:
        free = {name: node.total.get(name, 0.0) - held.get(node.id, {}).get(name, 0.0) for name in per_rank}
        rooms = [int(free[name] / amount + _EPSILON) for name, amount in per_rank.items() if amount > 0]
        if not per_rank.get("GPU"):
            rooms.append(max(1, int(node.total.get("CPU", 0.0))))
        count = min(rooms)
        if count > 0 and not node.going:
            fitting[node.id] = count
    return fitting


def count_again(nodes: Iterable[Node], earlier: Sequence[ray.ObjectRef] = ()) -> list[ray.ObjectRef]:
    """Have nodes say anew what they have free, by a task that takes next to nothing; returns those tasks that did not
    come to their turn in time. While any of ``earlier`` did not yet, none are added.

    The head books a place on a node before it asks the node for it, and where the node does not answer never takes that
    back, until something changes there (Ray 2.60: so it is with a node that comes back at its old address, to which the
    head's connection is broken for a while yet). What is free then looks taken, and no group finds a place.
    """
    if earlier and (waiting := ray.wait(list(earlier), num_returns=len(earlier), timeout=0)[1]):
        return list(waiting)
    asked = [node for node in nodes if not node.going]
    tasks = [
        ray.remote(num_cpus=_CRUMB, max_retries=0)(_stay)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))
        .remote()
        for node in random.sample(asked, min(_PROBES, len(asked)))
    ]
    return list(ray.wait(tasks, num_returns=len(tasks), timeout=_COUNTED_S)[1]) if tasks else []


def _stay() -> None:
    time.sleep(_CRUMB_S)
