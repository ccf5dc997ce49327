"""A sweep, worked out before anything starts: its points, what a trial takes, how many run at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.search_config import SearchConfig
from vitray.train.resources import GroupPlan, Room, plan_groups
from vitray.tune.cost import describe_cost
from vitray.tune.dimensions import Choice
from vitray.tune.keys import Point, changed
from vitray.tune.refusals import check_search
from vitray.tune.rungs import Rung, bracket_of, brackets_of, rungs_of
from vitray.tune.space import Architecture, Space, compile_space, points_of, search_of

if TYPE_CHECKING:  # which reads the states of sweeps, and these hold plans
    from vitray.tune.speed import Speed


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do. ``experiment`` is resolved against its data; ``weights``: what its trials begin with.

    ``points``: what it tries, in order; for tpe and nsga2 a random sample that stands for what they will propose.
    """

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

    @property
    def searched(self) -> int:
        """Trials that search, at most."""
        return min(len(self.points), self.search.budget.trials or len(self.points))

    @cached_property
    def epochs(self) -> int:
        """The most that any trial has."""
        searched = self.space.dimensions.get("train.epochs")
        return max(searched.values) if isinstance(searched, Choice) else self.experiment.train.epochs

    @cached_property
    def brackets(self) -> list[list[Rung]]:
        """The brackets of hyperband."""
        return brackets_of(self.search, self.epochs, len(self.points))

    def comparisons(self, index: int) -> Sequence[int]:
        """Epochs after which a trial waits until all that it is compared with are there."""
        search, epochs = self.search, self.epochs
        if search.scheduler == "pbt":
            return range(search.perturb_epochs, epochs, search.perturb_epochs)
        if search.scheduler == "hyperband":
            return [epoch for epoch, _ in bracket_of(self.brackets, index)[1][:-1]]
        return ()

    def asks_at(self, index: int) -> Sequence[int] | None:
        """Epochs after which the scheduler decides about a trial that searches; None where that is every one."""
        match self.search.scheduler:
            case "none":
                return ()
            case "asha":
                return [epoch for epoch, _ in self.rungs()]
            case "median":
                return None
            case "hyperband":
                return [*self.comparisons(index), self.epochs]
            case "pbt":
                return self.comparisons(index)

    def rungs(self) -> list[Rung]:
        """The scheduler's rungs as (epoch, trials expected to get there); one, at the end, where it stops nothing."""
        return rungs_of(self.search, self.epochs, self.searched)

    def describe(self, images: int | None = None, speed: Speed | None = None) -> dict[str, object]:
        """The plan as plain values, in the order in which a person wants them.

        ``images`` of the train split, where they are known, tell the operations of the whole training, and ``speed``
        the hours that they take.
        """
        search, space = self.search, self.space
        proposed = search.algorithm in ("tpe", "nsga2")
        budget = {name: most for name, most in search.budget if most is not None}
        combinations = len(space.shapes) + sum(space.refused.values())
        return {
            "space": dict(search.space),
            "points_in_grid": None if math.isinf(space.size) else int(space.size),
            "valid_points": None if math.isinf(space.valid_size) else int(space.valid_size),
            "architectures": space.architectures,
            "valid_architectures": space.valid_architectures,
            "combinations": combinations,
            "valid_combinations": len(space.shapes),
            "refused": dict(space.refused),
            "points_beyond_memory": None if math.isinf(space.beyond) else int(space.beyond),
            "cheapest": _facts(space.cheapest),
            "dearest": _facts(space.dearest),
            "trials": len(self.points),
            "algorithm": search.algorithm,
            **({"proposed": f"at most {self.searched} trials, proposed as results come in"} if proposed else {}),
            **({"begins_with_trials_of": search.earlier} if search.earlier else {}),
            "resources_per_trial": self.groups.describe(),
            "trials_at_once": min(self.groups.groups, len(self.points)),
            "scheduler": search.scheduler,
            "rungs": [{"epoch": epoch, "trials": count} for epoch, count in self.rungs()],
            **self._schedule(),
            "metric": f"{search.mode} {search.metric}",
            **({"objectives": list(search.objectives)} if search.objectives else {}),
            **({"budget": budget} if budget else {}),
            **(describe_cost(self, images, speed) if images is not None else {}),
            **({"begins_with": self.weights} if self.weights else {}),
        }

    def _schedule(self) -> dict[str, object]:
        """What rungs do not tell of a scheduler."""
        search = self.search
        if search.scheduler == "hyperband":
            brackets = brackets_of(search, self.epochs, self.searched)
            return {"brackets": [[{"epoch": e, "trials": n} for e, n in bracket] for bracket in brackets]}
        if search.scheduler == "pbt":
            return {"compared_at_epochs": list(self.comparisons(0))}
        return {}


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
