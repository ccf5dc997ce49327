"""The confusion matrix: which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from vitray.plots.figure import new_figure

COUNTS_UP_TO = 30  # classes; beyond that the numbers are too small to read, and colour alone speaks


def confusion_matrix(counts: npt.ArrayLike, classes: Sequence[str], *, title: str = "") -> Figure:
    """Counts by true class (rows) and predicted class (columns), coloured by share of the row, accuracy on top.

    Args:
        counts: (N, N) numbers of images.
        classes: N names.

    Raises:
        ValueError: the counts are not square, or not as many as the classes.
    """
    table = np.asarray(counts)
    number = len(classes)
    if table.shape != (number, number):
        raise ValueError(f"counts of shape {table.shape} for {number} classes")
    total = table.sum()
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)  # a class without images stays white
    side = float(np.clip(1.6 + 0.42 * number, 4.2, 14.0))
    figure = new_figure(side + 1.0, side + 0.4)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, shrink=0.75, label="share of the true class")
    bar.outline.set_visible(False)
    accuracy = f"accuracy {np.trace(table) / total:.4f} of {total:,} images" if total else "no images"
    axes.set_title(f"{title}\n{accuracy}" if title else accuracy, fontsize=11)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    every = max(1, -(-number // 60))
    names = [_short(name) for name in classes]
    size = float(np.clip(10 - number / 12, 5, 9))
    rotate = max(map(len, names), default=1) > 3
    axes.set_xticks(range(0, number, every), names[::every], rotation=90 if rotate else 0, fontsize=size)
    axes.set_yticks(range(0, number, every), names[::every], fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if number <= COUNTS_UP_TO:
        axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#e5e7eb", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        digits = len(str(int(table.max()))) if total else 1
        cell = 72 * (side - 1.2) / number  # points; a digit is about 0.6 of its font's size wide
        font = min(10.0, 0.8 * cell / (0.6 * digits))
        for (row, column), count in np.ndenumerate(table):
            if count:
                color = "white" if share[row, column] > 0.5 else "#111827"
                axes.text(column, row, f"{int(count)}", ha="center", va="center", fontsize=font, color=color)
    return figure


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
