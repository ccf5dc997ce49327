"""How long one image takes: what a sweep weighs against accuracy when ``latency_ms`` is among its objectives."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from vitray.experiment import Experiment

_WARM_UP, _TIMES = 5, 30


def wants_latency(experiment: Experiment) -> bool:
    """Whether a sweep trades latency off."""
    return experiment.search is not None and "latency_ms" in experiment.search.objectives


@torch.inference_mode()
def latency_ms(model: nn.Module, experiment: Experiment, device: torch.device) -> float:
    """Milliseconds of a forward pass of one image on ``device``, in float32 as evaluation does it: the median of some.

    The model is in evaluation mode meanwhile, and in its own afterwards.
    """
    config = experiment.model
    assert config.in_chans is not None, "resolved"
    image = torch.zeros(1, config.in_chans, *config.size, device=device)
    training = model.training
    model.eval()
    try:
        seconds = [_seconds(model, image) for _ in range(_WARM_UP + _TIMES)]
    finally:
        model.train(training)
    return 1000 * statistics.median(seconds[_WARM_UP:])


def _seconds(model: nn.Module, image: torch.Tensor) -> float:
    start = time.perf_counter()
    model(image)
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
    return time.perf_counter() - start
