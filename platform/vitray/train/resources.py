"""What a worker group takes of a cluster, worked out before anything starts, so that nothing waits forever."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from vitray.errors import ResourceError
from vitray.experiment import ClusterConfig, bounds

_SMALL_TASK = 0.25  # CPUs a data task reserves where ranks and data share few cores
_ELASTIC_RANK = 0.9  # CPUs a rank of an elastic group reserves: so up to ten CPUs a node hold as many ranks as CPUs
_TASKS_A_CPU = 1.5  # data tasks at once for a CPU: between one task and the next a CPU would idle a third of the time


@dataclass(frozen=True)
class GroupPlan:
    """Resources of one of ``groups`` equal worker groups. Trial actors, mailboxes and controllers take no CPU.

    ``data_workers`` tasks of ``task_cpus`` CPUs at once read data for each rank. ``rank_memory``: bytes that a rank can
    have at most, with its group alone on the machines; None where that is not known.
    """

    workers: int | tuple[int, int]
    use_gpu: bool
    rank_cpus: float
    task_cpus: float
    threads: int
    groups: int = 1
    data_workers: int = 1
    rank_memory: float | None = None

    @property
    def ranks(self) -> int:
        """The least number of ranks of a group."""
        return bounds(self.workers)[0]

    @property
    def most(self) -> int:
        """The greatest number of ranks of a group."""
        return bounds(self.workers)[1]

    @property
    def elastic(self) -> bool:
        """Whether a group may change its number of ranks."""
        return self.most > self.ranks

    @property
    def per_rank(self) -> dict[str, float]:
        """What Ray reserves for a rank."""
        return {"CPU": self.rank_cpus} | ({"GPU": 1.0} if self.use_gpu else {})

    def for_ranks(
        self, ranks: int, *, cpus: float, here: float, ranks_here: int, data_workers: int | Literal["auto"] = "auto"
    ) -> GroupPlan:
        """The plan of an elastic group that has so many ranks now, on a cluster that has ``cpus`` now.

        ``here``: CPUs of a rank's own node, which ``ranks_here`` share. Data tasks are to fit there, whatever becomes
        of other nodes.
        """
        all_ranks = self.groups * ranks
        task_cpus, tasks = _tasks(cpus - all_ranks * self.rank_cpus, all_ranks, data_workers)
        beside = math.floor((here / ranks_here - self.rank_cpus) / tasks * 100 + 1e-6) / 100
        threads = max(1, int(here / ranks_here))
        return replace(self, task_cpus=min(task_cpus, max(0.01, beside)), data_workers=tasks, threads=threads)

    def describe(self) -> str:
        ranks = f"{self.ranks} to {self.most} ranks" if self.elastic else f"{self.ranks} rank{'s' * (self.ranks > 1)}"
        gpu = ", 1 GPU" if self.use_gpu else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        tasks = f"{self.data_workers} data task{'s' if self.data_workers > 1 else ''} of {self.task_cpus:g} CPU"
        return f"{ranks} of {self.rank_cpus:g} CPU{gpu}, each with {threads} and {tasks}"


class Room(TypedDict):
    """What a cluster has. ``node_cpus`` are those of its largest node, which bound one rank's threads.

    ``node_memory``: bytes of that node; ``gpu_memory``: of a GPU; None where that is not known.
    """

    cpus: float
    gpus: float
    node_cpus: float | None
    node_memory: float | None
    gpu_memory: float | None


def plan_groups(
    config: ClusterConfig,
    *,
    cpus: float,
    gpus: float,
    groups: int | None = 1,
    node_cpus: float | None = None,
    node_memory: float | None = None,
    gpu_memory: float | None = None,
    data_workers: int | Literal["auto"] = "auto",
) -> GroupPlan:
    """How a group is laid out on a cluster with ``cpus`` and ``gpus``; ``groups=None``: as many as fit side by side.

    ``node_cpus`` and memory: see :class:`Room`; by default the cluster is one node. ``data_workers``: data tasks
    at once for each rank; data tasks take what training leaves.

    Raises:
        ResourceError: the cluster has fewer GPUs or CPUs than the ranks need; says what is missing.
    """
    use_gpu = gpus > 0 if config.use_gpu == "auto" else config.use_gpu
    least = config.least
    have, unit = (gpus, "GPU") if use_gpu else (cpus, "CPU")
    if least > have:
        less = f"set cluster.workers={int(have)}" if have >= 1 else None
        raise ResourceError(
            f"{least} worker{'s need' if least > 1 else ' needs'} {least} {unit}{'s' if least > 1 else ''}, "
            f"but the cluster has {have:g}",
            where="cluster.workers",
            remedy=less or ("set cluster.use_gpu=false" if use_gpu else "add a node with CPUs"),
        )
    fitting = max(1, int(have // least))
    if groups is not None and groups > fitting:
        raise ResourceError(
            f"{groups} trials at once need {groups * least} {unit}s, but the cluster has {have:g}",
            where="search.concurrent",
            remedy=f"set search.concurrent={fitting} or auto",
        )
    groups = groups or fitting
    # An elastic group takes what it may: CPUs for data are reserved beside as many ranks as this cluster can hold.
    most = max(least, min(config.most, int(have // groups)))
    ranks = groups * most
    # Fractions where CPUs are few, so that at least one data task always fits beside the ranks.
    rank_cpus = 1.0 if cpus >= ranks + 1 else max(0.01, int((cpus - 2 * _SMALL_TASK) / ranks * 100) / 100)
    if config.elastic:  # nodes to come are not known: each is to hold a rank for each CPU, and something for data
        rank_cpus = min(rank_cpus, _ELASTIC_RANK) if use_gpu else _ELASTIC_RANK
    left = round(cpus - ranks * rank_cpus, 4)
    if left <= 0:  # GPUs without CPUs: Ray would wait for them for ever
        raise ResourceError(
            f"{ranks} rank{'s' if ranks > 1 else ''} and the tasks that read data need more CPUs than the "
            f"cluster's {cpus:g}",
            where="cluster",
            remedy="give the cluster at least one CPU for every GPU, and one more",
        )
    task_cpus, tasks = _tasks(left, ranks, data_workers)
    threads = config.threads or max(1, int(min(cpus // ranks, node_cpus or cpus)))
    # The fullest node has at least its share of one group's ranks.
    crowd = max(1, math.floor(least * min(1.0, (node_cpus or cpus) / cpus)))
    memory = gpu_memory if use_gpu else node_memory / crowd if node_memory else None
    return GroupPlan(config.workers, use_gpu, rank_cpus, task_cpus, threads, groups, tasks, memory)


def _tasks(left: float, ranks: int, data_workers: int | Literal["auto"]) -> tuple[float, int]:
    """CPUs of a data task and how many each of ``ranks`` ranks has at once, where these leave so many CPUs."""
    left = max(0.01, round(left, 4))
    tasks = math.ceil(left * _TASKS_A_CPU / ranks) if data_workers == "auto" else data_workers
    # Downwards, so that all of them fit at once.
    return min(1.0, left, max(0.01, math.floor(left / (ranks * tasks) * 100) / 100)), tasks
