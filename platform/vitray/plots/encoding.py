"""Pictures of how a model encodes positions, drawn from the model's own tables, biases and rotations."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecBase
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from vitray.models.position import Position, Relative
from vitray.models.vit import VisionTransformer
from vitray.plots.figure import new_figure, spread

NAMES = {
    "none": "none",
    "learned": "learned, one vector a position",
    "sinusoidal": "sinusoidal over the sequence",
    "sinusoidal_2d": "sinusoidal over rows and columns",
    "relative": "relative, a learned bias by offset",
    "rope_2d": "rotary over rows and columns",
}
MOST_MAPS = 8  # maps a side: more are too small to read
MOST_BLOCKS = 4
DIVERGING = "RdBu_r"  # its middle, white, is zero


@torch.no_grad()
def encoding_figure(model: VisionTransformer) -> Figure:
    """The positional encoding of ``model`` on the grid it was made for.

    Absolute tables: position x dimension, and each position's cosine similarity with all others (Dosovitskiy et al.
    2021, figure 7). Relative: the bias by offset, a map a block and head. Rotary: the angles, and what they do to the
    product of two equal vectors by offset. None: a figure that says so.
    """
    kind = model.config.pos_encoding
    h, w = model.config.grid
    position = model.position
    figure = new_figure(11.0, 5.0)
    figure.suptitle(f"Positional encoding: {NAMES[kind]}\n{h} x {w} patches of {model.config.patch_size} px")
    table = position.table((h, w), model.pos_embed, model.cls_token.device)
    if table is not None:
        _absolute(figure, table.reshape(-1, model.config.embed_dim)[model.num_prefix_tokens :].float().cpu(), (h, w))
    elif isinstance(position, Relative):
        _relative(figure, position)
    elif kind == "rope_2d":
        _rotary(figure, position, (h, w))
    else:
        figure.set_size_inches(8.0, 2.2)
        axes = figure.add_subplot()
        axes.axis("off")
        # Axial attention tells rows from columns by itself, so even then the patches are not quite a bag.
        seen = "a set of rows and columns without order" if model.config.attention == "axial" else "an unordered set"
        nothing = f"This model has no positional encoding:\nits patches are {seen}."
        axes.text(0.5, 0.5, nothing, ha="center", va="center", fontsize=12)
    return figure


def _absolute(figure: Figure, table: torch.Tensor, grid: tuple[int, int]) -> None:
    h, w = grid
    left, right = figure.subplots(1, 2)
    limit = float(table.abs().max()) or 1.0
    image = left.imshow(table.numpy(), aspect="auto", cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    _label(left, "Value by position and dimension", "dimension", "patch, in reading order")
    figure.colorbar(image, ax=left, label="value added to the token")

    rows, columns = spread(h, MOST_MAPS), spread(w, MOST_MAPS)
    unit = torch.nn.functional.normalize(table, dim=1)
    similarity = (unit @ unit.T).reshape(h, w, h, w)[rows][:, columns].numpy()
    gap = max(1, round(max(h, w) / 8))
    mosaic = np.full((len(rows) * (h + gap) - gap, len(columns) * (w + gap) - gap), np.nan)
    for i in range(len(rows)):
        for j in range(len(columns)):
            mosaic[i * (h + gap) : i * (h + gap) + h, j * (w + gap) : j * (w + gap) + w] = similarity[i, j]
    image = right.imshow(
        mosaic, cmap="viridis", vmin=min(0.0, float(similarity.min())), vmax=1, interpolation="nearest"
    )
    right.set_xticks([j * (w + gap) + (w - 1) / 2 for j in range(len(columns))], [str(c + 1) for c in columns])
    right.set_yticks([i * (h + gap) + (h - 1) / 2 for i in range(len(rows))], [str(r + 1) for r in rows])
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    _label(right, "Cosine similarity with all patches, a map a patch", "patch column", "patch row", integers=False)
    figure.colorbar(image, ax=right, label="cosine similarity")


def _relative(figure: Figure, position: Relative) -> None:
    """Left: a map a block and head (axial: a row a head). Right: the class token's biases by block and head."""
    tables = [position.height, position.width] if position.axial else [position.offset]
    limit = max(float(table.abs().max()) for table in tables) or 1.0
    blocks = spread(position.depth, MOST_BLOCKS)
    columns = [0, 1] if position.axial else spread(position.num_heads, MOST_MAPS)
    width, height = (3.4, 1.9)
    if not position.axial:  # few maps are drawn larger; each keeps the image's proportions
        width = max(1.7, 4.0 / len(columns))
        height = min(1.4 * width, 0.7 + (width - 0.5) * (2 * position.grid[0] - 1) / (2 * position.grid[1] - 1))
    figure.set_size_inches(width * len(columns) + 4.6, max(5.4, height * len(blocks) + 1.4))
    halves = figure.add_gridspec(1, 2, width_ratios=(width * len(columns), 3.4))
    cells = halves[0].subgridspec(len(blocks), len(columns))
    places = [[figure.add_subplot(cells[r, c]) for c in range(len(columns))] for r in range(len(blocks))]
    for row, block in zip(places, blocks, strict=True):
        for place, column in zip(row, columns, strict=True):
            if position.axial:
                image = _line_map(place, tables[column][block], limit)
                place.set_title(f"Block {block + 1}, along {('height', 'width')[column]}", fontsize=9)
            else:
                image = _offset_map(place, tables[0][block, column], limit)
                place.set_title(f"Block {block + 1}, head {column + 1}", fontsize=9)
    for c, place in enumerate(places[-1]):
        names = ("rows below the query", "columns to its right")
        place.set_xlabel(names[c] if position.axial else names[1], fontsize=8)
    for row in places:
        row[0].set_ylabel("head" if position.axial else "rows below query", fontsize=8)
    maps = [place for row in places for place in row]
    figure.colorbar(image, ax=maps, label="added to the attention logit", aspect=35)
    _prefix_maps(figure, halves[1].subgridspec(3, 1), position)


def _offset_map(place: Axes, offset: torch.Tensor, limit: float) -> AxesImage:
    y, x = offset.shape[0] // 2, offset.shape[1] // 2
    place.plot(0, 0, marker="+", color="black", markersize=6)
    return _map(place, offset, limit, extent=(-x - 0.5, x + 0.5, y + 0.5, -y - 0.5))


def _line_map(place: Axes, line: torch.Tensor, limit: float) -> AxesImage:
    heads, reach = line.shape[0], line.shape[1] // 2
    image = _map(place, line, limit, extent=(-reach - 0.5, reach + 0.5, heads + 0.5, 0.5))
    place.set_aspect("auto")
    return image


def _map(
    place: Axes, values: torch.Tensor, limit: float, extent: tuple[float, float, float, float] | None = None
) -> AxesImage:
    image = place.imshow(
        values.float().cpu().numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest", extent=extent
    )
    place.tick_params(labelsize=7)
    place.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    place.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    return image


def _prefix_maps(figure: Figure, cells: GridSpecBase, position: Relative) -> None:
    """The class token's biases, block by head; those of registers, if any, are averaged in."""
    name = "class token" if position.prefix == 1 else "class token and registers"
    parts = (
        (f"patch to {name}", position.patch_to_prefix.mean(2)),
        (f"{name} to patch", position.prefix_to_patch.mean(2)),
        (f"{name} to itself" if position.prefix == 1 else "among these", position.prefix_to_prefix.mean((2, 3))),
    )
    limit = max(float(values.abs().max()) for _, values in parts) or 1.0
    extent = (0.5, position.num_heads + 0.5, position.depth + 0.5, 0.5)
    places = [figure.add_subplot(cells[row, 0]) for row in range(3)]
    for place, (title, values) in zip(places, parts, strict=True):
        image = _map(place, values, limit, extent)
        place.set_aspect("auto")
        place.set_title(title[0].upper() + title[1:], fontsize=9)
        place.set_ylabel("block", fontsize=8)
    places[-1].set_xlabel("head", fontsize=8)
    figure.colorbar(image, ax=places, label="added to the attention logit", aspect=35)


def _rotary(figure: Figure, position: Position, grid: tuple[int, int]) -> None:
    h, w = grid
    rotation = position.rotation(grid, torch.device("cpu"))
    assert rotation is not None
    angles = torch.atan2(rotation.sin, rotation.cos)[position.prefix :]
    left, right = figure.subplots(1, 2)
    image = left.imshow(
        angles.numpy(), aspect="auto", cmap="twilight", vmin=-math.pi, vmax=math.pi, interpolation="nearest"
    )
    pairs = angles.shape[1]
    left.axvline(pairs / 2 - 0.5, color="white", linewidth=2)
    _label(left, "Angle by position and feature pair", "feature pair: by row | by column", "patch, in reading order")
    bar = figure.colorbar(image, ax=left, label="angle, wrapped", ticks=[-math.pi, 0, math.pi])
    bar.ax.set_yticklabels(["-π", "0", "π"])

    # What the first patch makes of all others holds for any two: each pair turns by one axis, and cosines are even.
    cos, sin = rotation.cos[position.prefix :], rotation.sin[position.prefix :]
    first = (cos * cos[0] + sin * sin[0]).mean(1).reshape(h, w).numpy()
    product = first[np.abs(np.arange(1 - h, h))][:, np.abs(np.arange(1 - w, w))]
    image = right.imshow(
        product, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest", extent=(0.5 - w, w - 0.5, h - 0.5, 0.5 - h)
    )
    right.plot(0, 0, marker="+", color="black", markersize=8)
    _label(
        right,
        "q · k of two equal vectors by offset,\nrelative to no offset",
        "columns right of the query",
        "rows below it",
    )
    figure.colorbar(image, ax=right, label="mean cosine of the pairs' angles")


def _label(axes: Axes, title: str, x: str, y: str, *, integers: bool = True) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    if integers:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
