"""The picture of a model's positions shows the model's own numbers, and touches no global state of matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import ENCODINGS, small_vit

from vitray.models.position import Relative
from vitray.plots.encoding import encoding_figure

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("attention", ["full", "axial"])
@pytest.mark.parametrize("kind", ENCODINGS)
def test_every_encoding_has_a_titled_figure(kind: str, attention: str, tmp_path: Path) -> None:
    from matplotlib import _pylab_helpers

    figure = encoding_figure(small_vit(pos_encoding=kind, attention=attention, registers=1))
    figure.savefig(tmp_path / "encoding.png")
    assert (tmp_path / "encoding.png").stat().st_size > 5000
    assert "3 x 4 patches" in figure.get_suptitle()
    for axes in figure.axes:
        if axes.images and axes.get_label() != "<colorbar>":
            assert axes.get_title()
    assert any(axes.get_xlabel() for axes in figure.axes) == (kind != "none")
    assert any(axes.get_ylabel() for axes in figure.axes) == (kind != "none")
    assert not _pylab_helpers.Gcf.figs


def test_added_tables_are_drawn_without_the_class_token_and_compared_by_cosine() -> None:
    model = small_vit(pos_encoding="learned", registers=1)
    assert model.pos_embed is not None
    table = model.pos_embed[0, 1:].detach().numpy()
    left, right = encoding_figure(model).axes[:2]
    assert np.array_equal(left.images[0].get_array(), table)
    mosaic = np.asarray(right.images[0].get_array().filled(np.nan))
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    for n in range(12):
        y, x = divmod(n, 4)
        tile = mosaic[y * 4 : y * 4 + 3, x * 5 : x * 5 + 4]  # maps of 3 x 4 with a gap of one
        assert np.allclose(tile.flatten(), unit @ unit[n], atol=1e-5)


def test_relative_maps_are_the_heads_tables() -> None:
    model = small_vit(pos_encoding="relative")
    assert isinstance(model.position, Relative)
    shown = {axes.get_title(): axes.images[0] for axes in encoding_figure(model).axes if axes.get_title()}
    for block in range(2):
        for head in range(2):
            drawn = shown[f"Block {block + 1}, head {head + 1}"].get_array()
            assert np.allclose(drawn, model.position.offset[block, head].detach().numpy())
    drawn = shown["Patch to class token"].get_array()
    assert np.allclose(drawn, model.position.patch_to_prefix[..., 0].detach().numpy())


def test_rotary_map_is_the_product_of_rotated_vectors() -> None:
    model = small_vit(pos_encoding="rope_2d")
    shown = np.asarray(encoding_figure(model).axes[1].images[0].get_array())
    rotation = model.position.rotation((3, 4), torch.device("cpu"))
    assert rotation is not None
    rotated = rotation(torch.ones(13, 8))[1:]
    products = (rotated @ rotated.T / 8).reshape(3, 4, 3, 4)
    for dy in range(-2, 3):
        for dx in range(-3, 4):
            y, x = max(0, -dy), max(0, -dx)
            assert shown[dy + 2, dx + 3] == pytest.approx(products[y, x, y + dy, x + dx].item(), abs=1e-5)


def test_no_encoding_shows_no_picture() -> None:
    figure = encoding_figure(small_vit(pos_encoding="none"))
    assert not any(axes.images for axes in figure.axes)
    assert "no positional encoding" in figure.axes[0].texts[0].get_text()
