"""A chart as plain marks at pixels, so that one layout becomes SVG in a page and PNG in a folder alike.

A mark names what it is for ("grid", "accent"); :data:`PAINTS` says how that looks, in colours that a page can change
for the dark. The categories are those of Okabe and Ito, which people of any colour vision can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1f2937",
    "muted": "#6b7280",
    "faint": "#9ca3af",
    "grid": "#e5e7eb",
    "accent": "#1d4ed8",
    "cat0": "#9ca3af",
    "cat1": "#e69f00",
    "cat2": "#0072b2",
    "cat3": "#009e73",
    "cat4": "#cc79a7",
    "cat5": "#d1d5db",
}
DARK = {
    "paper": "#14181f",
    "ink": "#e5e7eb",
    "muted": "#9ca3af",
    "faint": "#6b7280",
    "grid": "#2b323d",
    "accent": "#7cacff",
    "cat0": "#7b8494",
    "cat1": "#e69f00",
    "cat2": "#3a9bd9",
    "cat3": "#12b886",
    "cat4": "#d98cb5",
    "cat5": "#454d5b",
}


@dataclass(frozen=True)
class Paint:
    """Colours are names in :data:`LIGHT`; sizes in pixels."""

    fill: str | None = None
    stroke: str | None = None
    width: float = 1.0
    dash: tuple[float, float] | None = None
    opacity: float = 1.0
    size: float = 12.0  # of text
    bold: bool = False


PAINTS = {
    "grid": Paint(stroke="grid"),
    "axis": Paint(stroke="faint"),
    "zero": Paint(stroke="muted", width=1.2),
    "rung": Paint(stroke="faint", dash=(2, 4)),
    "front": Paint(stroke="accent", width=1.5, dash=(5, 3), opacity=0.8),
    "line": Paint(stroke="faint", width=1.3, opacity=0.75),
    "line-many": Paint(stroke="faint", width=1.0, opacity=0.4),
    "line-winner": Paint(stroke="accent", width=2.4),
    "whisker": Paint(stroke="ink", width=1.6),
    "median": Paint(stroke="accent", width=2.2),
    "done": Paint(fill="muted", stroke="paper", opacity=0.9),
    "stopped": Paint(fill="paper", stroke="muted", width=1.4),
    "on-front": Paint(fill="accent", stroke="paper"),
    "on-front-stopped": Paint(fill="paper", stroke="accent", width=1.8),
    "winner": Paint(fill="accent", stroke="paper", width=1.2),
    "stop": Paint(stroke="muted", width=1.3),
    "change": Paint(fill="cat1", stroke="paper"),
    "bar": Paint(fill="accent", opacity=0.85),
    "estimate": Paint(fill="accent", stroke="paper"),
    "adjusted": Paint(fill="paper", stroke="accent", width=1.8),
    **{f"part{i}": Paint(fill=f"cat{i}") for i in range(6)},
    "tick": Paint(fill="muted", size=11),
    "label": Paint(fill="muted", size=12),
    "text": Paint(fill="ink", size=12),
    "strong": Paint(fill="ink", size=12, bold=True),
    "strong-accent": Paint(fill="accent", size=12, bold=True),
}
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Line:
    """Straight pieces between points."""

    points: tuple[tuple[float, float], ...]
    paint: str
    title: str | None = None


@dataclass(frozen=True)
class Dot:
    """A mark around a point; ``r`` is half its width."""

    x: float
    y: float
    r: float
    paint: str
    title: str | None = None
    shape: Literal["circle", "square", "star", "cross", "diamond"] = "circle"


@dataclass(frozen=True)
class Box:
    """A rectangle from its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    paint: str
    title: str | None = None


@dataclass(frozen=True)
class Text:
    """One line; ``y`` is its base line. ``upright``: written upwards."""

    x: float
    y: float
    text: str
    paint: str = "text"
    anchor: Anchor = "start"
    upright: bool = False


Mark = Line | Dot | Box | Text


@dataclass(frozen=True)
class Drawing:
    """Marks from the back to the front in a frame of pixels; ``says``: what it shows, for who cannot see it."""

    width: float
    height: float
    says: str
    marks: tuple[Mark, ...]


def drawing(width: float, height: float, says: str, marks: Iterable[Mark]) -> Drawing:
    return Drawing(width, height, says, tuple(marks))


def stacked(top: Drawing, bottom: Drawing) -> Drawing:
    """One above the other."""
    moved: list[Mark] = []
    for mark in bottom.marks:
        if isinstance(mark, Line):
            moved.append(replace(mark, points=tuple((x, y + top.height) for x, y in mark.points)))
        else:
            moved.append(replace(mark, y=mark.y + top.height))
    says = f"{bottom.says}. {top.says}"
    return Drawing(max(top.width, bottom.width), top.height + bottom.height, says, (*top.marks, *moved))


def legend(entries: Sequence[tuple[Dot, str]], width: float) -> Drawing:
    """What marks mean, from left to right in as many lines as it takes."""
    marks: list[Mark] = []
    x, y = 10.0, 16.0
    for dot, label in entries:
        if x > 10 and x + 16 + text_width(label) > width:
            x, y = 10.0, y + 20
        marks += [replace(dot, x=x, y=y - 4), Text(x + 13, y, label, "label")]
        x += 30 + text_width(label)
    return drawing(width, y + 10, "Key: " + ", ".join(label for _, label in entries), marks)


def text_width(text: str, size: float = 12.0) -> float:
    """About how many pixels a line of text takes in any sans-serif font."""
    return 0.6 * size * len(text)


def clipped(text: str, width: float, size: float = 12.0) -> str:
    """A text that fits into so many pixels."""
    most = max(1, int(width / (0.6 * size)))
    return text if len(text) <= most else text[: most - 1] + "…"
