"""From values to pixels: linear and logarithmic scales with round ticks, and the frame of a chart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vitray.plots.drawing import Line, Mark, Text, text_width


@dataclass(frozen=True)
class Scale:
    """Maps ``low``..``high`` to pixels ``start``..``end``, evenly or (``log``) evenly in the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the scale, at most about so many."""
        if self.log and self.high / self.low >= 3:
            steps = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for chosen in steps:
                found = [s * 10.0**e for e in range(first, last + 1) for s in chosen]
                found = [v for v in found if self.low <= v * (1 + 1e-9) and v <= self.high * (1 + 1e-9)]
                if 2 <= len(found) <= most:
                    return found
            return found[:: max(1, math.ceil(len(found) / most))]
        raw = (self.high - self.low) / max(1, most)
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(s * size for s in (1, 2, 2.5, 5, 10) if s * size >= raw * (1 - 1e-9))
        first_tick = math.ceil(self.low / step - 1e-9)
        return [i * step + 0.0 for i in range(first_tick, math.floor(self.high / step + 1e-9) + 1)]


def scale_for(
    values: Iterable[float], start: float, end: float, *, log: bool = False, include: Sequence[float] = ()
) -> Scale:
    """A scale with some room around all finite values; a single value gets room of its own."""
    found = [v for v in (*values, *include) if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(found), max(found)
    log = log and low > 0
    if log:
        room = max((high / low) ** 0.06, 1.08)
        return Scale(low / room, high * room, start, end, log=True)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, start, end)


def number(value: float, *, digits: int = 3) -> str:
    """Short and without needless zeros: 0.975, 12.5 k, 3.2 M."""
    size = abs(value)
    for unit, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if size >= unit * 0.9995:
            return f"{value / unit:.{digits}g}{name}"
    return f"{value:.{digits}g}"


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """With the decimals that tell neighbours apart."""
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    if not gaps or max(map(abs, ticks)) >= 1000 or min(gaps) < 1e-4 or max(gaps) > 1.01 * min(gaps):
        return [number(t) for t in ticks]
    decimals = next(d for d in range(6) if all(abs(round(t, d) - t) < 1e-7 for t in ticks) or d == 5)
    return [f"{t:.{decimals}f}" for t in ticks]


def frame(x: Scale, y: Scale, x_label: str, y_label: str) -> list[Mark]:
    """Grid, ticks and names of both axes; ``y`` runs upwards."""
    marks: list[Mark] = []
    y_ticks = y.ticks(max(3, int((y.start - y.end) / 36)))
    for value, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        at = y(value)
        marks += [Line(((x.start, at), (x.end, at)), "grid"), Text(x.start - 8, at + 4, label, "tick", "end")]
    x_ticks = x.ticks(max(3, int((x.end - x.start) / 64)))
    labels = tick_labels(x_ticks)
    right = -math.inf
    for value, label in zip(x_ticks, labels, strict=True):
        at, half = x(value), text_width(label, 11) / 2
        marks.append(Line(((at, y.start), (at, y.start + 4)), "axis"))
        if at - half > right:
            marks.append(Text(at, y.start + 18, label, "tick", "middle"))
            right = at + half + 6
    marks.append(Line(((x.start, y.start), (x.end, y.start)), "axis"))
    marks.append(Text((x.start + x.end) / 2, y.start + 38, x_label, "label", "middle"))
    marks.append(Text(x.start - 48, (y.start + y.end) / 2, y_label, "label", "middle", upright=True))
    return marks
