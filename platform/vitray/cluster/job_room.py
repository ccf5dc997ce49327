"""What a cluster has, what of it is free and what its jobs wait for, read from its dashboard; and whether the cluster
is this very machine."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_package import size_of
from vitray.cluster.job_records import Job
from vitray.train.resources import Room

_MIB = 2**20
_SAME_TIME_S = 2.0  # the clock's granularity, and the drift of what the kernel takes for the time of its start
_NEW_NODE_S = 5.0  # a node that has just started has not told of its agent yet
_FIRST_NODE_S = 30.0  # and a cluster that has just started not of its first node
_FIRST_CPUS_S = 75.0  # workers whose head was started anew take a minute to give up the old one
_USED = re.compile(r"^ *([\d.]+)/([\d.]+) (CPU|GPU)\b", re.M)
_MEMORY = re.compile(r"^ *([\d.]+)([KMGT]i)?B/([\d.]+)([KMGT]i)?B memory", re.M)
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
Demand = Mapping[str, float]


@dataclass(frozen=True)
class Nodes:
    """The living nodes of a cluster. ``scales``: node types have names, so nodes may be added when jobs wait."""

    room: Room
    count: int
    scales: bool
    here: bool

    @classmethod
    def of(cls, dashboard: Dashboard, tell: Callable[[str], None] = lambda _: None) -> Nodes:
        """The nodes now; of a cluster that comes up, when it has some. ``tell`` hears what that waits for."""
        begun = time.monotonic()
        until, seen, told = begun + _FIRST_NODE_S, False, False
        while True:
            summary = dashboard.get("/nodes", view="summary")["data"]["summary"]
            alive = [node for node in summary if node.get("raylet", {}).get("state") == "ALIVE"]
            if alive and not seen:
                until, seen = time.monotonic() + _NEW_NODE_S, True
            had = [node["raylet"].get("resourcesTotal", {}) for node in alive]
            scales = any(node["raylet"].get("nodeTypeName") for node in alive)
            if (alive and all(node.get("agent") for node in alive)) or time.monotonic() > until:
                # A head without CPUs that nodes have not joined yet, unless it is for an autoscaler to bring them.
                empty = alive and not scales and not any(each.get("CPU") or each.get("GPU") for each in had)
                if not empty or time.monotonic() > begun + _FIRST_CPUS_S:
                    break
                if not told:
                    told = True
                    tell(f"no node of the cluster has a CPU yet; waiting up to {_FIRST_CPUS_S:.0f} s for its workers")
            time.sleep(0.25)
        gpus = [gpu for node in alive for gpu in node.get("gpus") or () if gpu.get("memoryTotal")]
        room: Room = {
            "cpus": sum(each.get("CPU", 0.0) for each in had),
            "gpus": sum(each.get("GPU", 0.0) for each in had),
            "node_cpus": max((each.get("CPU", 0.0) for each in had), default=None),
            "node_memory": max((_memory(each) for each in had), default=0.0) or None,
            "gpu_memory": min((gpu["memoryTotal"] * _MIB for gpu in gpus), default=None),
        }
        return cls(room, len(alive), scales, here=bool(alive) and not scales and all(map(_is_here, alive)))

    def describe(self) -> str:
        gpus = f", {self.room['gpus']:g} GPUs" if self.room["gpus"] else ""
        return f"{self.count} node{'s' if self.count != 1 else ''} with {self.room['cpus']:g} CPUs{gpus}"


def _memory(resources: Mapping[str, float]) -> float:
    """Ray counts the object store apart."""
    return resources.get("memory", 0.0) + resources.get("objectStoreMemory", 0.0)


def _is_here(node: Mapping[str, Any]) -> bool:
    """Whether a node's processes are ours to see, with the same file system.

    Addresses do not tell: ports of containers are published on loopback, and their host names may be anything. But a
    process of the node's that is found here, under its number and begun when it says, shares our mounts or does not.
    """
    agent = node.get("agent") or {}
    if not agent.get("pid"):
        return False
    import psutil

    try:
        if abs(psutil.Process(agent["pid"]).create_time() - agent.get("createTime", 0.0)) > _SAME_TIME_S:
            return False
        return Path(f"/proc/{agent['pid']}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink()
    except (OSError, psutil.Error):  # another namespace of processes, or another user's
        return False


@dataclass(frozen=True)
class Free:
    """CPUs, GPUs and bytes of memory: (used, total) of each."""

    of: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def now(cls, dashboard: Dashboard) -> Free:
        text = str(dashboard.get("/api/cluster_status", format=1)["data"].get("clusterStatus") or "")
        found = {unit: (float(used), float(total)) for used, total, unit in _USED.findall(text)}
        for used, used_unit, total, total_unit in _MEMORY.findall(text):
            found["memory"] = float(used) * _UNITS[used_unit], float(total) * _UNITS[total_unit]
        return cls(found)

    def describe(self, names: Sequence[str]) -> str:
        """What is free of some resources, for people."""
        return ", ".join(_amount(name, self._left(name), of=self.of.get(name, (0.0, 0.0))[1]) for name in names)

    def _left(self, name: str) -> float:
        used, total = self.of.get(name, (0.0, 0.0))
        return max(0.0, total - used)


def waits_for(dashboard: Dashboard, job: Job, free: Free | None = None) -> str | None:
    """What a job that has not ended waits for: its requests against what is free; None where it waits for nothing."""
    if job.over:
        return None
    if job.status == "PENDING":
        return "its environment to be set up on the head node"
    demands = _pending_groups(dashboard, job)
    if not demands:
        return None
    parts = Counter(" + ".join(_amount(name, demand[name]) for name in _in_order(demand)) for demand in demands)
    wanted = ", ".join(f"{count} x {part}" if count > 1 else part for part, count in parts.items())
    free = free or Free.now(dashboard)
    return f"{wanted}; free: {free.describe(_in_order({name for demand in demands for name in demand}))}"


def _in_order(names: Iterable[str]) -> list[str]:
    """What is scarcest first."""
    return sorted(names, key=lambda name: (name != "GPU", name))


def _pending_groups(dashboard: Dashboard, job: Job) -> list[Demand]:
    """The bundles of the job's worker groups that no node has taken yet."""
    if job.driver is None:
        return []
    said = dashboard.get("/api/v0/placement_groups", detail=1, limit=1000)["data"]["result"]["result"]
    return [
        bundle["unit_resources"]
        for group in said
        if group["creator_job_id"] == job.driver and group["state"] in ("PENDING", "RESCHEDULING")
        for bundle in group.get("bundles") or ()
        if not bundle.get("node_id")
    ]


def _amount(name: str, count: float, of: float | None = None) -> str:
    if name == "memory":
        return size_of(count) + (f" of {size_of(of)} memory" if of is not None else " of memory")
    unit = f"{name}s" if name in ("CPU", "GPU") and (of is not None or count != 1) else name
    return f"{count:g} {unit}" if of is None else f"{count:g} of {of:g} {unit}"
