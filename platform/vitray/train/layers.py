"""A model's parameters by depth: what fine-tuning slows down or leaves alone."""

from __future__ import annotations

import torch
from torch import nn

from vitray.experiment import TrainConfig
from vitray.models import VisionTransformer


def layer_of(name: str, depth: int) -> int | None:
    """0 for what makes the tokens, i + 1 for block i, depth + 1 for the last norm and the head.

    Bao et al. 2022 (BEiT) and He et al. 2022 (MAE) count so; timm counts the last norm to the last block instead. None:
    a table of relative positions, which holds a row (its first dimension) for every block.
    """
    part, _, rest = name.partition(".")
    if part == "blocks":
        return int(rest.split(".")[0]) + 1
    if part == "position":
        return None
    return depth + 1 if part in ("norm", "head") else 0


def freeze(model: VisionTransformer, config: TrainConfig) -> None:
    """Let ``train.freeze`` keep its part of the weights. Must come before the optimizer, and before DDP wraps.

    ``first_N`` keeps what makes the tokens (patch embedding, class and register tokens, positions) and N blocks, with
    the rows of these blocks in the tables of relative positions.
    """
    if config.freeze == "none":
        return
    count, depth = config.frozen_blocks, model.config.depth
    for name, parameter in model.named_parameters():
        layer = layer_of(name, depth)
        if count is None:
            parameter.requires_grad_(name.startswith("head."))
        elif layer is None and count < depth:
            _keep_rows(parameter, count)
        else:
            parameter.requires_grad_(layer is not None and layer > count)


def _keep_rows(table: nn.Parameter, count: int) -> None:
    """Rows without a gradient from the first step on stay as they are: AdamW's moments remain zero."""

    def without(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[:count] = 0
        return gradient

    table.register_hook(without)
