"""AdamW, which parameters decay, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from vitray.experiment import OptimConfig
from vitray.models import VisionTransformer
from vitray.train.layers import layer_of


def make_optimizer(model: VisionTransformer, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); no decay on norms, biases, tokens and positions, as timm and big_vision do.

    A group's ``lr_scale`` multiplies the rate of every step: ``layer_decay ** (depth + 1 - layer)``, where layer 0
    makes the tokens, block i is layer i + 1, and the last norm and the head are layer depth + 1 (Clark et al. 2020,
    ELECTRA; for images Bao et al. 2022, BEiT). What is frozen is left out.
    """
    exempt, depth = model.no_weight_decay(), model.config.depth
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    tables: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_of(name, depth) if config.layer_decay != 1 else depth + 1
        if layer is None:
            tables.append(parameter)
        decays = parameter.ndim > 1 and name not in exempt
        groups.setdefault((depth + 1 if layer is None else layer, decays), []).append(parameter)
    scales = [config.layer_decay ** (depth + 1 - layer) for layer in range(depth + 2)]
    optimizer = torch.optim.AdamW(
        [
            {
                "params": groups[layer, decays],
                "weight_decay": config.weight_decay if decays else 0.0,
                "lr": config.lr * scales[layer],
                "lr_scale": scales[layer],
            }
            for layer, decays in sorted(groups, key=lambda group: (group[0], not group[1]))
        ],
        lr=config.lr,
        betas=config.betas,
        fused=True,
    )
    for table in tables:
        _scale_rows(optimizer, table, scales[1:-1])
    return optimizer


def _scale_rows(optimizer: torch.optim.Optimizer, table: nn.Parameter, scales: Sequence[float]) -> None:
    """Give each row of a table a rate of its own: AdamW's step is proportional to the rate, so a part of it is taken.

    The tables of relative positions hold a row for every block, and a group has but one rate.
    """
    parts = torch.tensor(scales, device=table.device).reshape(-1, *[1] * (table.ndim - 1))
    before = torch.empty_like(table, requires_grad=False)

    @torch.no_grad()
    def remember(*_: object) -> None:
        before.copy_(table)

    @torch.no_grad()
    def hold_back(*_: object) -> None:
        table.copy_(torch.lerp(before, table, parts))

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(hold_back)


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
