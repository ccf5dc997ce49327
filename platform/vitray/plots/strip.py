"""How trials scored at each value of one searched key."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitray.plots.drawing import Dot, Drawing, Line, Mark, Text, clipped, drawing, text_width
from vitray.plots.scales import frame, scale_for

_OFFSETS = (0, 1, -1, 2, -2, 3, -3, 4, -4)


@dataclass(frozen=True)
class Scored:
    """A trial's value of the key, its score, and what its tooltip says."""

    value: Any
    score: float
    title: str
    winner: bool = False


def strip(
    trials: Sequence[Scored],
    *,
    key: str,
    score: str,
    values: Sequence[Any] | None,
    log: bool = False,
    width: float = 430,
    height: float = 250,
) -> Drawing:
    """Score over the key's value, a dot a trial; a bar marks each value's median.

    Args:
        values: of a key that is a choice, in their order; None for one that is a range.
        log: the range is drawn by its logarithm.
    """
    y = scale_for([t.score for t in trials], height - 50, 14)
    marks: list[Mark]
    if values is None:
        x = scale_for([float(t.value) for t in trials], 62, width - 14, log=log)
        marks = frame(x, y, key, score)
        places = [x(float(t.value)) for t in trials]
    else:
        empty = scale_for((), 62, width - 14)
        slot = (empty.end - empty.start) / max(1, len(values))
        centres = {value: empty.start + (i + 0.5) * slot for i, value in enumerate(values)}
        two_lines = any(text_width(str(v), 11) > slot for v in values)
        if two_lines:
            y = scale_for([t.score for t in trials], height - 62, 14)
        marks = [m for m in frame(empty, y, "", score) if not _of_x(m, y.start)]
        marks.append(Text((empty.start + empty.end) / 2, height - 12, key, "label", "middle"))
        for i, (value, centre) in enumerate(centres.items()):
            label = clipped(str(value), 2 * slot if two_lines else slot, 11)
            drop = 14 if two_lines and i % 2 else 0
            marks.append(Text(centre, y.start + 17 + drop, label, "tick", "middle"))
            scores = [t.score for t in trials if t.value == value]
            if len(scores) > 1:
                at, half = y(statistics.median(scores)), min(22.0, slot * 0.36)
                says = f"{value}: median {statistics.median(scores):.4g} of {len(scores)} trials"
                marks.append(Line(((centre - half, at), (centre + half, at)), "median", says))
        places = _apart(trials, centres, y)
    for trial, place in sorted(zip(trials, places, strict=True), key=lambda pair: pair[0].winner):
        paint, r = ("winner", 8.0) if trial.winner else ("done", 4.0)
        marks.append(Dot(place, y(trial.score), r, paint, trial.title, "star" if trial.winner else "circle"))
    return drawing(width, height, f"{score} by {key} of {len(trials)} trials", marks)


def _of_x(mark: Mark, base: float) -> bool:
    """Whether a mark of the frame belongs to the numbers of its x axis."""
    if isinstance(mark, Line):
        return mark.points[0][0] == mark.points[1][0]
    return isinstance(mark, Text) and not mark.upright and mark.y == base + 18


def _apart(trials: Sequence[Scored], centres: dict[Any, float], y: object) -> list[float]:
    """Centres, moved aside where dots would lie on each other."""
    assert callable(y)
    taken: dict[Any, list[tuple[float, float]]] = {}
    places = []
    for trial in trials:
        centre, at = centres[trial.value], y(trial.score)
        others = taken.setdefault(trial.value, [])
        free = [o for o in _OFFSETS if all(abs(centre + 7 * o - px) > 6 or abs(at - py) > 6 for px, py in others)]
        place = centre + 7 * (free[0] if free else 0)
        others.append((place, at))
        places.append(place)
    return places
