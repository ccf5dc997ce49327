"""A sweep, worked out before anything starts: its points, what a trial takes, how many run at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.model_size import flops
from vitray.search_config import SearchConfig
from vitray.train.resources import GroupPlan, Room, plan_groups
from vitray.tune.keys import Point, changed
from vitray.tune.refusals import check_search
from vitray.tune.space import Architecture, Space, compile_space, points_of, search_of


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
        return self.name_of(index, self.points[index])

    def name_of(self, index: int, values: Point) -> str:
        """As :meth:`trial_name`, of a trial with these values of config keys."""
        return f"trial-{index:04d}-{changed(self.experiment, values).identity[:8]}"

    def rungs(self) -> list[tuple[int, int]]:
        """ASHA's rungs as (epoch, trials expected to get there); one rung at the end without it."""
        search, epochs = self.search, self.experiment.train.epochs
        rungs, epoch = [], min(search.grace_epochs, epochs)
        while search.scheduler == "asha" and epoch < epochs:
            rungs.append(epoch)
            epoch *= search.reduction_factor
        counts = [max(1, len(self.points) // search.reduction_factor**i) for i in range(len(rungs) + 1)]
        return list(zip([*rungs, epochs], counts, strict=True))

    def describe(self, images: int | None = None) -> dict[str, object]:
        """The plan as plain values, in the order in which a person wants them.

        ``images`` of the train split, where they are known, tell the operations of the whole training.
        """
        search = self.search
        return {
            "space": dict(search.space),
            "points_in_grid": None if math.isinf(self.space.size) else int(self.space.size),
            "valid_points": None if math.isinf(self.space.valid_size) else int(self.space.valid_size),
            "architectures": len(self.space.shapes) + sum(self.space.refused.values()),
            "valid_architectures": len(self.space.shapes),
            "refused": dict(self.space.refused),
            "cheapest": _facts(self.space.cheapest),
            "dearest": _facts(self.space.dearest),
            "trials": len(self.points),
            "resources_per_trial": self.groups.describe(),
            "trials_at_once": min(self.groups.groups, len(self.points)),
            "scheduler": search.scheduler,
            "rungs": [{"epoch": epoch, "trials": count} for epoch, count in self.rungs()],
            "metric": f"{search.mode} {search.metric}",
            **({"training_flops": training_flops(self, images)} if images is not None else {}),
            **({"begins_with": self.weights} if self.weights else {}),
        }


def training_flops(plan: SweepPlan, images: int) -> dict[str, float]:
    """Floating-point operations of all trials: ``expected`` by the rungs, and ``at_most``, all to the last epoch.

    Which trials reach a rung is not known before, so each counts with the mean of all.
    """
    costs = []  # a trial's operations an epoch, and its epochs
    last = plan.experiment.train.epochs
    for point in plan.points:
        trial = changed(plan.experiment, point)
        # ASHA ends every trial with the config's last epoch, whatever its own is.
        epochs = trial.train.epochs if plan.search.scheduler == "none" else min(trial.train.epochs, last)
        costs.append((flops(trial.model).training * images, epochs))
    at_most = sum(cost * epochs for cost, epochs in costs)
    if plan.search.scheduler == "none":
        return {"expected": at_most, "at_most": at_most}
    expected, begin = 0.0, 0
    for end, trials in plan.rungs():
        spent = sum(cost * max(0, min(end, epochs) - begin) for cost, epochs in costs)
        expected += spent * trials / len(costs)
        begin = end
    return {"expected": expected, "at_most": at_most}


def _facts(architecture: Architecture) -> dict[str, object]:
    return {
        "point": dict(architecture.point),
        "parameters": architecture.parameters,
        "training_flops_an_image": architecture.training_flops,
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
    check_search(experiment, space)
    if groups.groups > len(points):
        groups = plan_groups(experiment.cluster, groups=len(points), **room, data_workers=experiment.data.workers)
    return SweepPlan(experiment, space, points, groups)
