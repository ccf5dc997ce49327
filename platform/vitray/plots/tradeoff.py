"""What a score costs: trials over parameters, operations or time, with the front that no trial beats on both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitray.plots.drawing import Dot, Drawing, Line, Mark, Text, drawing, legend, text_width
from vitray.plots.scales import frame, scale_for


@dataclass(frozen=True)
class Priced:
    """A trial with its cost and score. ``full``: trained to the end; ``title``: what its tooltip says."""

    cost: float
    score: float
    title: str
    full: bool = True
    on_front: bool = False
    winner: bool = False


def tradeoff(
    trials: Sequence[Priced],
    *,
    cost: str,
    score: str,
    higher: bool,
    best: str = "winner",
    width: float = 430,
    height: float = 330,
) -> Drawing:
    """Score over cost (logarithmic), a dot a trial; the front as steps, the winner as a star.

    Args:
        cost, score: names of the axes, with units.
        higher: a higher score is better.
        best: what the star is called.
    """
    x = scale_for([t.cost for t in trials], 62, width - 14, log=True)
    y = scale_for([t.score for t in trials], height - 50, 16)
    marks: list[Mark] = frame(x, y, cost, score)
    front = sorted((t for t in trials if t.on_front), key=lambda t: t.cost)
    if front:
        steps = [(x(front[0].cost), y.start if higher else y.end)]
        for trial in front:
            steps += [(x(trial.cost), steps[-1][1]), (x(trial.cost), y(trial.score))]
        steps.append((x.end, steps[-1][1]))
        marks.append(Line(tuple(steps[1:]), "front"))
    for trial in sorted(trials, key=lambda t: (t.winner, t.on_front, t.full)):
        at = x(trial.cost), y(trial.score)
        if trial.winner:
            marks.append(Dot(*at, 10, "winner", trial.title, "star"))
            left = at[0] > x.end - text_width(best) - 14
            marks.append(
                Text(at[0] + (-12 if left else 12), at[1] - 9, best, "strong-accent", "end" if left else "start")
            )
        else:
            paint = ("on-front" if trial.on_front else "done") if trial.full else "stopped"
            paint = "on-front-stopped" if trial.on_front and not trial.full else paint
            marks.append(Dot(*at, 5 if trial.on_front else 4, paint, trial.title))
    star = next((t for t in trials if t.winner), None)
    says = f"{score} over {cost} of {len(trials)} trials, {len(front)} of them on the front"
    return drawing(width, height, f"{says}; {best}: {star.title}" if star else says, marks)


def tradeoff_legend(best: str = "winner", width: float = 430) -> Drawing:
    """What the marks of :func:`tradeoff` mean."""
    entries = [
        (Dot(0, 0, 8, "winner", None, "star"), best),
        (Dot(0, 0, 5, "on-front"), "on the front"),
        (Dot(0, 0, 4, "done"), "full length"),
        (Dot(0, 0, 4, "stopped"), "stopped early"),
    ]
    return legend(entries, width)
