"""What a checkpoint carries: the tensors of a training, by file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vitray.errors import CheckpointError
from vitray.models import VisionTransformer
from vitray.models.package import WEIGHTS
from vitray.train.snapshot import tensors_in

RAW, OPTIMIZER = "raw.safetensors", "optimizer.safetensors"
_REMEDY = "resume with the config it was made with, or give the run another name"


@dataclass
class TrainState:
    """Model and optimizer. ``ema`` holds averaged weights by parameter name, if they are kept."""

    model: VisionTransformer
    optimizer: torch.optim.Optimizer
    ema: dict[str, Tensor] | None = None


def tensors_of_state(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """By file. The model's holds what one would use: the averaged weights where they are kept."""
    weights = dict(state.model.state_dict())
    files = {WEIGHTS: {**weights, **(state.ema or {})}}
    if state.ema is not None:
        files[RAW] = weights
    files[OPTIMIZER] = {
        f"{index}.{name}": tensor
        for index, slots in state.optimizer.state_dict()["state"].items()
        for name, tensor in slots.items()
    }
    return files


def load_state(state: TrainState, files: Mapping[str, Tensor], where: str) -> None:
    """Take the tensors in the bytes of the files, uint8 (N,) each.

    Raises:
        CheckpointError: they belong to another model.
    """
    weights = tensors_in(files[WEIGHTS])
    if (RAW in files) != (state.ema is not None):
        raise CheckpointError(
            "was made " + ("without" if state.ema is not None else "with") + " averaged weights (train.ema)",
            where=where,
            remedy=_REMEDY,
        )
    try:
        state.model.load_state_dict(tensors_in(files[RAW]) if state.ema is not None else weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"belongs to another model: {str(error).splitlines()[-1].strip()}", where=where, remedy=_REMEDY
        ) from None
    if state.ema is not None:
        for name, average in state.ema.items():
            average.copy_(weights[name])
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors_in(files[OPTIMIZER]).items():
        index, name = key.split(".", 1)
        # torch keeps what it is given, and these are views of one large piece of memory.
        slots.setdefault(int(index), {})[name] = tensor.clone()
    state.optimizer.load_state_dict({"state": slots, "param_groups": state.optimizer.state_dict()["param_groups"]})
