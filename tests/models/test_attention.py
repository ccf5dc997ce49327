"""Attention against plain loops over softmax(q k^T / sqrt(K) + bias) v."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import ENCODINGS, images, small_vit
from torch import Tensor

from vitray.models.attend import attend
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


def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The formula in float64, with a gradient."""
    q, k, v = q.double(), k.double(), v.double()
    logits = torch.einsum("...qk,...mk->...qm", q, k) / math.sqrt(q.shape[-1])
    weights = (logits if bias is None else logits + bias.double()).exp()
    return torch.einsum("...qm,...mk->...qk", weights / weights.sum(-1, keepdim=True), v)


def inputs(queries: int, keys: int, width: int, biased: bool, contiguous: bool) -> list[Tensor]:
    """q, k, v (2, 3, T, K), and a bias (3, Tq, Tk) if asked; or views into one tensor (2, T, 3, K), as heads are."""
    parts = [torch.randn(2, t, 3, width) for t in (queries, keys, keys)]
    if not contiguous:
        joint = torch.randn(2, max(queries, keys), 3 * 3 * width).unflatten(2, (3, 3, width))
        parts = [joint[:, :t, i] for i, t in enumerate((queries, keys, keys))]
    tensors = [part.transpose(1, 2) for part in parts]
    if contiguous:
        tensors = [t.contiguous() for t in tensors]
    return [*tensors, torch.randn(3, queries, keys)] if biased else tensors


def check_against_plain(found: list[Tensor], weight: Tensor, tolerance: float, gradients: float) -> None:
    """Values, and gradients of queries, keys, values and bias, of a random weighted sum."""
    mine = [t.detach().requires_grad_() for t in found]
    theirs = [t.detach().double().requires_grad_() for t in found]
    q, k, v = mine[:3]
    got = attend(q, k, v, mine[3] if len(mine) == 4 else None, 0.0)
    q, k, v = theirs[:3]
    wanted = plain(q, k, v, theirs[3] if len(theirs) == 4 else None)
    assert got.dtype == found[0].dtype
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=tolerance)
    (got * weight.to(got.dtype)).sum().backward()
    (wanted * weight.to(got.dtype).double()).sum().backward()
    for name, a, b in zip(("queries", "keys", "values", "bias"), mine, theirs, strict=False):
        assert a.grad is not None
        assert b.grad is not None
        scale = b.grad.abs().max().item() + 1  # at a single key, queries and bias have a gradient of zero
        assert (a.grad.double() - b.grad).abs().max().item() < gradients * scale, name


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (2, 7), (65, 65), (197, 197)])
@pytest.mark.parametrize(("biased", "contiguous"), list(product([False, True], repeat=2)))
def test_values_and_gradients_are_the_plain_formulas(queries: int, keys: int, biased: bool, contiguous: bool) -> None:
    found = inputs(queries, keys, 16, biased, contiguous)
    assert found[0].is_contiguous() >= contiguous
    check_against_plain(found, torch.randn(2, 3, queries, 16), 1e-5, 1e-5)
    with torch.no_grad():  # evaluation may take another kernel
        got = attend(*found[:3], found[3] if biased else None, 0.0)
    assert (got.double() - plain(*found[:3], found[3] if biased else None)).abs().max() < 1e-5


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (2, 7), (197, 197)])
@pytest.mark.parametrize("biased", [False, True])
def test_bfloat16_is_the_formula_up_to_its_precision(queries: int, keys: int, biased: bool) -> None:
    """8 bits of mantissa: a value of size 3 is off by 0.01, and a gradient sums many."""
    found = [t.bfloat16() for t in inputs(queries, keys, 16, biased, contiguous=False)]
    check_against_plain(found, torch.randn(2, 3, queries, 16), 0.04, 0.03)


@settings(max_examples=15)
@given(
    batch=st.integers(1, 3), heads=st.integers(1, 4), queries=st.integers(1, 9), keys=st.integers(1, 9),
    width=st.integers(1, 9), biased=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape_is_the_formula(
    batch: int, heads: int, queries: int, keys: int, width: int, biased: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    q, k, v = (torch.randn(batch, heads, t, width) for t in (queries, keys, keys))
    bias = torch.randn(heads, queries, keys) if biased else None
    torch.testing.assert_close(attend(q, k, v, bias, 0.0).double(), plain(q, k, v, bias), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "relative", "rope_2d"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_models_attention_is_the_formula_with_what_its_encoding_adds(kind: str, qk_norm: bool) -> None:
    """The whole module in training mode: projection, norm of q and k, rotation, bias, and back."""
    model = small_vit(pos_encoding=kind, qk_norm=qk_norm, registers=1).train()
    module, x = model.blocks[0].attn, torch.randn(2, 14, 16)
    layout = model.layout((3, 4), 0, model.position.rotation((3, 4), torch.device("cpu")))
    answers = []
    for sample in x:
        q, k, v = projected(module, sample)
        if qk_norm:
            q, k = module.q_norm(q), module.k_norm(k)
        if layout.rotation is not None:
            angle = torch.atan2(layout.rotation.sin, layout.rotation.cos).double()
            turn = torch.polar(torch.ones_like(angle), angle)
            q, k = (torch.complex(t[..., :4].double(), t[..., 4:].double()) * turn for t in (q, k))
            q, k = (torch.cat((t.real, t.imag), dim=-1) for t in (q, k))
        mixed = plain(q, k, v, layout.full_bias).transpose(0, 1).reshape(14, 16)
        answers.append(mixed @ module.proj.weight.double().T + module.proj.bias.double())
    torch.testing.assert_close(module(x, layout).double(), torch.stack(answers), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [Attention, AxialAttention])
def test_many_heads_are_single_heads_side_by_side(kind: type[Attention]) -> None:
    """Each is single-head attention of its slice of the width; the projection adds them up."""
    module, x, layout = kind(24, 3), torch.randn(2, 13, 24), Layout((3, 4), 1)
    q, k, v = module.qkv(x)[:, None].chunk(3, dim=-1)
    total = module.proj.bias.expand(2, 13, 24)
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        single = kind(8, 1).mix(q[..., part], k[..., part], v[..., part], layout)[:, 0]
        total = total + single @ module.proj.weight[:, part].T
    torch.testing.assert_close(module(x, layout), total, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize(("kind", "attention"), list(product(ENCODINGS, ["full", "axial"])))
@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other(kind: str, attention: str) -> None:
    model = small_vit(pos_encoding=kind, attention=attention, registers=1).eval()
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
