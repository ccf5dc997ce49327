"""The patch embedding as a picture: what directions in pixel space it reads.

Shapes: D width, C channels, P x P the patch, F filters shown.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vitray.plots.figure import new_figure

Floats = npt.NDArray[np.floating]

MOST_FILTERS = 28
_COLUMNS = 7
_DIVERGING = "RdBu_r"  # its middle, white, is zero


def principal_filters(weight: Floats, most: int = MOST_FILTERS) -> tuple[Floats, Floats]:
    """The first principal components of D filters (D, C, P, P), and each one's share of the variance, largest first.

    Returns:
        (F, C, P, P) of unit length, signed so that the largest entry is positive, and (F,). There are no more than
        pixels in a patch or filters in the model.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    _, sizes, components = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    share = sizes**2 / max(float((sizes**2).sum()), np.finfo(np.float64).tiny)
    sign = np.sign(np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1))
    shown = (components * np.where(sign == 0, 1, sign))[:most]
    return shown.reshape(-1, *weight.shape[1:]), share[:most]


def filters_figure(weight: Floats) -> Figure:
    """The first 28 principal components of the patch embedding's filters (Dosovitskiy et al. 2021, figure 7, left).

    Three channels are drawn as one colour picture around grey; one channel, or another number side by side, in red for
    positive and blue for negative weights. Every component has its own scale.

    Args:
        weight: (D, C, P, P).
    """
    number, channels, patch, _ = weight.shape
    shown, share = principal_filters(weight)
    rgb = channels == 3
    stretch = 1 if rgb else channels
    columns = min(max(_COLUMNS // stretch, 1), len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(max(5.6, 1.3 + 1.15 * columns * min(stretch, 2 * _COLUMNS)), 1.9 + 1.2 * rows)
    what = f"first {len(shown)} principal components" if len(shown) > 1 else "principal component"
    names = {1: "1 channel", 3: "red, green and blue"}.get(channels, f"{channels} channels side by side")
    figure.suptitle(f"Patch embedding: {what} of its {number} filters\n{patch} x {patch} px, {names}", fontsize=10)
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for place, component, part in zip(places, shown, share, strict=False):
        scaled = component / (np.abs(component).max() or 1.0)
        if rgb:
            place.imshow(0.5 + 0.5 * scaled.transpose(1, 2, 0), interpolation="nearest")
        else:
            strip = scaled.transpose(1, 0, 2).reshape(patch, -1)
            place.imshow(strip, cmap=_DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
        place.set_title(f"{part:.1%}", fontsize=8, pad=3)
        place.set(xticks=[], yticks=[])
        place.spines[:].set_color("#9ca3af")
    for place in places[len(shown) :]:
        place.set_axis_off()
    note = "Above each: its share of the filters' variance."
    if rgb:
        figure.supxlabel(f"{note} Grey is zero; weights are added to each colour.", fontsize=8)
    else:
        key = ScalarMappable(Normalize(-1, 1), _DIVERGING)
        bar = figure.colorbar(key, ax=list(places), location="bottom", fraction=0.06, aspect=40, shrink=0.7)
        bar.set_label(f"weight / largest of the component. {note}", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure
