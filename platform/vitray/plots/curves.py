"""Learning curves: what the loss and the accuracy did, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitray.plots.figure import BLUE, GREY, ORANGE, new_figure


def learning_curves(
    epochs: Sequence[int], train_loss: Sequence[float], val_accuracy: Sequence[float], *, title: str = ""
) -> Figure:
    """Two panels over the epoch: training loss, and validation accuracy with its best epoch marked.

    Args:
        epochs: numbers of the epochs, rising.
        train_loss: mean loss of each epoch (nats).
        val_accuracy: 0..1 after each epoch; NaN where it was not measured.

    Raises:
        ValueError: the three differ in length.
    """
    if not len(epochs) == len(train_loss) == len(val_accuracy):
        raise ValueError(f"{len(epochs)} epochs, {len(train_loss)} losses and {len(val_accuracy)} accuracies")
    figure = new_figure(9.0, 3.6)
    if title:
        figure.suptitle(title, fontsize=11)
    left, right = figure.subplots(1, 2)
    _panel(left, epochs, train_loss, "training loss", BLUE)
    _panel(right, epochs, val_accuracy, "validation accuracy", ORANGE)
    best = max(
        (i for i in range(len(epochs)) if math.isfinite(val_accuracy[i])), key=lambda i: val_accuracy[i], default=None
    )
    if best is not None:
        right.axvline(epochs[best], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        right.plot(
            [epochs[best]],
            [val_accuracy[best]],
            "o",
            color=ORANGE,
            label=f"best: {val_accuracy[best]:.4f} in epoch {epochs[best]}",
        )
        right.legend(loc="lower right", framealpha=0.9, edgecolor="white", fontsize=9)
    return figure


def _panel(axes: Axes, epochs: Sequence[int], values: Sequence[float], label: str, color: str) -> None:
    marker = "." if len(epochs) <= 60 else None  # a single epoch must be visible, a thousand must not be blobs
    axes.plot(epochs, values, color=color, linewidth=1.6, marker=marker)
    axes.set_xlabel("epoch")
    axes.set_title(label, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if not epochs:
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.text(0.5, 0.5, "no epoch yet", ha="center", va="center", color=GREY)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
