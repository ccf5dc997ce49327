"""What to change of an experiment that ran out of memory, so that it may fit and still learns the same."""

from __future__ import annotations

from vitray.experiment import Experiment
from vitray.train.memory import rank_images


def after_out_of_memory(experiment: Experiment) -> Experiment | None:
    """The experiment with micro-batches half as large, and twice as many to a step: the global batch stays.

    None where a rank has but one image at a time. It goes on from the run's newest checkpoint.
    """
    if rank_images(experiment) <= 1:
        return None
    return experiment.with_values({"train.accumulate": 2 * experiment.train.accumulate})


def retry_note(experiment: Experiment) -> str:
    """What was changed, for people: of an experiment that :func:`after_out_of_memory` gave."""
    images = rank_images(experiment)
    return (
        f"out of memory: again with {images} image{'s' if images > 1 else ''} at a time "
        f"(train.accumulate={experiment.train.accumulate})"
    )
