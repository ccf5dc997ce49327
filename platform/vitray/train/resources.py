"""What a worker group takes of a cluster, worked out before anything starts, so that nothing waits forever."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

from vitray.errors import ResourceError
from vitray.experiment import ClusterConfig

_SMALL_TASK = 0.25  # CPUs a data task reserves where ranks and data share few cores
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
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    def describe(self) -> str:
        ranks = f"{self.ranks} rank{'s' if self.ranks > 1 else ''}"
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
    least = config.workers if isinstance(config.workers, int) else config.workers[0]
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
    most = least if isinstance(config.workers, int) else max(least, min(config.workers[1], int(have // groups)))
    ranks = groups * most
    # Fractions where CPUs are few, so that at least one data task always fits beside the ranks.
    rank_cpus = 1.0 if cpus >= ranks + 1 else max(0.01, int((cpus - 2 * _SMALL_TASK) / ranks * 100) / 100)
    left = round(cpus - ranks * rank_cpus, 4)
    if left <= 0:  # GPUs without CPUs: Ray would wait for them for ever
        raise ResourceError(
            f"{ranks} rank{'s' if ranks > 1 else ''} and the tasks that read data need more CPUs than the "
            f"cluster's {cpus:g}",
            where="cluster",
            remedy="give the cluster at least one CPU for every GPU, and one more",
        )
    tasks = math.ceil(left * _TASKS_A_CPU / ranks) if data_workers == "auto" else data_workers
    # Downwards, so that all of them fit at once.
    task_cpus = min(1.0, left, max(0.01, math.floor(left / (ranks * tasks) * 100) / 100))
    threads = config.threads or max(1, int(min(cpus // ranks, node_cpus or cpus)))
    # The fullest node has at least its share of one group's ranks.
    crowd = max(1, math.floor(least * min(1.0, (node_cpus or cpus) / cpus)))
    memory = gpu_memory if use_gpu else node_memory / crowd if node_memory else None
    return GroupPlan(config.workers, use_gpu, rank_cpus, task_cpus, threads, groups, tasks, memory)
