"""Whether a training fits into memory, by the least that it can take: what cannot fit is refused before it starts."""

from __future__ import annotations

from typing import Any

from vitray.errors import ResourceError
from vitray.experiment import Experiment
from vitray.model_size import least_memory
from vitray.train.resources import GroupPlan, plan_groups

GIB = 2**30


def plan_training(experiment: Experiment, **room: Any) -> GroupPlan:
    """The worker group of one experiment in a :class:`~vitray.train.resources.Room`.

    Raises:
        ResourceError: the cluster cannot hold it, or a rank cannot hold the model.
    """
    plan = plan_groups(experiment.cluster, **room, data_workers=experiment.data.workers)
    check_memory(experiment, plan.rank_memory)
    return plan


def rank_images(experiment: Experiment) -> int:
    """Images that a rank has on its device at once: its share of a step, by the most ranks, in its micro-batches."""
    return -(-experiment.train.global_batch // (experiment.cluster.most * experiment.train.accumulate))


def micro_batches(experiment: Experiment, world_size: int) -> int:
    """Micro-batches that each of ``world_size`` ranks makes of its share of a step.

    Fewer ranks than an elastic run may have take more of them, so that none is larger and memory is what was planned.
    """
    cluster = experiment.cluster
    return experiment.train.accumulate * (-(-cluster.most // world_size) if cluster.elastic else 1)


def least_rank_memory(experiment: Experiment) -> int:
    """Bytes that a rank of a resolved experiment takes at least; what is frozen costs less, and is not counted."""
    if experiment.train.freeze != "none":
        return 0
    low = experiment.train.precision != "float32"  # "auto" may be either
    return least_memory(experiment.model, rank_images(experiment), "bfloat16" if low else "float32")


def over(experiment: Experiment, limit: float | None) -> str | None:
    """Why an experiment cannot fit into ``limit`` bytes a rank; None where it may, or nothing is known."""
    if limit is None or least_rank_memory(experiment) <= limit:
        return None
    return f"needs more memory than the {limit / GIB:.1f} GiB that a rank can have"


def check_memory(experiment: Experiment, limit: float | None) -> None:
    """Refuse an experiment that cannot fit.

    Raises:
        ResourceError: how much it takes at least, and the accumulation that would fit, if any does.
    """
    if (why := over(experiment, limit)) is None:
        return
    accumulate, least = experiment.train.accumulate, least_rank_memory(experiment) / GIB
    remedy = "choose a smaller model: not even one image at a time would fit"
    while rank_images(experiment) > 1:
        accumulate *= 2
        experiment = experiment.with_values({"train.accumulate": accumulate})
        if over(experiment, limit) is None:
            remedy = f"set train.accumulate={accumulate} or more, choose a smaller model, or use more workers"
            break
    raise ResourceError(f"training takes at least {least:.1f} GiB a rank: it {why}", where="model", remedy=remedy)
