"""The whole model: its symmetries, its gradients, its randomness. Against timm and torchvision: test_parity.py."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from small_models import ENCODINGS, images, small_config, small_vit

from vitray.errors import ConfigError, DataError
from vitray.models import VisionTransformer
from vitray.models.drop_path import DropPath
from vitray.models.patch_embed import patches

ATTENTIONS, POOLS = ("full", "axial"), ("cls", "mean")


@pytest.mark.parametrize(("kind", "attention", "pool"), list(product(ENCODINGS, ATTENTIONS, POOLS)))
def test_every_combination_runs_and_its_gradients_reach_every_parameter(kind: str, attention: str, pool: str) -> None:
    model = VisionTransformer(
        small_config(
            pos_encoding=kind, attention=attention, pool=pool, registers=1, layer_scale=0.1, qk_norm=True,
            dropout=0.1, attn_dropout=0.1,
        )
    )  # fmt: skip
    x = images(model, 4)
    logits = model(x)
    assert logits.shape == (4, 5)
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def shuffled(model: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    """The same patches in another order."""
    (h, w), p = model.config.grid, model.config.patch_size
    cut = patches(x, p)[:, torch.randperm(h * w)]
    return cut.reshape(len(x), h, w, -1, p, p).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ENCODINGS)
def test_order_of_patches_matters_exactly_with_positions(kind: str, pool: str) -> None:
    model = small_vit(pos_encoding=kind, pool=pool).eval()
    x = images(model)
    with torch.no_grad():
        moved = (model(x) - model(shuffled(model, x))).abs().max().item()
    assert moved < 1e-5 if kind == "none" else moved > 1e-4


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_axial_attention_without_positions_knows_rows_and_columns_but_not_their_order(pool: str) -> None:
    model = small_vit(pos_encoding="none", attention="axial", pool=pool).eval()
    x = images(model)
    cut = x.reshape(2, 3, 3, 2, 4, 2)  # channels, rows of patches and pixels, columns of patches and pixels
    rows_and_columns = cut[:, :, [2, 0, 1]][:, :, :, :, [3, 1, 0, 2]].reshape(x.shape)
    torch.testing.assert_close(model(rows_and_columns), model(x), rtol=0, atol=1e-5)
    assert (model(shuffled(model, x)) - model(x)).abs().max() > 1e-4


def test_features_are_all_tokens_after_the_norm_and_pools_read_them() -> None:
    for pool in POOLS:
        model = small_vit(pool=pool, registers=2).eval()
        x = images(model)
        tokens = model.forward_features(x)
        assert tokens.shape == (2, 3 + 12, 16)
        pooled = tokens[:, 0] if pool == "cls" else tokens[:, 3:].mean(1)
        torch.testing.assert_close(model(x), pooled @ model.head.weight.T + model.head.bias)


def test_the_global_generator_decides_every_draw() -> None:
    """Dropout and stochastic depth keep no state: the same seed before a step gives the same step."""
    model = small_vit(dropout=0.3, attn_dropout=0.3, drop_path=0.5)
    x = images(model, 8)
    torch.manual_seed(7)
    first, second = model(x), model(x)
    torch.manual_seed(7)
    assert torch.equal(model(x), first)
    assert not torch.equal(first, second)


def test_evaluation_is_deterministic_and_draws_nothing() -> None:
    model = small_vit(dropout=0.3, attn_dropout=0.3, drop_path=0.5).eval()
    x, state = images(model), torch.get_rng_state()
    assert torch.equal(model(x), model(x))
    assert torch.equal(torch.get_rng_state(), state)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 2, 3))
    per_sample = out.flatten(1)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert per_sample.eq(per_sample[:, :1]).all()
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    rates = [block.drop_path1.p for block in small_vit(depth=5, drop_path=0.2).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_initialisation_follows_the_seed() -> None:
    for kind in ENCODINGS:
        torch.manual_seed(3)
        model = small_vit(pos_encoding=kind)
        torch.manual_seed(3)
        again = small_vit(pos_encoding=kind)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("kind", ENCODINGS)
def test_content_and_place_start_with_equal_weight(kind: str, patch: int) -> None:
    config = small_config(image_size=8, patch_size=patch, in_chans=1, embed_dim=64, pos_encoding=kind)
    model = VisionTransformer(config)
    content = model.patch_embed(torch.randn(256, 1, 8, 8)) - model.patch_embed.proj.bias
    table = model.position.table(config.grid, model.pos_embed, torch.device("cpu"))
    if table is None:
        assert content.std().item() == pytest.approx(1, abs=0.15)
    else:
        places = table.reshape(-1, 64)[1:] + model.patch_embed.proj.bias
        assert places.mean(0).abs().max() < 1e-5
        assert content.std().item() == pytest.approx(places.std().item(), rel=0.15)


def test_weight_decay_spares_positions_and_tokens() -> None:
    assert small_vit(registers=1).no_weight_decay() == {"cls_token", "reg_token", "pos_embed"}
    model = small_vit(pos_encoding="relative")
    named = dict(model.named_parameters())
    assert model.no_weight_decay() <= named.keys()
    assert "position.offset" in model.no_weight_decay()


@pytest.mark.parametrize("shape", [(3, 6, 8), (2, 1, 6, 8), (2, 3, 7, 8), (2, 3, 6, 9)])
def test_images_of_a_wrong_shape_are_refused_with_the_right_one(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"\(batch, 3, height, width\)"):
        small_vit()(torch.randn(shape))


@pytest.mark.parametrize("missing", ["image_size", "in_chans", "num_classes"])
def test_an_unresolved_config_is_refused(missing: str) -> None:
    with pytest.raises(ConfigError, match=f"model.{missing}"):
        VisionTransformer(small_config(**{missing: None}))


def test_bfloat16_autocast_stays_near_float32() -> None:
    for kind, attention in product(ENCODINGS, ATTENTIONS):
        model = small_vit(pos_encoding=kind, attention=attention, qk_norm=True).eval()
        x = images(model)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            low = model(x)
        torch.testing.assert_close(low.float(), model(x), rtol=0.1, atol=0.3)
