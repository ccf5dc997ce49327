"""Each encoding against a loop that writes its formula down, and its behaviour on other grids."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import ENCODINGS, images, small_config, small_vit

from vitray.models.attention import attend
from vitray.models.position import Relative, build_position
from vitray.models.resize import resize_table

CPU = torch.device("cpu")
GRIDS = [(3, 4), (1, 1), (5, 2), (6, 8), (3, 9)]
COMPUTED = [kind for kind in ENCODINGS if kind.startswith("sin") or kind == "rope_2d"]


def place(n: int, grid: tuple[int, int]) -> tuple[float, float]:
    """Where the centre of patch n lies on the grid of 3 x 4 patches that small models are made for."""
    (h, w), (y, x) = grid, divmod(n, grid[1])
    return float(Fraction(2 * y + 1, 2 * h) * 3 - Fraction(1, 2)), float(
        Fraction(2 * x + 1, 2 * w) * 4 - Fraction(1, 2)
    )


@settings(max_examples=15)
@given(h0=st.integers(1, 40), w0=st.integers(1, 40))
def test_places_on_the_models_own_grid_are_whole_numbers(h0: int, w0: int) -> None:
    position = build_position(small_config(image_size=(2 * h0, 2 * w0)))
    y, x = position.places((h0, w0), CPU)
    assert [(a, b) for a in range(h0) for b in range(w0)] == list(zip(y.tolist(), x.tolist(), strict=True))


@settings(max_examples=15)
@given(h0=st.integers(1, 12), w0=st.integers(1, 12), down=st.integers(1, 5), across=st.integers(1, 5))
def test_parts_of_a_patch_lie_around_its_place(h0: int, w0: int, down: int, across: int) -> None:
    position = build_position(small_config(image_size=(2 * h0, 2 * w0)))
    whole = torch.stack(position.places((h0, w0), CPU)).reshape(2, h0, w0)
    parts = torch.stack(position.places((h0 * down, w0 * across), CPU)).reshape(2, h0, down, w0, across)
    torch.testing.assert_close(parts.mean((2, 4)), whole, rtol=0, atol=1e-4)
    assert (parts - whole[:, :, None, :, None]).abs().max() < 0.5


@settings(max_examples=20)
@given(h0=st.integers(1, 9), w0=st.integers(1, 9), h=st.integers(1, 12), w=st.integers(1, 12))
def test_sinusoidal_numbers_stay_in_the_row_where_the_patch_lies(h0: int, w0: int, h: int, w: int) -> None:
    """Read back from the table's first pair, sin n and cos n: the number of each patch, up to whole turns."""
    position = build_position(small_config(image_size=(2 * h0, 2 * w0), pos_encoding="sinusoidal"))
    table = position.table((h, w), None, CPU)
    assert table is not None
    for n in range(h * w):
        y, x = divmod(n, w)
        row, column = (
            math.floor(Fraction(2 * y + 1, 2 * h) * h0),
            float(Fraction(2 * x + 1, 2 * w) * w0 - Fraction(1, 2)),
        )
        assert table[1 + n, :2].tolist() == pytest.approx(
            [math.sin(row * w0 + column), math.cos(row * w0 + column)], abs=1e-4
        )


@pytest.mark.parametrize("kind", COMPUTED)
def test_computed_encodings_are_the_same_for_every_model_of_that_grid(kind: str) -> None:
    """Nothing of a formula is in the weights."""
    assert not list(build_position(small_config(pos_encoding=kind)).parameters())
    assert "position" not in " ".join(small_vit(pos_encoding=kind).state_dict())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", COMPUTED)
def test_a_model_of_another_size_can_count_in_the_first_ones_grid(kind: str, grid: tuple[int, int]) -> None:
    size = (2 * grid[0], 2 * grid[1])
    first = build_position(small_config(pos_encoding=kind))
    other = build_position(small_config(pos_encoding=kind, image_size=size, pos_grid=(3, 4)))
    for asked in (*GRIDS, grid):
        for a, b in (
            (first.table(asked, None, CPU), other.table(asked, None, CPU)),
            (first.rotation(asked, CPU), other.rotation(asked, CPU)),
        ):
            assert (a is None) == (b is None)
            assert a is None or b is None or all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("grid", GRIDS)
def test_sinusoidal_is_the_papers_formula(grid: tuple[int, int]) -> None:
    table = build_position(small_config(pos_encoding="sinusoidal")).table(grid, None, CPU)
    assert table is not None
    assert table[0].eq(0).all(), "the class token has no place"
    for n in range(grid[0] * grid[1]):
        for i in range(8):
            y, x = place(n, grid)
            number = 4 * math.floor(y + 0.5) + x  # n itself on the model's own grid
            angle = number / 10000 ** (2 * i / 16)
            assert table[1 + n, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[1 + n, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_sinusoidal_2d_has_sine_and_cosine_of_both_axes(grid: tuple[int, int]) -> None:
    table = build_position(small_config(pos_encoding="sinusoidal_2d")).table(grid, None, CPU)
    assert table is not None
    assert table[0].eq(0).all(), "the class token has no place"
    for n in range(grid[0] * grid[1]):
        y, x = place(n, grid)
        f = [10000 ** (-i / 4) for i in range(4)]
        formula = [math.sin(y * a) for a in f] + [math.cos(y * a) for a in f]
        formula += [math.sin(x * a) for a in f] + [math.cos(x * a) for a in f]
        assert table[1 + n].tolist() == pytest.approx(formula, abs=1e-6)


def test_learned_adds_its_rows_and_registers_get_none() -> None:
    model = small_vit(pos_encoding="learned", registers=2)
    table = model.position.table((3, 4), model.pos_embed, CPU)
    assert table is not None
    assert model.pos_embed is not None
    assert table.shape == (1, 15, 16)
    assert torch.equal(table[0, 0], model.pos_embed[0, 0])
    assert table[0, 1:3].eq(0).all()
    assert torch.equal(table[0, 3:], model.pos_embed[0, 1:])


@pytest.mark.parametrize("registers", [0, 2])
def test_relative_bias_is_the_table_at_the_offset_from_query_to_key(registers: int) -> None:
    position = small_vit(pos_encoding="relative", registers=registers).position
    assert isinstance(position, Relative)
    (h, w), e = position.grid, 1 + registers
    bias = position.full_bias(position.grid, block=1)
    assert bias.shape == (2, e + h * w, e + h * w)
    for a in range(2):
        for n in range(e + h * w):
            for m in range(e + h * w):
                if n < e and m < e:
                    expected = position.prefix_to_prefix[1, a, n, m]
                elif n < e:
                    expected = position.prefix_to_patch[1, a, n]
                elif m < e:
                    expected = position.patch_to_prefix[1, a, m]
                else:
                    (yn, xn), (ym, xm) = divmod(n - e, w), divmod(m - e, w)
                    expected = position.offset[1, a, ym - yn + h - 1, xm - xn + w - 1]
                assert bias[a, n, m] == expected


def test_axial_relative_bias_is_the_axis_table_at_the_offset() -> None:
    position = small_vit(pos_encoding="relative", attention="axial").position
    assert isinstance(position, Relative)
    h, w = position.grid
    bias = position.axial_bias(position.grid, block=1)
    for line, table, length in ((bias.height, position.height[1], h), (bias.width, position.width[1], w)):
        assert line.shape == (2, length, 1 + length)
        for a in range(2):
            for n in range(length):
                assert line[a, n, 0] == position.patch_to_prefix[1, a, 0]
                for m in range(length):
                    assert line[a, n, 1 + m] == table[a, m - n + length - 1]
    assert torch.equal(bias.prefix[:, :, 0], position.prefix_to_prefix[1, :, :, 0])
    assert torch.equal(bias.prefix[:, :, 1:], position.prefix_to_patch[1, ..., None].expand(-1, -1, h * w))


@pytest.mark.parametrize("grid", GRIDS)
def test_rope_rotates_each_pair_by_row_or_column(grid: tuple[int, int]) -> None:
    rotation = build_position(small_config(pos_encoding="rope_2d")).rotation(grid, CPU)
    assert rotation is not None
    q = torch.randn(1 + grid[0] * grid[1], 8)
    got = rotation(q)
    assert torch.equal(got[0], q[0]), "the class token is not rotated"
    for n in range(grid[0] * grid[1]):
        y, x = place(n, grid)
        angles = [y * 100 ** (-t / 2) for t in range(2)] + [x * 100 ** (-t / 2) for t in range(2)]
        for i, angle in enumerate(angles):
            a, b = q[1 + n, i].item(), q[1 + n, i + 4].item()
            assert got[1 + n, i].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
            assert got[1 + n, i + 4].item() == pytest.approx(a * math.sin(angle) + b * math.cos(angle), abs=1e-5)


def test_rope_products_depend_on_the_offset_alone() -> None:
    rotation = build_position(small_config(pos_encoding="rope_2d")).rotation((5, 6), CPU)
    assert rotation is not None
    q, k = torch.randn(8), torch.randn(8)
    product = (rotation(q.expand(31, 8)) @ rotation(k.expand(31, 8)).T)[1:, 1:].reshape(5, 6, 5, 6)
    torch.testing.assert_close(product[:4, :5, :4, :5], product[1:, 1:, 1:, 1:], rtol=0, atol=1e-4)
    assert not torch.allclose(product[0, 0, 0, 0], product[0, 0, 1, 0])


def test_only_the_encoding_that_is_asked_for_acts() -> None:
    acts = {"none": "", "learned": "t", "sinusoidal": "t", "sinusoidal_2d": "t", "relative": "b", "rope_2d": "r"}
    for kind in ENCODINGS:
        model = small_vit(pos_encoding=kind)
        p, grid = model.position, (3, 4)
        found = {
            "t": p.table(grid, model.pos_embed, CPU),
            "b": p.full_bias(grid, 0),
            "r": p.rotation(grid, CPU),
        }
        assert "".join(name for name, value in found.items() if value is not None) == acts[kind]


@pytest.mark.parametrize("attention", ["full", "axial"])
@pytest.mark.parametrize("kind", ENCODINGS)
def test_another_image_size_runs_and_the_old_one_is_unchanged(kind: str, attention: str) -> None:
    model = small_vit(pos_encoding=kind, attention=attention).eval()
    before = model(images(model) * 0 + 1)
    assert model(torch.randn(2, 3, 10, 4)).isfinite().all()
    assert model.forward_features(torch.randn(2, 3, 10, 4)).shape == (2, 11, 16)
    assert torch.equal(model(images(model) * 0 + 1), before)


def test_interpolated_positions_keep_a_smooth_table() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 8), torch.linspace(0, 1, 8), indexing="ij")
    table = torch.cat((torch.full((1, 2), 9.0), torch.stack((y, x), dim=-1).flatten(0, 1)))[None]
    resized = resize_table(table, (8, 8), (16, 16))
    assert torch.equal(resized[0, 0], table[0, 0]), "the class token's row is kept"
    image = resized[0, 1:].reshape(16, 16, 2)
    assert image.diff(dim=0)[..., 0].gt(0).all(), "rows still ascend"
    assert image.diff(dim=1)[..., 1].gt(0).all(), "columns still ascend"


def test_a_larger_grid_keeps_a_smooth_relative_bias() -> None:
    """A bias linear in the offset stays linear: the same offset in units of the image gets the same bias."""
    position = build_position(small_config(image_size=8, pos_encoding="relative"))
    assert isinstance(position, Relative)
    with torch.no_grad():
        position.init_weights(None)
        position.offset.copy_(torch.linspace(-1, 1, 7)[:, None].expand_as(position.offset))
    bias = position.full_bias((8, 8), 0)[0, 1:, 1:].reshape(8, 8, 8, 8)
    down = bias[0, 0, :, 0]
    assert down[0].item() == pytest.approx(0, abs=1e-6)
    assert down[-1].item() == pytest.approx(1, abs=1e-6)
    assert down.diff().gt(0).all()


def test_bias_reaches_the_logits() -> None:
    q, k, v = torch.randn(3, 1, 1, 4, 8).unbind(0)
    bias = torch.full((1, 4, 4), -1e9)
    bias[0].fill_diagonal_(0)
    torch.testing.assert_close(attend(q, k, v, bias, 0.0), v)
