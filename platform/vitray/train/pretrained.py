"""Fine-tuning begins with weights that were trained before."""

from __future__ import annotations

from collections.abc import Sequence

from vitray.errors import DataError
from vitray.experiment import Experiment
from vitray.models.pretrained import LoadReport, load_pretrained, weights_digest
from vitray.train.checkpoint import TrainState


def begin_with_pretrained(state: TrainState, experiment: Experiment, classes: Sequence[str]) -> LoadReport | None:
    """Load the weights of ``train.init_from`` into a fresh state; the average, if one is kept, starts from them too.

    Raises:
        DataError: this machine has no such weights, or others than the run was made with.
        CheckpointError: they are damaged, or of another architecture.
    """
    config = experiment.train
    if config.init_from is None:
        return None
    path = config.init_path or config.init_from
    if config.init_sha256 not in (None, weights_digest(path)):
        raise DataError(
            "these weights are not those that the run was made with",
            where=f"train.init_from: {path}",
            remedy="bring the same file back (all machines need it there), or start a new run",
        )
    report = load_pretrained(state.model, path, classes=classes)
    if state.ema is not None:
        weights = dict(state.model.named_parameters())
        for name, average in state.ema.items():
            average.copy_(weights[name].detach())
    return report
