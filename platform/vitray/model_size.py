"""How large a model is, by formula: parameters, floating-point operations, and the least memory that training takes.

Pure arithmetic, so that a sweep of thousands of architectures is checked before torch is imported.
:mod:`vitray.models.cost` measures the memory of one model exactly.

Shapes: T tokens, N patches, E prefix tokens, h x w patches, D width, M hidden width of the MLP, A heads, L blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitray.model_config import ModelConfig

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one image, a multiply-add counted as two; matrix products alone, as is usual.

    ``training`` is forward and backward without recomputation, the number that model FLOPs utilisation is taken of.
    ``recomputed`` is what fused attention adds to it: its backward computes the logits again instead of keeping them.
    """

    forward: int
    training: int
    recomputed: int


def hidden_width(config: ModelConfig) -> int:
    """M, the width between the two layers of an MLP."""
    return int(config.embed_dim * config.mlp_ratio)


def tokens(config: ModelConfig) -> int:
    """T: the class token, registers and patches."""
    return 1 + config.registers + config.grid[0] * config.grid[1]


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Trained numbers of each part of a resolved model."""
    assert config.in_chans is not None
    assert config.num_classes is not None
    d, m, e = config.embed_dim, hidden_width(config), 1 + config.registers
    scale = d if config.layer_scale else 0
    qk_norm = 4 * (d // config.num_heads) if config.qk_norm else 0
    return {
        "patch embedding": d * config.in_chans * config.patch_size**2 + d,
        "class token, registers": e * d,
        "positions": _positions(config),
        "attention": config.depth * (4 * d * d + 4 * d + 2 * d + qk_norm + scale),
        "MLP": config.depth * (2 * d * m + m + d + 2 * d + scale),
        "norm, head": 2 * d + d * config.num_classes + config.num_classes,
    }


def count_parameters(config: ModelConfig) -> int:
    return sum(parameters_by_part(config).values())


def flops_by_part(config: ModelConfig) -> dict[str, int]:
    """Operations of one image's forward pass: two for each weight a token meets, and attention's two products."""
    assert config.in_chans is not None
    assert config.num_classes is not None
    (h, w), d, e = config.grid, config.embed_dim, 1 + config.registers
    n, t = h * w, tokens(config)
    # Pairs of a query and a key: q.k and its weight times v take 2 D operations each.
    pairs = t * t if config.attention == "full" else e * t + n * (e + h) + n * (e + w)
    return {
        "patch embedding": 2 * n * d * config.in_chans * config.patch_size**2,
        "class token, registers": 0,
        "positions": 0,
        "attention": config.depth * (2 * t * 4 * d * d + 4 * pairs * d),
        "MLP": config.depth * 2 * t * 2 * d * hidden_width(config),
        "norm, head": 2 * d * config.num_classes,
    }


def flops(config: ModelConfig) -> Flops:
    """Operations of one image, forward and of a whole training step."""
    parts = flops_by_part(config)
    forward = sum(parts.values())
    products = parts["attention"] - config.depth * 8 * tokens(config) * config.embed_dim**2
    unfused = config.pos_encoding == "relative"  # a bias that needs a gradient keeps the logits on CPU
    # Backward takes every product twice, once for each factor; but nobody wants the gradient of the pixels.
    return Flops(forward, 3 * forward - parts["patch embedding"], 0 if unfused else products // 2)


def least_memory(config: ModelConfig, images: int, precision: Precision) -> int:
    """Bytes below which a training step with AdamW cannot stay, whatever the kernels: what refuses a model for sure.

    Four bytes each for a weight, its gradient and AdamW's two moments; and what every block keeps of every token for
    the backward pass: the inputs of its norms and matrix products, queries, keys, values, and both sides of the GELU.
    """
    d, m, parameters = config.embed_dim, hidden_width(config), 4 * count_parameters(config)
    low = 2 if precision == "bfloat16" else 4
    # Beside these: rotated or normalised queries and keys, branches before their scale, the first of two axes.
    further = (
        2 * d * (config.pos_encoding == "rope_2d") + 2 * d * config.qk_norm + 5 * d * (config.attention == "axial")
    )
    token = 2 * d * 4 + (6 * d + 2 * m + further + 2 * d * bool(config.layer_scale)) * low  # residuals stay float32
    cast = config.depth * (4 * d * d + 2 * d * m) * 2 if precision == "bfloat16" else 0
    kept = images * config.depth * tokens(config) * token + cast
    # While the activations are alive the gradients are not yet, and the other way round.
    return 2 * parameters + max(parameters + kept, 2 * parameters)


def _positions(config: ModelConfig) -> int:
    (h, w), e = config.grid, 1 + config.registers
    if config.pos_encoding == "learned":
        return (1 + h * w) * config.embed_dim
    if config.pos_encoding == "relative":
        offsets = (2 * h - 1) * (2 * w - 1) if config.attention == "full" else (2 * h - 1) + (2 * w - 1)
        return config.depth * config.num_heads * (offsets + 2 * e + e * e)
    return 0
