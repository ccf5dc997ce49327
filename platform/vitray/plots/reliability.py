"""The reliability diagram: whether a model is right as often as it is sure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vitray.plots.figure import BLUE, GREY, ORANGE, new_figure


def reliability_diagram(
    edges: npt.ArrayLike, counts: npt.ArrayLike, accuracy: npt.ArrayLike, confidence: npt.ArrayLike, *, title: str = ""
) -> Figure:
    """Accuracy over confidence by bins, the gap to the diagonal, and below how many images each bin holds.

    As in Guo et al. 2017, "On Calibration of Modern Neural Networks", figure 1: bars above the diagonal say that the
    model is right more often than it says, bars below it that it is too sure of itself.

    Args:
        edges: (bins + 1,), 0 to 1.
        counts: (bins,), images.
        accuracy, confidence: (bins,), means of each bin; NaN where it is empty.

    Raises:
        ValueError: the lengths do not fit.
    """
    edge, count, right, sure = (np.asarray(v, dtype=float) for v in (edges, counts, accuracy, confidence))
    if not len(edge) - 1 == len(count) == len(right) == len(sure):
        raise ValueError(f"{len(edge)} edges, {len(count)} counts, {len(right)} accuracies, {len(sure)} confidences")
    total, left, width = count.sum(), edge[:-1], np.diff(edge)
    figure = new_figure(5.4, 6.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    if total:
        means = np.nansum(right * count) / total, np.nansum(sure * count) / total
        ece = np.nansum(count / total * np.abs(right - sure))
        facts = f"ECE {ece:.4f} over {len(count)} bins, {total:,.0f} images"
    else:
        means, facts = (np.nan, np.nan), "no images"
    above.set_title(f"{title}\n{facts}" if title else facts, fontsize=11)
    held = count > 0
    above.bar(left[held], right[held], width[held], align="edge", color=BLUE, edgecolor="white", label="accuracy")
    above.bar(
        left[held],
        (sure - right)[held],
        width[held],
        bottom=right[held],
        align="edge",
        color=ORANGE,
        alpha=0.35,
        edgecolor=ORANGE,
        linewidth=0.8,
        label="gap to the mean confidence",
    )
    above.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfectly calibrated")
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    above.legend(loc="upper left", framealpha=0.9, edgecolor="white", fontsize=9)
    below.bar(left, count / max(total, 1), width, align="edge", color=GREY, edgecolor="white")
    for value, color, name in ((means[0], BLUE, "accuracy"), (means[1], ORANGE, "confidence")):
        if np.isfinite(value):
            below.axvline(value, color=color, linewidth=1.4, label=f"mean {name} {value:.3f}")
    below.set(xlabel="probability of the predicted class", ylabel="images", ylim=(0, None))
    below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if total:
        below.legend(loc="upper left", framealpha=0.9, edgecolor="white", fontsize=9)
    for axes in (above, below):
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
