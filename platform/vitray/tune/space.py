"""The space of a sweep, checked before anything starts: only valid points are ever scheduled, and none twice.

A list is a choice; ``{int: [low, high, step]}``, ``{uniform: [low, high]}`` and ``{log: [low, high]}`` are ranges. Keys
are dotted config keys. Architecture keys restrict each other (heads must divide the width, a patch the image), so their
whole product is tried out on the config's own validation, and on the memory that a rank can have; other keys are valid
or not by themselves.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitray.data.rng import key as name_key
from vitray.errors import ConfigError
from vitray.experiment import Experiment, ModelConfig, SearchConfig
from vitray.train.memory import over
from vitray.tune.dimensions import Choice, Dimension, Range, parse_dimension

Point = Mapping[str, Any]
_DRAWS = 16
_MOST_SHAPES = 20_000  # trying them all out takes under two seconds
# Keys beside the architecture that decide what fits into memory, and which of their values take more.
_MEMORY: dict[str, Callable[[Any], float]] = {
    "train.global_batch": float,
    "train.accumulate": lambda value: -float(value),
    "train.precision": lambda value: value == "float32",
    "train.freeze": lambda value: value == "none",
}


@dataclass(frozen=True)
class Space:
    """Dimensions by config key, and the combinations of architecture values that are valid."""

    base: Experiment
    dimensions: Mapping[str, Dimension]
    shapes: tuple[Point, ...]
    refused: Mapping[str, int]
    rank_memory: float | None = None
    tight: frozenset[frozenset[tuple[str, Any]]] = frozenset()  # shapes that fit into it with some values and not all

    @property
    def size(self) -> float:
        """Points, valid or not; infinite with a range in it."""
        return math.prod(d.size for d in self.dimensions.values())

    @property
    def valid_size(self) -> float:
        return len(self.shapes) * math.prod(d.size for k, d in self.dimensions.items() if not _is_shape(k, d))

    def grid(self) -> Iterator[Point]:
        """Every valid point.

        Raises:
            ConfigError: a range has no grid.
        """
        rest = {k: d for k, d in self.dimensions.items() if not _is_shape(k, d)}
        for name, dimension in rest.items():
            if isinstance(dimension, Range):
                raise ConfigError(
                    "is a range, which has no grid",
                    where=f"search.space.{name}",
                    remedy="list its values, or set search.algorithm=random",
                )
        for shape in self.shapes:
            for values in itertools.product(*(d.values for d in rest.values() if isinstance(d, Choice))):
                if self.fits(point := {**shape, **dict(zip(rest, values, strict=True))}):
                    yield point

    def random(self, count: int, seed: int) -> list[Point]:
        """``count`` different valid points (fewer if there are not that many), spread evenly over every dimension.

        A Latin hypercube (McKay, Beckman & Conover 1979): each dimension is cut into ``count`` parts and every part is
        used once, so that eight trials over six encodings try all six. A point that is invalid or was drawn before
        makes room for another, first of all for one that has a value which would else not be tried.
        """
        generator = np.random.Generator(np.random.Philox(key=name_key("space", seed)))
        valid = {_frozen(shape) for shape in self.shapes}
        count = int(min(count, self.valid_size))
        columns = [dimension.spread(count, generator) for dimension in self.dimensions.values()]
        drawn = (dict(zip(self.dimensions, values, strict=True)) for values in zip(*columns, strict=True))
        chosen: dict[frozenset[tuple[str, Any]], Point] = {}
        chosen |= {_frozen(p): p for p in drawn if _frozen(self._shape_of(p)) in valid and self.fits(p)}
        tried = frozenset[tuple[str, Any]]().union(*chosen)
        untried = {item: None for item in self._values() if item not in tried}  # a dict, since a set has no order
        while len(chosen) < count:
            points = (self._with_one_of([*untried], generator) for _ in range(_DRAWS))
            fresh = [p for p in points if _frozen(p) not in chosen and self.fits(p)]
            if not fresh and untried:  # what is still untried fits into no point that is left
                untried.clear()
                continue
            if not fresh:  # so dense that drawing mostly repeats: the rest comes from the shuffled grid
                if any(isinstance(d, Range) for d in self.dimensions.values()):
                    break  # there is none, and hardly a point that fits into memory
                rest = [point for point in self.grid() if _frozen(point) not in chosen]
                return [*chosen.values(), *(rest[i] for i in generator.permutation(len(rest))[: count - len(chosen)])]
            best = max(fresh, key=lambda p: len(untried.keys() & p.items()))
            chosen[_frozen(best)] = best
            for item in best.items():
                untried.pop(item, None)
        return list(chosen.values())

    def fits(self, point: Point) -> bool:
        """Whether a valid point may fit into the memory that a rank can have."""
        if not self.tight or _frozen(self._shape_of(point)) not in self.tight:
            return True
        return over(self.base.with_values(dict(point)), self.rank_memory) is None

    def _values(self) -> dict[tuple[str, Any], None]:
        """Every choice's (key, value) that is part of a valid point."""
        rest = (
            (k, v)
            for k, d in self.dimensions.items()
            if isinstance(d, Choice) and not _is_shape(k, d)
            for v in d.values
        )
        return dict.fromkeys(itertools.chain(rest, *(shape.items() for shape in self.shapes)))

    def _with_one_of(self, items: Sequence[tuple[str, Any]], generator: np.random.Generator) -> Point:
        """A random valid point that has one of the given (key, value), if there are any."""
        point: dict[str, Any] = {name: d.spread(1, generator)[0] for name, d in self.dimensions.items()}
        shapes: Sequence[Point] = self.shapes
        if items:
            name, value = items[int(generator.integers(len(items)))]
            point[name] = value
            shapes = [shape for shape in shapes if shape.get(name, value) == value]
        return point | dict(shapes[int(generator.integers(len(shapes)))])

    def _shape_of(self, point: Point) -> Point:
        return {name: value for name, value in point.items() if _is_shape(name, self.dimensions[name])}


def compile_space(experiment: Experiment, rank_memory: float | None = None) -> Space:
    """Parse and check the space of a resolved experiment; what cannot fit into ``rank_memory`` bytes is not part of it.

    Raises:
        ConfigError: no search section, an unknown key, a malformed dimension, a value that is invalid by itself, or
            no valid combination at all.
    """
    dimensions = {name: parse_dimension(name, raw) for name, raw in search_of(experiment).space.items()}
    shape_keys = [name for name, dimension in dimensions.items() if _is_shape(name, dimension)]
    for name, dimension in dimensions.items():
        if name not in shape_keys:
            # A range is tried at its ends and, for the sake of keys that want whole numbers, in between.
            for value in dimension.values if isinstance(dimension, Choice) else map(dimension.at, (0.0, 0.382, 1.0)):
                _try(experiment, {name: value})
    choices = [dimensions[name] for name in shape_keys]
    combinations = math.prod(c.size for c in choices)
    if combinations > _MOST_SHAPES:
        raise ConfigError(
            f"has {combinations:,.0f} architectures, more than {_MOST_SHAPES:,}",
            where="search.space",
            remedy="list fewer model values",
        )
    shapes, tight, refused = [], set(), Counter[str]()
    cheapest, dearest = (_extreme(experiment, dimensions, pick) for pick in (min, max))
    model = experiment.model.model_dump()
    for values in itertools.product(*(c.values for c in choices if isinstance(c, Choice))):
        shape = dict(zip(shape_keys, values, strict=True))
        try:
            changed = {"model": ModelConfig(**model | {k.removeprefix("model."): v for k, v in shape.items()})}
        except ConfigError as error:
            refused[error.what.split(";")[0]] += 1
            continue
        if (why := over(cheapest.model_copy(update=changed), rank_memory)) is not None:
            refused[why] += 1
            continue
        if over(dearest.model_copy(update=changed), rank_memory) is not None:
            tight.add(_frozen(shape))
        shapes.append(shape)
    if not shapes:
        reason, _ = refused.most_common(1)[0]
        raise ConfigError(
            f"holds no valid point: {reason}", where="search.space", remedy="change the values so that some fit"
        )
    return Space(experiment, dimensions, tuple(shapes), dict(refused), rank_memory, frozenset(tight))


def search_of(experiment: Experiment) -> SearchConfig:
    """The search section.

    Raises:
        ConfigError: there is none, or it names no space.
    """
    if experiment.search is None or not experiment.search.space:
        raise ConfigError("has no space to search", where="search.space", remedy="name config keys and their values")
    return experiment.search


def points_of(experiment: Experiment, space: Space) -> list[Point]:
    """The points that a sweep will run, in order."""
    search = experiment.search
    assert search is not None
    if search.algorithm == "grid":
        return list(itertools.islice(space.grid(), search.trials))
    return space.random(search.trials, search.seed)


def _is_shape(name: str, dimension: Dimension) -> bool:
    return isinstance(dimension, Choice) and name.startswith("model.")


def _extreme(experiment: Experiment, dimensions: Mapping[str, Dimension], pick: Callable[..., Any]) -> Experiment:
    """The experiment with those values of the space that take the least (``min``) or the most (``max``) memory."""
    values = {
        name: pick(dimension.values, key=weight)
        for name, weight in _MEMORY.items()
        if isinstance(dimension := dimensions.get(name), Choice)
    }
    return experiment.with_values(values) if values else experiment


def _try(experiment: Experiment, values: Point) -> None:
    try:
        experiment.with_values(dict(values))
    except ConfigError as error:
        name = next(iter(values))
        raise ConfigError(error.what, where=f"search.space.{name}", remedy=error.remedy) from None


def _frozen(point: Point) -> frozenset[tuple[str, Any]]:
    return frozenset(point.items())
