"""What a member of a population tries next: the values of a better one, each a little changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from vitray.tune.dimensions import Choice, Dimension
from vitray.tune.keys import Point
from vitray.tune.space import Space

_ANEW = 0.25  # probability of a fresh draw
_FACTORS = (0.8, 1.25)
_DRAWS = 64


def explore(point: Point, space: Space, generator: np.random.Generator) -> Point:
    """A valid point near a valid one, as Jaderberg et al. 2017 perturb it ("Population Based Training").

    A number of a range is multiplied by 0.8 or 1.25 and kept within the range; a listed value gives way to a neighbour,
    of numbers by size and of others as they are written; one in four is drawn anew instead. The point itself where what
    is around it is not valid.
    """
    point = space.point_in(point) or point  # as the space has it: JSON knows no tuples
    for _ in range(_DRAWS):
        found: dict[str, Any] = {}
        for name in space.order:
            if space.conditions.active(name, found):
                dimension = space.dimensions[name]
                found[name] = (
                    dimension.spread(1, generator)[0]
                    if generator.random() < _ANEW or not dimension.holds(point.get(name))
                    else _moved(dimension, point[name], generator)
                )
        made = space.canonical(found)
        if space.holds(made):
            return made
    return point


def _moved(dimension: Dimension, value: Any, generator: np.random.Generator) -> Any:
    if isinstance(dimension, Choice):
        place = dimension.places[value]
        near = [dimension.ordered[p] for p in (place - 1, place + 1) if 0 <= p < len(dimension.ordered)]
        return near[int(generator.integers(len(near)))] if near else value
    moved = value * _FACTORS[int(generator.integers(2))]
    return float(min(max(moved, dimension.low), dimension.high))
