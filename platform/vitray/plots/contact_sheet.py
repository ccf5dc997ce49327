"""A contact sheet: one row of sample images a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_CELL = 0.62  # inches
_LONGEST_NAME = 28


def contact_sheet(
    rows_by_class: Mapping[int, Sequence[npt.NDArray[np.uint8]]], classes: Sequence[str], per_class: int = 10
) -> Figure:
    """Draw up to ``per_class`` images of each label in ``rows_by_class``, in the mapping's order.

    Args:
        rows_by_class: label -> images, (H, W, 1) or (H, W, 3) uint8 RGB, of any sizes; each keeps its proportions.
        classes: the name of every label.
        per_class: columns of the sheet.
    """
    names = [_short(classes[label]) for label in rows_by_class]
    rows = len(names)
    margin = 0.25 + 0.075 * max(map(len, names), default=1)
    width, height = margin + per_class * _CELL + 0.1, max(1, rows) * _CELL + 0.2
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    # One axes in units of cells, rather than one an image: two hundred axes take seconds.
    axes = figure.add_axes((margin / width, 0.1 / height, per_class * _CELL / width, max(1, rows) * _CELL / height))
    for row, images in enumerate(rows_by_class.values()):
        for column, image in enumerate(images[:per_class]):
            _place(axes, image, row, column)
    axes.set(xlim=(0, per_class), ylim=(max(1, rows), 0), yticks=np.arange(rows) + 0.5, xticks=[])
    axes.set_yticklabels(names, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _place(axes: object, image: npt.NDArray[np.uint8], row: int, column: int) -> None:
    high, wide = image.shape[:2]
    half = 0.46 / max(high, wide)  # the longer side fills 92 % of the cell
    x, y = column + 0.5, row + 0.5
    extent = (x - wide * half, x + wide * half, y + high * half, y - high * half)
    gray = image.shape[2] == 1
    axes.imshow(  # type: ignore[attr-defined]
        image[:, :, 0] if gray else image,
        cmap="gray" if gray else None,
        vmin=0,
        vmax=255,
        extent=extent,
        aspect="auto",
        interpolation="nearest" if max(high, wide) < 64 else "antialiased",
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
