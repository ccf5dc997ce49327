"""Pictures of what a model attends to: maps by block and head, rollout beside the image, mean distance by depth.

Shapes: H x W pixels, C channels (1 or 3), L blocks, A heads, h x w patches, B images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vitray.plots.figure import BLUE, GREY, ORANGE, new_figure, short, spread

Floats = npt.NDArray[np.floating]
Pixels = npt.NDArray[np.uint8]

MOST_BLOCKS = 8  # more maps are too small to read on one page
MOST_HEADS = 8
QUERIES = {"cls": "class token", "mean": "mean over all patches"}  # by pooling: what the answer is read from
_CELL = 1.3  # inches, the longer side of an image
_LONGEST_TITLE = 44


def attention_figure(pixels: Pixels, maps: Floats, *, pool: str, title: str = "") -> Figure:
    """The query's attention laid over the image, a row a block and a column a head, at most 8 of each.

    Every map has its own scale, from nothing to its largest weight, which stands below it: the weights of a head that
    looks at one place and of one that looks everywhere differ a hundredfold.

    Args:
        pixels: (H, W, C) uint8, as the model saw them.
        maps: (L, A, h, w), weights of the query on each patch, which may sum to less than one.
        pool: ``cls`` or ``mean``, which says what the query is.
    """
    depth, heads = maps.shape[:2]
    rows, columns = spread(depth, MOST_BLOCKS), spread(heads, MOST_HEADS)
    high, wide = _cell(pixels, _CELL)
    figure = new_figure(max(5.2, 1.2 + (wide + 0.15) * len(columns)), 1.9 + (high + 0.35) * len(rows))
    lines = [short(title, _LONGEST_TITLE), f"attention of the {QUERIES[pool]} by block and head"]
    if len(rows) < depth or len(columns) < heads:
        lines.append(f"{len(rows)} of {depth} blocks, {len(columns)} of {heads} heads")
    figure.suptitle("\n".join(filter(None, lines)), fontsize=10, parse_math=False)
    places = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, block in zip(places, rows, strict=True):
        for place, head in zip(row, columns, strict=True):
            largest = float(maps[block, head].max())
            _show(place, overlay(pixels, maps[block, head], 0.0, largest))
            place.set_xlabel(f"up to {largest:.1%}", fontsize=7, labelpad=2)
        row[0].set_ylabel(f"block {block + 1}", fontsize=8, rotation=0, ha="right", va="center")
    for place, head in zip(places[0], columns, strict=True):
        place.set_title(f"head {head + 1}", fontsize=8)
    key = figure.colorbar(
        ScalarMappable(Normalize(0, 1), _HEAT), ax=places, location="bottom", aspect=40, fraction=0.05, shrink=0.8
    )
    key.ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    _finish(key, "weight on a patch, as a share of its map's largest")
    return figure


def rollout_figure(
    pixels: Pixels, rollout: Floats, *, pool: str, label: str, probability: float, title: str = ""
) -> Figure:
    """The image with the model's answer, and beside it where attention, rolled out over all blocks, comes from.

    Args:
        pixels: (H, W, C) uint8, as the model saw them.
        rollout: (h, w), the query's share of each patch.
        pool: ``cls`` or ``mean``, which says what the query is.
        label: the predicted class.
        probability: its probability, 0..1.
    """
    high, wide = _cell(pixels, 3.2)
    figure = new_figure(max(5.6, 2 * wide + 1.6), high + 1.3)
    if title:
        figure.suptitle(short(title, 2 * _LONGEST_TITLE), fontsize=10, parse_math=False)
    left, right = figure.subplots(1, 2)
    _show(left, pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2))
    left.set_title(f"predicted: {short(label, 24)}\nprobability {probability:.4f}", fontsize=9, parse_math=False)
    # Rollout differs little from patch to patch where blocks are few: the identity in every step evens it out.
    share = rollout / max(float(rollout.sum()), 1e-30) * rollout.size
    low, largest = float(share.min()), float(share.max())
    _show(right, overlay(pixels, share, low, largest))
    right.set_title(f"attention rollout\nto the {QUERIES[pool]}", fontsize=9)
    scale = Normalize(low, largest if largest > low else low + 1)
    _finish(figure.colorbar(ScalarMappable(scale, _HEAT), ax=right, fraction=0.05), "times an even share")
    return figure


def distance_figure(distance: Floats, *, even: float, title: str = "") -> Figure:
    """Mean attention distance by depth, a dot a head (Dosovitskiy et al. 2021, figure 7, right).

    Args:
        distance: (B, L, A) in pixels, averaged over the images here.
        even: the distance in pixels of a head that attends to all patches alike.
    """
    images, depth, heads = distance.shape
    mean = distance.mean(axis=0)
    blocks = np.arange(1, depth + 1)
    figure = new_figure(max(5.6, min(10.0, 2.4 + 0.4 * depth)), 3.8)
    axes = figure.subplots()
    axes.axhline(even, color=GREY, linewidth=1.0, linestyle="--", label="even attention to all patches")
    axes.plot(blocks, mean.mean(axis=1), color=ORANGE, linewidth=1.6, label="mean over heads", zorder=2)
    axes.plot(
        blocks.repeat(heads), mean.flatten(), "o", color=BLUE, alpha=0.65, markersize=6, mew=0, label="a head", zorder=3
    )
    axes.set(xlabel="block", ylabel="mean attention distance (pixels)", xlim=(0.5, depth + 0.5))
    axes.set_ylim(0, 1.08 * max(even, float(mean.max()), 1e-3))
    axes.xaxis.set_major_locator(MaxNLocator(min(depth, 16), integer=True, min_n_ticks=1))
    over = f"over {images} images" if images > 1 else "over one image"
    axes.set_title(f"{title or 'How far heads look'}, {over}", fontsize=10)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def overlay(pixels: Pixels, values: Floats, low: float, high: float) -> Floats:
    """The image in grey with ``values`` (h, w) in colour over it, each patch evenly; (H, W, 3) in 0..1.

    Grey is the image and colour is attention, so neither is taken for the other: at ``low`` a patch is grey alone.
    """
    (height, width), (h, w) = pixels.shape[:2], values.shape
    scaled = np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(values)
    scaled = scaled.repeat(height // h, axis=0).repeat(width // w, axis=1)
    return _blend(0.75 * pixels.mean(axis=2) / 255, scaled)


def _blend(grey: Floats, scaled: Floats) -> Floats:
    """From grey over red to yellow, as ``scaled`` goes from 0 to 1."""
    colour: Floats = colormaps["autumn"](scaled)[..., :3]
    cover = 0.95 * scaled[..., None]
    return (1 - cover) * grey[..., None] + cover * colour


_HEAT = ListedColormap(list(_blend(np.full(256, 0.3), np.linspace(0, 1, 256))))  # the key: over an image of dark grey


def _show(place: Axes, image: npt.NDArray[np.generic]) -> None:
    place.imshow(image, interpolation="nearest" if max(image.shape[:2]) < 64 else "antialiased")
    place.set(xticks=[], yticks=[])
    place.spines[:].set_visible(False)


def _cell(pixels: Pixels, side: float) -> tuple[float, float]:
    """Height and width in inches of an image whose longer side is ``side``."""
    height, width = pixels.shape[:2]
    return side * height / max(height, width), side * width / max(height, width)


def _finish(key: Colorbar, label: str) -> None:
    key.set_label(label, fontsize=8)
    key.ax.tick_params(labelsize=7)
    key.outline.set_visible(False)
