"""Attention against plain loops over softmax(q k^T / sqrt(K) + bias) v."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import images, small_vit
from torch import Tensor

from vitray.models.attention import Attention, AxialAttention, Layout


def softmax_row(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """One query's answer, by the formula."""
    logits = [sum((q[i] * k[i]).item() for i in range(len(q))) / math.sqrt(len(q)) for k in keys]
    weights = [math.exp(logit + b.item()) for logit, b in zip(logits, bias, strict=True)]
    return sum(w / sum(weights) * v for w, v in zip(weights, values, strict=True))  # type: ignore[return-value]


def projected(module: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of shape (heads, T, K), each head's slice cut out by hand."""
    d, heads = x.shape[1], module.num_heads
    parts = []
    for block in range(3):
        weight, bias = module.qkv.weight[block * d : (block + 1) * d], module.qkv.bias[block * d : (block + 1) * d]
        parts.append(
            torch.stack([(x @ weight.T + bias)[:, a * d // heads : (a + 1) * d // heads] for a in range(heads)])
        )
    return parts[0], parts[1], parts[2]


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_full_attention_is_the_plain_loop(heads: int, biased: bool) -> None:
    module, x = Attention(16, heads), torch.randn(1, 7, 16)
    bias = torch.randn(heads, 7, 7) if biased else torch.zeros(heads, 7, 7)
    got = module(x, Layout((2, 3), 1, full_bias=bias if biased else None))
    q, k, v = projected(module, x[0])
    mixed = torch.stack(
        [torch.cat([softmax_row(q[a, n], k[a], v[a], bias[a, n]) for a in range(heads)]) for n in range(7)]
    )
    torch.testing.assert_close(got[0], mixed @ module.proj.weight.T + module.proj.bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("prefix", [1, 3])
@torch.no_grad()
def test_axial_attention_is_columns_then_rows(prefix: int, biased: bool) -> None:
    heads, h, w, e = 2, 3, 4, prefix
    model = small_vit(attention="axial", pos_encoding="relative" if biased else "none", registers=prefix - 1)
    module, layout = model.blocks[0].attn, model.layout((h, w), 0, None)
    assert isinstance(module, AxialAttention)
    x = torch.randn(1, e + h * w, 16)
    q, k, v = projected(module, x[0])
    bias = layout.axial_bias
    zero = torch.zeros(100)
    mixed = torch.zeros(e + h * w, 16)
    for a in range(heads):
        y = v[a].clone()  # the prefix keeps its values
        out = torch.zeros(e + h * w, 8)
        for n in range(e):
            row = bias.prefix[a, n] if bias else zero[: e + h * w]
            out[n] = softmax_row(q[a, n], k[a], v[a], row)
        for r in range(h):
            for c in range(w):
                seen = [*range(e), *(e + i * w + c for i in range(h))]
                row = bias.height[a, r] if bias else zero[: e + h]
                y[e + r * w + c] = softmax_row(q[a, e + r * w + c], k[a][seen], v[a][seen], row)
        for r in range(h):
            for c in range(w):
                seen = [*range(e), *(e + r * w + i for i in range(w))]
                row = bias.width[a, c] if bias else zero[: e + w]
                out[e + r * w + c] = softmax_row(q[a, e + r * w + c], k[a][seen], y[seen], row)
        mixed[:, a * 8 : (a + 1) * 8] = out
    torch.testing.assert_close(module(x, layout)[0], mixed @ module.proj.weight.T + module.proj.bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [Attention, AxialAttention])
def test_every_token_reaches_every_other_in_one_layer(kind: type[Attention]) -> None:
    module, x = kind(16, 2), torch.randn(1, 13, 16)
    jacobian = (
        torch.autograd.functional.jacobian(lambda t: module(t, Layout((3, 4), 1))[0].sum(-1), x)[:, 0].abs().sum(-1)
    )
    assert jacobian.gt(0).all()


def test_axial_equals_full_on_a_single_row_or_column() -> None:
    """Along an axis of length one, a patch without prefix tokens sees only itself, which changes nothing."""
    full, axial = Attention(16, 2), AxialAttention(16, 2)
    axial.load_state_dict(full.state_dict())
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(axial(x, Layout((1, 6), 0)), full(x, Layout((1, 6), 0)), rtol=0, atol=1e-6)
    torch.testing.assert_close(axial(x, Layout((6, 1), 0)), full(x, Layout((6, 1), 0)), rtol=0, atol=1e-6)


def test_qk_norm_makes_logits_blind_to_the_scale_of_queries_and_keys() -> None:
    module, layout, x = Attention(16, 2, qk_norm=True), Layout((2, 3), 1), torch.randn(2, 7, 16)
    with torch.no_grad():
        module.qkv.bias.zero_()
        before = module(x, layout)
        module.qkv.weight[:32] *= 10
        torch.testing.assert_close(module(x, layout), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["full", "axial"])
def test_images_of_a_batch_do_not_see_each_other(attention: str) -> None:
    model = small_vit(attention=attention).eval()
    x = images(model, 4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(x)[order], model(x[order]), rtol=0, atol=1e-5)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["full", "axial"])
def test_attention_dropout_acts_in_training_alone(attention: str) -> None:
    model = small_vit(attention=attention, attn_dropout=0.5)
    x = images(model)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
