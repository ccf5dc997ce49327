"""Charts of a row a thing: importances, differences between values, and where time went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitray.plots.drawing import Box, Dot, Drawing, Line, Mark, Text, clipped, drawing, legend, stacked, text_width
from vitray.plots.scales import Scale, scale_for, tick_labels

_NARROW = 560  # below this a row's name stands above its bar


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (NaN where it has none), and a word on what it rests on."""

    label: str
    value: float
    low: float
    high: float
    note: str
    title: str
    hollow: bool = False
    strong: bool = False
    brief: str | None = None  # the note where there is less room


@dataclass(frozen=True)
class Stack:
    """A row of parts that add up, each in units of the axis, with its tooltip."""

    label: str
    parts: Sequence[float]
    titles: Sequence[str]
    note: str = ""


def importance_bars(rows: Sequence[Estimate], *, label: str, width: float = 880) -> Drawing:
    """A bar a row from zero, with its interval."""
    says = f"{label}: " + "; ".join(r.title for r in rows)
    layout = _Layout(rows, width, zero=True)
    marks = layout.axis(label)
    for row, y in zip(rows, layout.ys, strict=True):
        at = layout.x(max(0.0, row.value))
        marks.append(Box(layout.x(0), y - 8, max(1.0, at - layout.x(0)), 16, "bar", row.title))
        marks += [*layout.whisker(row, y), *layout.names(row, y)]
    return drawing(width, layout.height, says, marks)


def differences(rows: Sequence[Estimate], *, label: str, width: float = 880) -> Drawing:
    """A dot a row with its interval, around the line at zero; hollow dots are adjusted, full ones matched pairs."""
    says = f"{label}: " + "; ".join(r.title for r in rows)
    layout = _Layout(rows, width, zero=False)
    marks = layout.axis(label)
    for row, y in zip(rows, layout.ys, strict=True):
        marks += [*layout.whisker(row, y), *layout.names(row, y)]
        if math.isfinite(row.value):
            paint = "adjusted" if row.hollow else "estimate"
            marks.append(Dot(layout.x(row.value), y, 5.5, paint, row.title))
    return drawing(width, layout.height, says, marks)


def stacks(rows: Sequence[Stack], *, parts: Sequence[str], label: str, bar: float = 18, width: float = 880) -> Drawing:
    """A bar a row of up to six parts, below their names."""
    narrow = width < _NARROW
    left = 10.0 if narrow else min(230.0, 20 + max((text_width(r.label) for r in rows), default=0))
    notes = 0.0 if narrow else 14 + max((text_width(r.note) for r in rows), default=0)
    pitch = bar + (26 if narrow else 8)
    x = Scale(0, max((sum(r.parts) for r in rows), default=0) * 1.01 or 1.0, left, width - 10 - notes)
    height = 12 + pitch * len(rows) + 44
    marks: list[Mark] = _ticks(x, 8, height - 44, label)
    for i, row in enumerate(rows):
        top = 12 + i * pitch + (20 if narrow else 0)
        if narrow:
            marks.append(Text(left, top - 5, clipped(row.label, width - 120), "text"))
            marks.append(Text(width - 10, top - 5, row.note, "tick", "end"))
        else:
            marks.append(Text(left - 8, top + bar / 2 + 4, clipped(row.label, left - 10), "text", "end"))
            marks.append(Text(x(sum(row.parts)) + 8, top + bar / 2 + 4, row.note, "tick"))
        done = 0.0
        for part, (value, title) in enumerate(zip(row.parts, row.titles, strict=True)):
            if value > 0:
                # Half a pixel of paper between neighbours, where there is room for it.
                wide = x(done + value) - x(done)
                marks.append(Box(x(done), top, max(0.4, wide - (1 if wide > 3 else 0)), bar, f"part{part}", title))
                done += value
    says = f"{label}: " + "; ".join(f"{r.label} {r.note}" for r in rows)
    key = [(Dot(0, 0, 6.5, f"part{i}", None, "square"), name) for i, name in enumerate(parts)]
    return stacked(legend(key, width), drawing(width, height, says, marks))


class _Layout:
    """Places of rows with an estimate each: names to the left (above, where it is narrow), notes to the right."""

    def __init__(self, rows: Sequence[Estimate], width: float, *, zero: bool) -> None:
        self._narrow, self._width = width < _NARROW, width
        self._left = 12.0 if self._narrow else 20 + min(260.0, max((text_width(r.label) for r in rows), default=0))
        notes = 0.0 if self._narrow else 14 + max((text_width(r.note, 11) for r in rows), default=0)
        ends = [v for r in rows for v in (r.value, r.low, r.high) if math.isfinite(v)]
        self.x = scale_for(ends, self._left, width - 12 - notes, include=(0.0,))
        if zero and min(ends, default=0.0) >= 0:
            self.x = Scale(0, self.x.high, self.x.start, self.x.end)
        pitch = 46.0 if self._narrow else 28.0
        first = 34.0 if self._narrow else 22.0
        self.ys = [first + i * pitch for i in range(len(rows))]
        self.height = first + pitch * (len(rows) - 1) + 16 + 44

    def axis(self, label: str) -> list[Mark]:
        base = self.height - 44
        marks = _ticks(self.x, 6, base, label)
        if self.x.low <= 0:
            marks.append(Line(((self.x(0), 6), (self.x(0), base)), "zero"))
        return marks

    def whisker(self, row: Estimate, y: float) -> list[Mark]:
        if not (math.isfinite(row.low) and math.isfinite(row.high)):
            return []
        a, b = self.x(row.low), self.x(row.high)
        ends = [Line(((e, y - 4), (e, y + 4)), "whisker") for e in (a, b)]
        return [Line(((a, y), (b, y)), "whisker", row.title), *ends]

    def names(self, row: Estimate, y: float) -> list[Mark]:
        paint = "strong" if row.strong else "text"
        if self._narrow:
            note = row.brief or row.note
            label = clipped(row.label, self._width - 36 - text_width(note, 11))
            return [Text(12, y - 14, label, paint), Text(self._width - 12, y - 14, note, "tick", "end")]
        return [
            Text(self._left - 10, y + 4, clipped(row.label, self._left - 12), paint, "end"),
            Text(self.x.end + 12, y + 4, row.note, "tick"),
        ]


def _ticks(x: Scale, top: float, base: float, label: str) -> list[Mark]:
    ticks = x.ticks(max(3, int((x.end - x.start) / 64)))
    marks: list[Mark] = [Line(((x.start, base), (x.end, base)), "axis")]
    for value, said in zip(ticks, tick_labels(ticks), strict=True):
        at = x(value)
        edge = max(text_width(said, 11) / 2, at) if at < 20 else at
        marks += [Line(((at, top), (at, base)), "grid"), Text(edge, base + 16, said, "tick", "middle")]
    marks.append(Text((x.start + x.end) / 2, base + 36, label, "label", "middle"))
    return marks
