"""A sweep, worked out before anything starts: its points, what a trial takes, how many run at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitray.errors import ConfigError
from vitray.experiment import Experiment, SearchConfig
from vitray.train.resources import GroupPlan, Room, plan_groups
from vitray.tune.space import Point, Space, compile_space, points_of, search_of


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do. ``experiment`` is resolved against its data; ``weights``: what its trials begin with."""

    experiment: Experiment
    space: Space
    points: tuple[Point, ...]
    groups: GroupPlan
    weights: str | None = None

    @property
    def search(self) -> SearchConfig:
        assert self.experiment.search is not None
        return self.experiment.search

    def trial(self, index: int) -> Experiment:
        """The experiment of one trial."""
        return self.experiment.with_values(dict(self.points[index]))

    def trial_name(self, index: int) -> str:
        """Deterministic: the same point at the same place has the same name."""
        return f"trial-{index:04d}-{self.trial(index).identity[:8]}"

    def rungs(self) -> list[tuple[int, int]]:
        """ASHA's rungs as (epoch, trials expected to get there); one rung at the end without it."""
        search, epochs = self.search, self.experiment.train.epochs
        rungs, epoch = [], min(search.grace_epochs, epochs)
        while search.scheduler == "asha" and epoch < epochs:
            rungs.append(epoch)
            epoch *= search.reduction_factor
        counts = [max(1, len(self.points) // search.reduction_factor**i) for i in range(len(rungs) + 1)]
        return list(zip([*rungs, epochs], counts, strict=True))

    def describe(self) -> dict[str, object]:
        """The plan as plain values, in the order in which a person wants them."""
        search = self.search
        return {
            "space": dict(search.space),
            "points_in_grid": None if math.isinf(self.space.size) else int(self.space.size),
            "valid_points": None if math.isinf(self.space.valid_size) else int(self.space.valid_size),
            "architectures": len(self.space.shapes) + sum(self.space.refused.values()),
            "valid_architectures": len(self.space.shapes),
            "refused": dict(self.space.refused),
            "trials": len(self.points),
            "resources_per_trial": self.groups.describe(),
            "trials_at_once": min(self.groups.groups, len(self.points)),
            "scheduler": search.scheduler,
            "rungs": [{"epoch": epoch, "trials": count} for epoch, count in self.rungs()],
            "metric": f"{search.mode} {search.metric}",
            **({"begins_with": self.weights} if self.weights else {}),
        }


def plan_sweep(
    experiment: Experiment,
    *,
    cpus: float,
    gpus: float,
    node_cpus: float | None = None,
    node_memory: float | None = None,
    gpu_memory: float | None = None,
) -> SweepPlan:
    """Compile the space and lay out the worker groups. Arguments: see :class:`vitray.train.resources.Room`.

    Raises:
        ConfigError: the space is empty, malformed or without a valid point; trials would not be validated.
        ResourceError: the cluster cannot hold one trial.
    """
    search = search_of(experiment)
    if experiment.train.split != "train":
        raise ConfigError(
            f"is {experiment.train.split}, which leaves nothing to compare trials on",
            where="train.split",
            remedy="leave it unset; the winner is retrained on train+val (search.retrain)",
        )
    wanted = search.concurrent
    room: Room = {
        "cpus": cpus,
        "gpus": gpus,
        "node_cpus": node_cpus,
        "node_memory": node_memory,
        "gpu_memory": gpu_memory,
    }
    groups = plan_groups(
        experiment.cluster, groups=None if wanted == "auto" else wanted, **room, data_workers=experiment.data.workers
    )
    space = compile_space(experiment, groups.rank_memory)
    points = tuple(points_of(experiment, space))
    if not points:
        what = "holds no point that fits into a rank's memory"
        raise ConfigError(what, where="search.space", remedy="add smaller batches or models")
    if groups.groups > len(points):
        groups = plan_groups(experiment.cluster, groups=len(points), **room, data_workers=experiment.data.workers)
    return SweepPlan(experiment, space, points, groups)
