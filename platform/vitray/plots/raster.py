"""Drawings as matplotlib figures, for PNGs: the same marks at the same pixels, in the light colours."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle

from vitray.plots.drawing import LIGHT, PAINTS, Box, Dot, Drawing, Line, Mark, Text
from vitray.plots.figure import short
from vitray.plots.svg import shape

_DPI = 144.0  # two pixels of the picture for one of the drawing


def figure_of(drawing: Drawing, title: str = "") -> Figure:
    """A figure of the drawing, below its title if it has one."""
    above = 34.0 if title else 0.0
    height = drawing.height + above
    figure = Figure(figsize=(drawing.width / 72, height / 72), dpi=_DPI, facecolor=LIGHT["paper"])
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, -above))
    axes.axis("off")
    if title:
        axes.text(12, -12, short(title, 90), fontsize=13, fontweight="bold", color=LIGHT["ink"], parse_math=False)
    for order, mark in enumerate(drawing.marks, start=1):
        _add(axes, mark, order)
    return figure


def _add(axes: Axes, mark: Mark, order: int) -> None:
    paint = PAINTS[mark.paint]
    look: dict[str, Any] = {"alpha": paint.opacity, "zorder": order}
    fill = LIGHT[paint.fill] if paint.fill else "none"
    edge: dict[str, Any] = {"edgecolor": LIGHT[paint.stroke] if paint.stroke else "none", "linewidth": paint.width}
    stroke: dict[str, Any] = {"color": LIGHT[paint.stroke or "ink"], "linewidth": paint.width}
    if isinstance(mark, Text):
        where = {"start": "left", "middle": "center", "end": "right"}[mark.anchor]
        axes.text(
            mark.x,
            mark.y,
            short(mark.text, 200),
            fontsize=paint.size,
            color=fill,
            fontweight="bold" if paint.bold else "normal",
            ha="center" if mark.upright and where == "center" else where,
            va="bottom" if mark.upright else "baseline",
            rotation=90 if mark.upright else 0,
            rotation_mode="anchor",
            parse_math=False,  # a name may hold a dollar
            zorder=order,
        )
    elif isinstance(mark, Line):
        style: Any = "-" if paint.dash is None else (0, tuple(d / paint.width for d in paint.dash))
        xs, ys = zip(*mark.points, strict=True)
        axes.plot(xs, ys, linestyle=style, **stroke, **look)
    elif isinstance(mark, Box):
        axes.add_patch(Rectangle((mark.x, mark.y), mark.width, mark.height, facecolor=fill, **edge, **look))
    elif isinstance(mark, Dot) and mark.shape == "circle":
        axes.add_patch(Circle((mark.x, mark.y), mark.r, facecolor=fill, **edge, **look))
    elif mark.shape == "cross":
        for piece in shape(mark):
            xs, ys = zip(*piece, strict=True)
            axes.plot(xs, ys, **stroke, **look)
    else:
        axes.add_patch(Polygon(shape(mark)[0], facecolor=fill, **edge, **look))
