"""Decoded splits in the object store: one copy a node, shared by all epochs and all trials that run there.

An actor without a CPU keeps the references; tasks decode, and ranks map the results into their memory. The actor
belongs to the process that asked first: when that ends the split is simply decoded again, and nothing stays behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vitray.data.cache import DecodedChunk, DecodedSplit, Wish, decode_chunk
from vitray.data.ray_context import PATIENCE_S, check_room, object_store_bytes
from vitray.data.spilling import is_full
from vitray.errors import ResourceError, VitrayError

_ROOM = "end what else runs there, add a node, or lower cluster.workers"
_SHARE = 0.5  # of a node's object store; the rest is for blocks under way


_actors: dict[tuple[str, str], Any] = {}


class NodeCache:
    """The actor. Splits are kept until others need their room, the longest unused first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[tuple[str, ...], _Entry] = {}

    def split(self, wish: Wish, node: str, task_cpus: float) -> list[Any] | None:
        """References to the split's chunks, which may still be on their way; None when it does not fit."""
        entry = self._entries.pop(wish.key, None)
        if entry is None:
            if wish.bytes > self._capacity:
                return None
            while sum(e.bytes for e in self._entries.values()) + wish.bytes > self._capacity:
                self._entries.pop(next(iter(self._entries)))
            # Where this node has no CPU to give, another decodes and the result travels.
            near = NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)
            task = ray.remote(decode_chunk).options(num_cpus=task_cpus, scheduling_strategy=near)
            shared = ray.put(wish)
            entry = _Entry(wish.bytes, [task.remote(shared, start, stop) for start, stop in wish.chunks()])
        self._entries[wish.key] = entry  # the newest is the last
        return entry.chunks

    def forget(self, wish: Wish) -> None:
        self._entries.pop(wish.key, None)


@dataclass(frozen=True)
class _Entry:
    bytes: int
    chunks: list[Any]


def shared_split(wish: Wish, task_cpus: float) -> DecodedSplit | None:
    """The decoded split of this node, decoded now if nobody has yet; None when the object store has no room for it.

    Raises:
        DataError: a shard cannot be read.
    """
    node = ray.get_runtime_context().get_node_id()
    for _ in range(3):
        key = (ray.get_runtime_context().get_job_id(), node)
        # Kept, since an actor ends with the last handle of its maker.
        cache = _actors[key] = _actors.get(key) or _actor(node)
        try:
            references = ray.get(cache.split.remote(wish, node, task_cpus))
            if references is None:
                return None
            while len(ray.wait(references, num_returns=len(references), timeout=PATIENCE_S)[0]) < len(references):
                check_room(task_cpus, what="decoding the images", where="data.cache", remedy=_ROOM, patience=PATIENCE_S)
            chunks: list[DecodedChunk] = ray.get(references)
        except ray.exceptions.RayTaskError as error:
            ray.get(cache.forget.remote(wish))
            if is_full(error):
                return None
            if isinstance(error.cause, VitrayError):
                raise error.cause from None
            raise
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
            _actors.pop(key, None)  # whoever asked first has ended, and the actor with it
            continue
        return DecodedSplit(chunks, wish.view.store.manifest.channels)
    raise ResourceError(
        "the decoded images were lost three times", where=wish.view.store.shown, remedy="data.cache=none"
    )


def _actor(node: str) -> Any:
    # DEFAULT: inside a Tune trial an actor would else be counted against the trial's placement group.
    return (
        ray.remote(NodeCache)
        .options(
            name=f"vitray-cache-{node}",
            get_if_exists=True,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(int(_SHARE * object_store_bytes(node)))
    )


def least_capacity() -> int:
    """Bytes of decoded images that every node of the cluster has room for."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return min((int(_SHARE * object_store_bytes(node)) for node in nodes), default=0)
