"""softmax(q k^T / sqrt(K) + bias) v: the formula, and the one place where a kernel is chosen for it.

Shapes: (..., Tq, K) queries, (..., Tk, K) keys and values, K the head's width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

# Beyond so many keys the logits that two products keep for the backward pass outweigh all other activations, and the
# lead of the products shrinks (2x at 577 and 1,025 tokens, 1.9x with wide and 0.6x with narrow heads at 2,049).
MOST_KEYS = 1100
_assumed_device: ContextVar[str | None] = ContextVar("assumed_device", default=None)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1).

    Args:
        q, k, v: (..., Tq, K), (..., Tk, K), (..., Tk, K), of one dtype.
        bias: added to the logits; broadcasts to (..., Tq, Tk).
        dropout: probability that a weight is zeroed, drawn from torch's global generator.

    Returns:
        (..., Tq, K)
    """
    if bias is not None:  # the fused kernels want it with as many dimensions as the queries
        bias = bias.to(q.dtype)[(None,) * (q.ndim - bias.ndim)]
        bias = bias if torch.is_grad_enabled() else bias.detach()  # the kernel asks the tensor, not the mode
    if fuses(q, k, bias, dropout):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return products(q, k, v, bias, dropout)


def products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """The formula as two batched products, which keep the weights (..., Tq, Tk) for the backward pass."""
    weights = attention_weights(q, k, bias)
    return (F.dropout(weights, dropout) if dropout else weights) @ v


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(K) + bias), (..., Tq, Tk); rows sum to 1."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # scaled while it is small: T K values, not T T
    return (logits if bias is None else logits + bias).softmax(-1)


def fuses(q: Tensor, k: Tensor, bias: Tensor | None, dropout: float) -> bool:
    """Whether PyTorch's fused kernel is the better path: by device, dtype and length.

    On CUDA always: flash attention without a bias, the memory-efficient kernel with one, whose gradient it knows. On
    CPU the fused kernel knows neither dropout nor the gradient of a bias. There its bfloat16 version loses to two
    products, whose matrix kernels use the CPU's bfloat16 units where it does not (training 2.0 to 5.9 times slower up
    to 1,025 tokens, inference up to 1.9 times); in float32 it is the faster one, and at any length it saves memory.
    """
    if (_assumed_device.get() or q.device.type) != "cpu":
        return True
    if dropout or (bias is not None and bias.requires_grad):
        return False
    return q.dtype == torch.float32 or k.shape[-2] > MOST_KEYS


@contextmanager
def kernels_of(device: str) -> Iterator[None]:
    """Choose as on another device; for adding up what a step there would keep, without having it."""
    token = _assumed_device.set(device)
    try:
        yield
    finally:
        _assumed_device.reset(token)
