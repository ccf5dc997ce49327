"""Attention weights as they are drawn: they are the ones the model uses, and the measures mean what they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import ENCODINGS, images, small_vit
from torch import Tensor, nn

from vitray.errors import DataError
from vitray.models import attention_maps as maps
from vitray.models.attention import Attention


def seen_by_blocks(model: nn.Module, x: Tensor) -> list[tuple[Attention, tuple[Tensor, ...], Tensor]]:
    """Each attention module with what went in and what came out."""
    found: list[tuple[Attention, tuple[Tensor, ...], Tensor]] = []
    handles = [
        m.register_forward_hook(lambda m, given, out: found.append((m, given, out)))
        for m in model.modules()
        if isinstance(m, Attention)
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("attention", ["full", "axial"])
@pytest.mark.parametrize("kind", ENCODINGS)
@torch.no_grad()
def test_weights_times_values_is_what_each_block_gathers(kind: str, attention: str, registers: int) -> None:
    model = small_vit(pos_encoding=kind, attention=attention, registers=registers, qk_norm=registers == 2).eval()
    x = images(model)
    weights = maps.weights_by_block(model, x)
    blocks = seen_by_blocks(model, x)
    assert len(weights) == len(blocks) == 2
    for matrix, (module, (tokens, layout), out) in zip(weights, blocks, strict=True):
        tokens_in_all = 1 + registers + 12
        assert matrix.shape == (2, 2, tokens_in_all, tokens_in_all)
        assert matrix.ge(0).all()
        torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 2, tokens_in_all), rtol=0, atol=1e-5)
        values = module.project(tokens, layout)[2]  # type: ignore[arg-type]
        gathered = module.proj((matrix @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(gathered, out, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ["full", "axial"])
@pytest.mark.parametrize("pool", ["cls", "mean"])
@torch.no_grad()
def test_the_query_is_what_the_answer_is_read_from(pool: str, attention: str) -> None:
    model = small_vit(pool=pool, attention=attention, registers=1).eval()
    x = images(model, 3)
    found, weights = maps.attention_maps(model, x), maps.weights_by_block(model, x)
    assert found.query.shape == (3, 2, 2, 3, 4)
    assert found.distance.shape == (3, 2, 2)
    torch.testing.assert_close(found.logits, model(x))
    rows = [w[:, :, 0] if pool == "cls" else w[:, :, 2:].mean(2) for w in weights]
    for block, row in enumerate(rows):
        torch.testing.assert_close(found.query[:, block].flatten(2), row[..., 2:])
    eye = torch.eye(14)
    first, second = (0.5 * w.mean(1) + 0.5 * eye for w in weights)
    product = second @ first
    rolled = product[:, 0, 2:] if pool == "cls" else product[:, 2:, 2:].mean(1)
    torch.testing.assert_close(found.rollout.flatten(1), rolled)


def test_looking_changes_nothing() -> None:
    model = small_vit(dropout=0.5, attn_dropout=0.5).train()
    x = images(model)
    a, b = maps.attention_maps(model, x), maps.attention_maps(model, x)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))  # no dropout while looking
    assert model.training
    assert model.blocks[0].get_submodule("attn").training
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(DataError, match="do not fit"):
        maps.attention_maps(model, x[:, :, :5])
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_another_image_size_gives_maps_of_its_grid() -> None:
    for kind in ENCODINGS:
        model = small_vit(pos_encoding=kind)
        found = maps.attention_maps(model, torch.randn(1, 3, 10, 6))
        assert found.query.shape[-2:] == found.rollout.shape[-2:] == (5, 3)


def test_too_many_tokens_are_refused_with_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MOST_BYTES", 2 * 2 * 13 * 13 * 4 - 1)
    with pytest.raises(DataError, match="2 images with 13 tokens"):
        maps.attention_maps(small_vit(), images(small_vit()))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(1, 32))
def test_distance_of_even_attention_is_the_mean_over_pairs_and_of_none_is_zero(h: int, w: int, e: int, p: int) -> None:
    n = h * w
    places = [(y * p, x * p) for y in range(h) for x in range(w)]
    pairs = [((a - c) ** 2 + (b - d) ** 2) ** 0.5 for a, b in places for c, d in places]
    even = torch.full((1, 2, e + n, e + n), 1 / (e + n))
    assert maps.mean_distance(even, (h, w), e, p)[0, 1].item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-3)
    itself = torch.eye(e + n).expand(1, 2, -1, -1)
    assert maps.mean_distance(itself, (h, w), e, p).tolist() == [[0.0, 0.0]]
    assert maps.distances((h, w), p).max().item() == pytest.approx(p * ((h - 1) ** 2 + (w - 1) ** 2) ** 0.5, rel=1e-5)


def test_distance_ignores_what_goes_to_the_class_token() -> None:
    right = torch.zeros(1, 1, 4, 4)
    right[..., 0] = 0.9
    for query in range(1, 4):
        right[..., query, 1 + query % 3] = 0.1  # a row of three patches: 1 to 2, 2 to 3, 3 to 1
    assert maps.mean_distance(right, (1, 3), 1, 8).item() == pytest.approx((8 + 8 + 16) / 3)


def test_rollout_of_blind_blocks_stays_where_it_is_and_of_even_ones_spreads() -> None:
    eye, even = torch.eye(4).expand(1, 2, -1, -1), torch.full((1, 2, 4, 4), 0.25)
    torch.testing.assert_close(maps.rollout_step(maps.rollout_step(None, eye), eye), torch.eye(4)[None])
    rolled = None
    for _ in range(30):
        rolled = maps.rollout_step(rolled, even)
    assert rolled is not None
    torch.testing.assert_close(rolled, torch.full((1, 4, 4), 0.25), rtol=0, atol=1e-6)
