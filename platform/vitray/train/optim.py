"""AdamW, which parameters decay, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from vitray.experiment import OptimConfig
from vitray.models import VisionTransformer


def make_optimizer(model: VisionTransformer, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); no decay on norms, biases, tokens and positions, as timm and big_vision do."""
    exempt = model.no_weight_decay()
    decay: list[nn.Parameter] = []
    still: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (still if parameter.ndim <= 1 or name in exempt else decay).append(parameter)
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": still, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def lr_at(step: int, *, total_steps: int, steps_per_epoch: int, config: OptimConfig) -> float:
    """Learning rate of a step: linear warm-up, then a cosine to ``min_lr_ratio * lr`` at the last step.

    A function, so that nothing of a schedule needs to be stored.
    """
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps // 2)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    low = config.lr * config.min_lr_ratio
    return low + (config.lr - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
