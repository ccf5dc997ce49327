"""Figures without pyplot: no global state, no window, safe in any thread and any process."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 120
BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#6b7280"


def new_figure(width: float, height: float) -> Figure:
    """A white figure of this size in inches, which lays itself out and renders with Agg."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure as PNG; returns the path. Folders are made as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def spread(count: int, most: int) -> list[int]:
    """All of 0..count-1, or ``most`` of them at even distances."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def short(text: str, limit: int) -> str:
    """At most ``limit`` characters, printable in a picture whatever a file's name holds."""
    text = text.encode("utf-8", "replace").decode().replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 1] + "…"
