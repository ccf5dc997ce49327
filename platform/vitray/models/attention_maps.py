"""What a trained model attends to: weights by block and head, rollout, mean distance. For pictures, not for speed.

Shapes: B batch, L blocks, A heads, E prefix tokens (class token, registers), h x w patches, N = h*w, T = E + N, K head
width, C classes. ``weights[b, a, n, m]`` is how much of what token n gathers comes from token m; each row sums to one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitray.errors import DataError
from vitray.models.attend import attention_weights
from vitray.models.attention import Attention, AxialAttention, Layout
from vitray.models.position import coordinates
from vitray.models.resize import Grid
from vitray.models.vit import VisionTransformer

# Of the weights of one block. Training never holds them, so a long sequence can be too long here.
MOST_BYTES = 4 * 2**30


class AttentionMaps(NamedTuple):
    """What a model attended to in a batch of images, on CPU in float32.

    The query is what the answer is read from: the class token, or with mean pooling the mean of all patches.

    Args:
        query: (B, L, A, h, w), the query's weight on each patch; what is missing to a sum of one went to prefix tokens.
        rollout: (B, h, w), the query's attention rolled out over all blocks, see :func:`rollout_step`.
        distance: (B, L, A), mean attention distance in pixels, see :func:`mean_distance`.
        logits: (B, C), the model's answer.
    """

    query: Tensor
    rollout: Tensor
    distance: Tensor
    logits: Tensor


def attention_maps(model: VisionTransformer, images: Tensor) -> AttentionMaps:
    """Run ``model`` on normalised images (B, C, H, W) and reduce the weights block by block as they come.

    Raises:
        DataError: the images do not fit the model, or have so many tokens that a block's weights exceed MOST_BYTES.
    """
    e, cls = model.num_prefix_tokens, model.config.pool == "cls"
    queries: list[Tensor] = []
    distances: list[Tensor] = []
    rolled: Tensor | None = None
    grid: Grid = (0, 0)

    def see(weights: Tensor, layout: Layout) -> None:
        nonlocal rolled, grid
        grid = layout.grid
        queries.append(weights[:, :, 0, e:] if cls else weights[:, :, e:, e:].mean(2))
        distances.append(mean_distance(weights, grid, e, model.config.patch_size))
        rolled = rollout_step(rolled, weights)

    logits = _observe(model, images, see)
    assert rolled is not None
    rollout = rolled[:, 0, e:] if cls else rolled[:, e:, e:].mean(1)
    return AttentionMaps(
        torch.stack(queries, 1).unflatten(-1, grid).cpu(),
        rollout.unflatten(-1, grid).cpu(),
        torch.stack(distances, 1).cpu(),
        logits.float().cpu(),
    )


def weights_by_block(model: VisionTransformer, images: Tensor) -> list[Tensor]:
    """The weights (B, A, T, T) of every block, first to last, for normalised images (B, C, H, W). Errors as above."""
    kept: list[Tensor] = []
    _observe(model, images, lambda weights, _: kept.append(weights))
    return kept


@torch.no_grad()
def _observe(model: VisionTransformer, images: Tensor, see: Callable[[Tensor, Layout], None]) -> Tensor:
    """The logits in evaluation mode; ``see`` gets each block's weights. The model is left as it was."""

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x, layout = inputs
        assert isinstance(module, Attention)
        copies = 3 if isinstance(module, AxialAttention) else 2  # logits beside weights, and the parts of a product
        needed = copies * 4 * x.shape[0] * module.num_heads * x.shape[1] ** 2
        if needed > MOST_BYTES:
            raise DataError(
                f"the attention weights of {x.shape[0]} images with {x.shape[1]} tokens take {needed / 2**30:.0f} GiB "
                "a block",
                remedy=f"look at fewer images, or a model with fewer tokens: {MOST_BYTES / 2**30:.0f} GiB at most",
            )
        see(block_weights(module, x, layout), layout)

    training = model.training
    handles = [block.get_submodule("attn").register_forward_pre_hook(hook) for block in model.blocks]
    try:
        logits: Tensor = model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return logits


def block_weights(module: Attention, x: Tensor, layout: Layout) -> Tensor:
    """(B, A, T, T) such that weights @ values is what the module gathers, of tokens (B, T, D). No dropout.

    Full attention: softmax(q k^T / sqrt(K) + bias). Axial attention has no such matrix but two sparse ones, in a
    column and in a row; this is their product, which patch reaches which through both steps.
    """
    q, k, _ = (part.float() for part in module.project(x, layout))
    if isinstance(module, AxialAttention):
        return _axial_weights(q, k, layout)
    return attention_weights(q, k, layout.full_bias)


def _axial_weights(q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    e, (h, w), bias = layout.prefix, layout.grid, layout.axial_bias
    prefix = attention_weights(q[:, :, :e], k, bias.prefix if bias else None)  # (B, A, E, T)
    q2, k2 = (x[:, :, e:].unflatten(2, (h, w)) for x in (q, k))  # (B, A, h, w, K)
    kp = k[:, :, None, :e]  # the prefix tokens are keys in every column and row

    def along(q: Tensor, k: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Lines (B, A, lines, n, K): the weights (B, A, lines, n, E) on prefix tokens and (..., n, n) on the line."""
        keys = torch.cat((kp.expand(-1, -1, q.shape[2], -1, -1), k), dim=3)
        found = attention_weights(q, keys, None if bias is None else bias[:, None])
        return found[..., :e], found[..., e:]

    # Letters: r row and c column of the query, i row of the key, j column of the key, e prefix token.
    column_prefix, column = along(q2.transpose(2, 3), k2.transpose(2, 3), bias.height if bias else None)
    row_prefix, row = along(q2, k2, bias.width if bias else None)
    # The row step gathers, from each patch (r, j) of its row, what the column step put there.
    to_prefix = row_prefix + torch.einsum("barcj,bajre->barce", row, column_prefix)
    to_patches = torch.einsum("barcj,bajri->barcij", row, column)
    patches = torch.cat((to_prefix.flatten(2, 3), to_patches.flatten(4, 5).flatten(2, 3)), dim=-1)
    return torch.cat((prefix, patches), dim=2)


def rollout_step(before: Tensor | None, weights: Tensor) -> Tensor:
    """One block of attention rollout (Abnar & Zuidema 2020, section 3): (B, T, T) so far and (B, A, T, T) -> (B, T, T).

    R_l = (A_l / 2 + I / 2) R_(l-1), A_l the mean over heads and the identity the residual connection; R_0 = I.
    """
    mean = weights.mean(1)
    step = 0.5 * mean + 0.5 * torch.eye(mean.shape[-1], device=mean.device)
    return step if before is None else step @ before


def mean_distance(weights: Tensor, grid: Grid, prefix: int, patch_size: int) -> Tensor:
    """Mean attention distance in pixels, (B, A, T, T) -> (B, A) (Dosovitskiy et al. 2021, figures 7 right and 11).

    The distance from a patch to the patches it attends to, averaged by weight, then over all query patches. Prefix
    tokens lie nowhere: they are left out and each row's weights on patches scaled to a sum of one.
    """
    patches = weights[:, :, prefix:, prefix:]
    total = patches.sum(-1).clamp_min(torch.finfo(patches.dtype).tiny)
    far = torch.einsum("banm,nm->ban", patches, distances(grid, patch_size).to(patches))
    return (far / total).mean(-1)


def distances(grid: Grid, patch_size: int) -> Tensor:
    """(N, N) between the centres of all patches, in pixels. Its mean is the distance of a head that attends evenly."""
    places = torch.stack(coordinates(grid), dim=1) * patch_size
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
