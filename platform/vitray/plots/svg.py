"""Drawings as SVG inside a page: text that a screen reader reads, a tooltip on every mark that has something to say."""

from __future__ import annotations

import html
import math

from vitray.plots.drawing import DARK, LIGHT, PAINTS, Dot, Drawing, Line, Mark, Paint, Text


def svg(drawing: Drawing, name: str = "") -> str:
    """The ``<svg>`` element; its colours come from :func:`stylesheet`. ``name`` is its class beside ``chart``."""
    w, h = _n(drawing.width), _n(drawing.height)
    marks = "".join(map(_mark, drawing.marks))
    return (
        f'<svg class="{html.escape(f"chart {name}".strip())}" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        f'role="img" aria-label="{html.escape(drawing.says)}">{marks}</svg>'
    )


def stylesheet() -> str:
    """Colours of every paint, for light and dark."""
    light, dark = (";".join(f"--{k}:{v}" for k, v in colours.items()) for colours in (LIGHT, DARK))
    rules = "".join(f".chart .{name}{{{_rule(paint)}}}" for name, paint in PAINTS.items())
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{rules}"


def _rule(paint: Paint) -> str:
    fill = f"var(--{paint.fill})" if paint.fill else "none"
    rules = [f"fill:{fill}"]
    if paint.stroke:
        rules += [f"stroke:var(--{paint.stroke})", f"stroke-width:{paint.width:g}"]
    else:
        rules += [f"font-size:{paint.size:g}px"]
    if paint.dash:
        rules.append("stroke-dasharray:" + " ".join(f"{d:g}" for d in paint.dash))
    if paint.opacity < 1:
        rules.append(f"opacity:{paint.opacity:g}")
    if paint.bold:
        rules.append("font-weight:600")
    return ";".join(rules)


def _mark(mark: Mark) -> str:
    if isinstance(mark, Text):
        turned = f' transform="rotate(-90 {_n(mark.x)} {_n(mark.y)})"' if mark.upright else ""
        anchor = "" if mark.anchor == "start" else f' text-anchor="{mark.anchor}"'
        return (
            f'<text class="{mark.paint}" x="{_n(mark.x)}" y="{_n(mark.y)}"{anchor}{turned}>'
            f"{html.escape(_printable(mark.text))}</text>"
        )
    title = f"<title>{html.escape(_printable(mark.title))}</title>" if mark.title else ""
    if isinstance(mark, Line):
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in mark.points)
        return f'<polyline class="{mark.paint}" points="{points}">{title}</polyline>'
    if isinstance(mark, Dot):
        if mark.shape == "circle":
            return f'<circle class="{mark.paint}" cx="{_n(mark.x)}" cy="{_n(mark.y)}" r="{_n(mark.r)}">{title}</circle>'
        pieces = shape(mark)
        path = "".join("M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in piece) for piece in pieces)
        closed = "" if mark.shape == "cross" else "Z"
        return f'<path class="{mark.paint}" d="{path}{closed}">{title}</path>'
    return (
        f'<rect class="{mark.paint}" x="{_n(mark.x)}" y="{_n(mark.y)}" width="{_n(mark.width)}" '
        f'height="{_n(mark.height)}">{title}</rect>'
    )


def shape(dot: Dot) -> list[list[tuple[float, float]]]:
    """Corners of a mark that is no circle, piece by piece."""
    x, y, r = dot.x, dot.y, dot.r
    if dot.shape == "cross":
        return [[(x - r, y - r), (x + r, y + r)], [(x - r, y + r), (x + r, y - r)]]
    if dot.shape == "diamond":
        return [[(x, y - r), (x + r, y), (x, y + r), (x - r, y)]]
    if dot.shape == "square":
        return [[(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]]
    radii = [r if i % 2 == 0 else 0.45 * r for i in range(10)]
    angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
    return [[(x + s * math.cos(a), y + s * math.sin(a)) for s, a in zip(radii, angles, strict=True)]]


def _n(number: float) -> str:
    assert math.isfinite(number), "a mark has no place"
    return f"{number:.1f}".removesuffix(".0")


def _printable(text: str) -> str:
    """Without characters that XML has no place for."""
    return "".join(c if c >= " " else " " for c in text.encode("utf-8", "replace").decode())
