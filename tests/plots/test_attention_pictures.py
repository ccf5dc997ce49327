"""Pictures of attention show the numbers they were given, at every size, with titles and axes of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes

from vitray.data.decode import decode
from vitray.plots.attention import attention_figure, distance_figure, overlay, rollout_figure
from vitray.plots.figure import save
from vitray.plots.filters import filters_figure, principal_filters

pytestmark = pytest.mark.slow

NOISE = np.random.default_rng(0)


def picture(height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    return NOISE.integers(0, 256, (height, width, channels), dtype=np.uint8)


def maps(figure_axes: list[Axes]) -> list[Axes]:
    return [axes for axes in figure_axes if axes.images]


def test_attention_is_colour_and_the_image_is_grey() -> None:
    weights = np.array([[0.0, 0.5], [0.0, 0.0]])
    shown = overlay(picture(8, 4, 3), weights, 0.0, 0.5)
    assert shown.shape == (8, 4, 3)
    assert ((shown >= 0) & (shown <= 1)).all()
    saturation = shown.max(axis=2) - shown.min(axis=2)
    assert (saturation[:4, 2:] > 0.8).all()  # the patch that has the weight
    assert saturation[4:].max() == saturation[:4, :2].max() == pytest.approx(0)
    flat = overlay(picture(8, 4, 1), np.full((2, 2), 0.25), 0.25, 0.25)
    assert np.ptp(flat, axis=2).max() == pytest.approx(0)  # nothing stands out


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_map_a_block_and_head_each_with_its_largest_weight(pool: str, tmp_path: Path) -> None:
    weights = NOISE.random((3, 2, 2, 3)) / 10
    figure = attention_figure(picture(8, 12, 3), weights, pool=pool, title="cat $1 and $2.png")
    places = maps(figure.axes[:6])
    assert [axes.get_title() for axes in places] == ["head 1", "head 2", "", "", "", ""]
    assert [axes.get_ylabel() for axes in places][::2] == ["block 1", "block 2", "block 3"]
    assert places[3].get_xlabel() == f"up to {weights[1, 1].max():.1%}"
    peak = np.unravel_index(weights[2, 0].argmax(), (2, 3))
    drawn = np.asarray(places[4].images[0].get_array())[peak[0] * 4, peak[1] * 4]
    assert drawn[0] - drawn[2] > 0.8  # yellow
    assert "cat $1 and $2.png" in figure.get_suptitle()
    assert {"cls": "class token", "mean": "mean over all patches"}[pool] in figure.get_suptitle()
    save(figure, tmp_path / "a.png")


def test_deep_models_show_some_blocks_and_heads_and_say_so(tmp_path: Path) -> None:
    figure = attention_figure(picture(28, 28, 1), NOISE.random((24, 16, 2, 2)), pool="cls")
    assert "8 of 24 blocks, 8 of 16 heads" in figure.get_suptitle()
    places = maps(figure.axes[:64])
    assert len(places) == 64
    assert [places[0].get_ylabel(), places[56].get_ylabel()] == ["block 1", "block 24"]
    assert [places[0].get_title(), places[7].get_title()] == ["head 1", "head 16"]
    assert max(decode(save(figure, tmp_path / "a.png").read_bytes(), 3).shape) < 2000


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (224, 224, 3), (16, 128, 3), (128, 16, 1)])
def test_pictures_of_any_shape_render(height: int, width: int, channels: int, tmp_path: Path) -> None:
    pixels = picture(height, width, channels)
    values = NOISE.random((height // 8, width // 8))
    one = attention_figure(pixels, values[None, None], pool="cls", title="x" * 300)
    two = rollout_figure(pixels, values, pool="mean", label="y" * 300, probability=0.5, title="z" * 300)
    for figure in (one, two):
        assert (decode(save(figure, tmp_path / "p.png").read_bytes(), 3) != 255).any()
        assert max(map(len, figure.get_suptitle().splitlines())) < 100


def test_the_rollout_stands_beside_the_image_and_the_answer() -> None:
    pixels = picture(8, 8, 1)
    rolled = np.array([[0.1, 0.1], [0.1, 0.5]])
    figure = rollout_figure(pixels, rolled, pool="cls", label="seven", probability=0.98765, title="7.png")
    left, right, key = figure.axes
    assert left.get_title() == "predicted: seven\nprobability 0.9877"
    assert np.array_equal(np.asarray(left.images[0].get_array())[..., 0], pixels[..., 0])
    assert "rollout" in right.get_title()
    assert key.get_ylim() == (pytest.approx(0.5), pytest.approx(2.5))  # times an even share of 0.2
    assert key.get_ylabel() == "times an even share"


def test_distances_are_a_dot_a_head_and_a_mean_a_block(tmp_path: Path) -> None:
    values = NOISE.random((5, 4, 3)) * 20
    figure = distance_figure(values, even=9.5)
    axes = figure.axes[0]
    even, mean, dots = axes.lines
    assert set(even.get_ydata()) == {9.5}
    assert np.allclose(mean.get_ydata(), values.mean(axis=(0, 2)))
    assert np.allclose(dots.get_xydata(), [(b + 1, values[:, b, a].mean()) for b in range(4) for a in range(3)])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("block", "mean attention distance (pixels)")
    assert "over 5 images" in axes.get_title()
    assert len(figure.legends[0].get_texts()) == 3
    save(distance_figure(np.zeros((1, 1, 1)), even=0.0), tmp_path / "d.png")  # a single patch


@pytest.mark.parametrize(("channels", "patch"), [(1, 4), (3, 2), (3, 8), (5, 3)])
def test_filters_are_the_principal_components_that_sklearn_finds(channels: int, patch: int) -> None:
    from sklearn.decomposition import PCA

    weight = NOISE.normal(size=(96, channels, patch, patch)).astype(np.float32) + 0.5
    found, share = principal_filters(weight)
    count = min(28, channels * patch**2)
    assert found.shape == (count, channels, patch, patch)
    peer = PCA(count, svd_solver="full").fit(weight.reshape(96, -1))
    assert np.allclose(share, peer.explained_variance_ratio_, atol=1e-5)
    products = np.abs((found.reshape(count, -1) * peer.components_).sum(axis=1))
    assert np.allclose(products, 1, atol=1e-3)
    assert (found.reshape(count, -1).max(axis=1) == np.abs(found.reshape(count, -1)).max(axis=1)).all()


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("patch", [1, 2, 32])
def test_filters_of_any_patch_render(channels: int, patch: int, tmp_path: Path) -> None:
    weight = NOISE.normal(size=(16, channels, patch, patch))
    figure = filters_figure(weight)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == min(28, 16, channels * patch**2)
    assert f"{patch} x {patch} px" in figure.get_suptitle()
    assert all(axes.get_title().endswith("%") for axes in shown)
    if channels == 3:
        assert np.asarray(shown[0].images[0].get_array()).shape == (patch, patch, 3)
    save(figure, tmp_path / "f.png")


def test_filters_that_are_all_alike_are_no_error(tmp_path: Path) -> None:
    figure = filters_figure(np.ones((8, 3, 2, 2), dtype=np.float32))
    assert all(np.isfinite(np.asarray(axes.images[0].get_array())).all() for axes in figure.axes if axes.images)
    assert save(figure, tmp_path / "f.png").stat().st_size > 0
