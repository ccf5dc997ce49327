"""What of others' weights can be made to fit a model: head, patch kernel and positions; each change in a line.

Only what has the right number of dimensions is touched. The rest is left as it is, for a comparison with the model's
own shapes to name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vitray.errors import CheckpointError, DataError
from vitray.model_config import ModelConfig
from vitray.models.resize import Grid, resize_kernel, resize_offsets, resize_table
from vitray.models.vit import VisionTransformer

_GRID = (
    "begin with a config whose image and patch size are those it was trained with "
    "(in Python, load_pretrained takes source_grid=(down, across))"
)


def adapt(
    weights: Mapping[str, Tensor], model: VisionTransformer, source_grid: Grid | None, where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights with head, positions and patch kernels made to fit, and a line on each change.

    Raises:
        DataError: the positions are no grid that is known, or not that of ``source_grid``.
        CheckpointError: the weights are for images of other channels.
    """
    out, changes = dict(weights), []
    own = model.state_dict()
    head, ours = out.get("head.weight"), own["head.weight"]
    if head is None or (head.ndim == 2 and head.shape[0] != ours.shape[0]):
        had = "no head" if head is None else f"{head.shape[0]} classes"
        changes.append(f"head: fresh for {ours.shape[0]} classes (the weights had {had})")
        out |= {"head.weight": ours, "head.bias": own["head.bias"]}
    kernel = out.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 4 and kernel.numel():
        out["patch_embed.proj.weight"] = _kernel(kernel, model.config, where, changes)
    table, wanted = out.get("pos_embed"), own.get("pos_embed")
    if table is not None and wanted is not None and _is_table(table, wanted):
        out["pos_embed"] = _table(table, model.config.grid, source_grid, where, changes)
    for name in ("position.offset", "position.height", "position.width"):
        offsets, wanted = out.get(name), own.get(name)
        if offsets is None or wanted is None or offsets.ndim != wanted.ndim or not offsets.numel():
            continue
        if offsets.shape[2:] != wanted.shape[2:]:
            changes.append(f"relative positions: {name} interpolated to the model's grid")
            out[name] = resize_offsets(offsets, wanted.shape[2:])
    return out, changes


def _kernel(kernel: Tensor, config: ModelConfig, where: str, changes: list[str]) -> Tensor:
    if kernel.shape[1] != config.in_chans:
        had, wants = _channels(kernel.shape[1]), _channels(config.in_chans)
        raise CheckpointError(
            f"the weights are for images of {had}, the model for {wants} (model.in_chans)",
            where=where,
            remedy=f"give weights that were trained on {wants}, or images that have {had}",
        )
    if not kernel.shape[2] == kernel.shape[3] != config.patch_size:
        return kernel
    changes.append(f"patch kernel: resized from {kernel.shape[2]} to {config.patch_size} pixels")
    return resize_kernel(kernel, config.patch_size)


def _is_table(table: Tensor, wanted: Tensor) -> bool:
    """Whether it is (1, rows, D) with rows to speak of: a single one is a grid for a model of one patch only."""
    if table.ndim != 3 or (table.shape[0], table.shape[2]) != (1, wanted.shape[2]):
        return False
    return table.shape[1] >= min(2, wanted.shape[1] - 1)


def _table(table: Tensor, grid: Grid, source_grid: Grid | None, where: str, changes: list[str]) -> Tensor:
    rows = table.shape[1]
    old = source_grid or _source_grid(rows, grid, where)
    patches = old[0] * old[1]
    if rows - patches not in (0, 1):
        raise DataError(f"its {rows} positions are no grid of {old[0]} x {old[1]} patches", where=where, remedy=_GRID)
    if rows == patches:  # timm's no_embed_class: a class token without a position is one at zero
        changes.append("positions: the class token had none, so it gets zeros")
        table = torch.cat((table.new_zeros(1, 1, table.shape[2]), table), dim=1)
    if old != grid:
        changes.append(f"positions: interpolated from {old[0]} x {old[1]} to {grid[0]} x {grid[1]} patches")
    return resize_table(table, old, grid)


def _source_grid(rows: int, own: Grid, where: str) -> Grid:
    """The grid that a table of so many rows, with or without one for the class token, was made for.

    With a row for the class token, as most have, before without; the model's own grid before a square. Since
    1 + n (n + 2) = (n + 1)^2, a grid of n x (n + 2) patches has as many rows as a square one without a class token.
    """
    for patches in (rows - 1, rows):
        side = math.isqrt(patches)
        for grid in (own, (side, side)):
            if grid[0] * grid[1] == patches > 0:
                return grid
    what = f"its {rows} positions are neither of {own[0]} x {own[1]} patches, as the model's, nor of a square grid"
    raise DataError(what, where=where, remedy=_GRID)


def _channels(count: int | None) -> str:
    return f"{count} channel{'' if count == 1 else 's'}"
