"""Random points of a space, spread as evenly over its dimensions as what is valid allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vitray.data.rng import key as name_key
from vitray.tune.dimensions import Choice
from vitray.tune.keys import Point

if TYPE_CHECKING:
    from vitray.tune.space import Space

_DRAWS = 16
_LAST_DRAWS = 256  # where hardly a part is valid
_MOST_LISTED = 20_000
Item = tuple[str, Any]


def latin_hypercube(space: Space, count: int, seed: int) -> list[Point]:
    """``count`` different valid points (fewer if there are not that many), spread evenly over every dimension.

    A Latin hypercube (McKay, Beckman & Conover 1979): each dimension is cut into as many parts as there are points that
    have it, and every part is used once, so that eight trials over six encodings try all six. A point that is invalid
    or was drawn before makes room for another, first of all for one that has a value which would else not be tried.
    """
    return _Sampler(space, seed).points(int(min(count, space.valid_size)))


def another_point(space: Space, known: Iterable[Point], seed: int) -> Point | None:
    """A random valid point that is none of the known ones; None where there is none left."""
    return _Sampler(space, seed, known).another()


class _Sampler:
    def __init__(self, space: Space, seed: int, known: Iterable[Point] = ()) -> None:
        self._space = space
        self._generator = np.random.Generator(np.random.Philox(key=name_key("space", seed)))
        self._chosen: dict[frozenset[Item], Point] = {frozenset(point.items()): point for point in known}
        self._having: dict[Item, Sequence[Point]] = {}

    def points(self, count: int) -> list[Point]:
        space, chosen = self._space, self._chosen
        for point in self._columns(count):
            if frozenset(space.shape_of(point).items()) in space.valid_shapes and space.fits(point):
                chosen[frozenset(point.items())] = point
        tried = frozenset[Item]().union(*chosen)
        untried = {item: None for item in self._values() if item not in tried}  # a dict, since a set has no order
        while len(chosen) < count:
            fresh = self._fresh(space.shapes, [*untried], _DRAWS)
            if not fresh and untried:  # what is still untried fits into no point that is left
                untried.clear()
                continue
            if not fresh:  # so dense that drawing mostly repeats
                self._rest(count)
                break
            best = max(fresh, key=lambda p: len(untried.keys() & p.items()))
            chosen[frozenset(best.items())] = best
            for item in best.items():
                untried.pop(item, None)
        return list(chosen.values())

    def another(self) -> Point | None:
        if fresh := self._fresh(self._space.shapes, [], _DRAWS):
            return fresh[0]
        known = len(self._chosen)
        self._rest(known + 1)
        return list(self._chosen.values())[known] if len(self._chosen) > known else None

    def _columns(self, count: int) -> list[Point]:
        """The hypercube, valid or not; a key with a condition is spread over the points that it is part of."""
        rows: list[dict[str, Any]] = [{} for _ in range(count)]
        for name in self._space.order:
            having = [row for row in rows if self._space.conditions.active(name, row)]
            if having:
                values = self._space.dimensions[name].spread(len(having), self._generator)
                for row, value in zip(having, values, strict=True):
                    row[name] = value
        return [self._space.canonical(row) for row in rows]

    def _values(self) -> dict[Item, None]:
        """Every choice's (key, value) that is part of a valid point."""
        found: dict[Item, None] = {}
        for name, dimension in self._space.free.items():
            if isinstance(dimension, Choice) and self._shapes_with((name, dimension.values[0])):
                found |= dict.fromkeys((name, value) for value in dimension.values)
        for shape in self._space.shapes:
            found |= dict.fromkeys(shape.items())
        return found

    def _fresh(self, shapes: Sequence[Point], items: Sequence[Item], draws: int) -> list[Point]:
        """Of some random valid points with one of ``items`` (if there are any), those that are not chosen yet."""
        points = (self._with_one_of(shapes, items) for _ in range(draws))
        return [p for p in points if frozenset(p.items()) not in self._chosen and self._space.fits(p)]

    def _with_one_of(self, shapes: Sequence[Point], items: Sequence[Item]) -> Point:
        space, generator = self._space, self._generator
        point: dict[str, Any] = {name: d.spread(1, generator)[0] for name, d in space.dimensions.items()}
        if items:
            name, value = item = items[int(generator.integers(len(items)))]
            point[name] = value
            shapes = self._shapes_with(item)
        shape: Mapping[str, Any] = shapes[int(generator.integers(len(shapes)))]
        free = {name: value for name, value in point.items() if name in space.free}
        return space.canonical({name: (free | dict(shape))[name] for name in point if name in free or name in shape})

    def _shapes_with(self, item: Item) -> Sequence[Point]:
        """The shapes of valid points that have a key with a value."""
        if item not in self._having:
            (name, value), space = item, self._space
            self._having[item] = [
                shape
                for shape in space.shapes
                if (space.conditions.active(name, shape) if name in space.free else (name, value) in shape.items())
            ]
        return self._having[item]

    def _rest(self, count: int) -> None:
        """Fill up from the points that can be listed, in random order, and then from those that are too many for it."""
        space, chosen = self._space, self._chosen
        sizes = [math.prod(d.size for d in space.free_of(shape).values()) for shape in space.shapes]  # fitting or not
        if sum(size for size in sizes if math.isfinite(size)) <= _MOST_LISTED:
            listed = (point for shape in space.shapes for point in space.points_with(shape))
            rest = [point for point in listed if frozenset(point.items()) not in chosen]
            for i in self._generator.permutation(len(rest))[: count - len(chosen)]:
                chosen[frozenset(rest[i].items())] = rest[i]
            endless = [shape for shape, size in zip(space.shapes, sizes, strict=True) if math.isinf(size)]
        else:
            endless = list(space.shapes)
        while endless and len(chosen) < count and (fresh := self._fresh(endless, [], _LAST_DRAWS)):
            chosen[frozenset(fresh[0].items())] = fresh[0]
