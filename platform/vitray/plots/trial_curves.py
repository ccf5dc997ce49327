"""Learning curves of all trials of a sweep, with the rungs at which a scheduler looked and where it stopped whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitray.plots.drawing import Dot, Drawing, Line, Mark, Text, drawing, text_width
from vitray.plots.scales import frame, scale_for

_MANY = 50  # lines, above which each is drawn fainter


@dataclass(frozen=True)
class Curve:
    """A trial's (epoch, score) in order. ``stopped``: by its scheduler; ``changed``: epochs of PBT's exploits."""

    points: Sequence[tuple[float, float]]
    title: str
    stopped: bool = False
    winner: bool = False
    changed: Sequence[float] = ()


@dataclass(frozen=True)
class Rung:
    """An epoch at which trials were compared, and how many of them got to it and beyond it."""

    epoch: int
    reached: int
    passed: int


def trial_curves(
    curves: Sequence[Curve],
    rungs: Sequence[Rung],
    *,
    score: str,
    higher: bool,
    worst: float | None = None,
    best: str = "winner",
    width: float = 880,
    height: float = 380,
) -> Drawing:
    """A line a trial, the winner's in front; a cross where one was stopped.

    Args:
        score: name of the axis.
        best: what the winner is called.
        worst: scores beyond it are cut off, so that one diverged trial does not press all others flat.
    """
    kept = [(c, [(e, _within(v, worst, higher)) for e, v in c.points]) for c in curves if c.points]
    x = scale_for([e for _, points in kept for e, _ in points], 62, width - 18, include=(0,))
    x = type(x)(0, max(x.high / 1.06 * 1.01, 1), x.start, x.end)
    y = scale_for([v for _, points in kept for _, v in points], height - 50, 34 if rungs else 16)
    marks: list[Mark] = frame(x, y, "epoch", score)
    right = 0.0
    for rung in rungs:
        at = x(rung.epoch)
        marks.append(Line(((at, y.start), (at, y.end)), "rung"))
        label = f"{rung.passed} of {rung.reached} go on"
        half = text_width(label, 11) / 2
        place = min(max(at, x.start + half), x.end - half)
        if place - half > right:
            marks.append(Text(place, y.end - 10, label, "tick", "middle"))
            right = place + half + 8
    ordinary = "line" if len(kept) <= _MANY else "line-many"
    for curve, points in sorted(kept, key=lambda pair: pair[0].winner):
        places = [(x(e), y(v)) for e, v in points]
        if len(places) > 1:
            marks.append(Line(tuple(places), "line-winner" if curve.winner else ordinary, curve.title))
        else:
            marks.append(Dot(*places[0], 3, "winner" if curve.winner else "done", curve.title))
        if curve.stopped:
            marks.append(Dot(*places[-1], 3.5, "stop", f"stopped: {curve.title}", "cross"))
        by_epoch = dict(zip((e for e, _ in points), places, strict=True))
        marks += [
            Dot(*by_epoch[e], 4.5, "change", f"took over another trial's weights: {curve.title}", "diamond")
            for e in curve.changed
            if e in by_epoch
        ]
        if curve.winner:
            marks.append(Dot(*places[-1], 4.5, "winner", curve.title))
            marks.append(Text(places[-1][0] - 6, max(places[-1][1] - 9, y.end + 10), best, "strong-accent", "end"))
    says = f"{score} by epoch of {len(kept)} trials, {sum(c.stopped for c, _ in kept)} of them stopped early"
    for rung in rungs:
        says += f"; after epoch {rung.epoch} {rung.passed} of {rung.reached} went on"
    return drawing(width, height, says, marks)


def _within(value: float, worst: float | None, higher: bool) -> float:
    if worst is None:
        return value
    return max(value, worst) if higher else min(value, worst)
