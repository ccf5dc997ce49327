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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitray.config_base import section_at
from vitray.data.rng import key as name_key
from vitray.errors import ConfigError, nearest
from vitray.experiment import Experiment, ModelConfig, SearchConfig
from vitray.train.memory import over

Point = Mapping[str, Any]
_DRAWS = 16
_MOST_SHAPES = 20_000  # trying them all out takes under two seconds
_MEMORY_KEYS = ("train.global_batch", "train.accumulate", "train.precision", "train.freeze")
_DECIDED = {
    "data.path": "make a sweep for each dataset",
    "data.image_size": "search model.image_size instead",
    "model.in_chans": "the data decide it",
    "model.num_classes": "the data decide it",
    "train.split": "trials are compared on the val split",
    "train.init_from": "make a sweep for each start",
    "train.init_path": "train.init_from decides it",
    "train.init_sha256": "train.init_from decides it",
}


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    @property
    def size(self) -> float:
        return len(self.values)

    def spread(self, count: int, generator: np.random.Generator) -> list[Any]:
        """``count`` values in random order: each as often as any other (but for one), or one of each ``count``-th."""
        n = len(self.values)
        if count < n:
            chosen = ((np.arange(count) + generator.random(count)) * n / count).astype(int)
        else:
            chosen = generator.permutation(n)[np.arange(count) % n]
        return [self.values[i] for i in generator.permutation(chosen)]


@dataclass(frozen=True)
class Range:
    """A real number between ``low`` and ``high``, evenly or (``log``) evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    @property
    def size(self) -> float:
        return math.inf

    def spread(self, count: int, generator: np.random.Generator) -> list[float]:
        """``count`` values in random order, one in each ``count``-th of the range."""
        return [self.at(u) for u in generator.permutation((np.arange(count) + generator.random(count)) / count)]

    def at(self, u: float) -> float:
        if self.log:
            return float(self.low * (self.high / self.low) ** u)
        return float(self.low + (self.high - self.low) * u)


Dimension = Choice | Range


@dataclass(frozen=True)
class Space:
    """Dimensions by config key, and the combinations of architecture values that are valid."""

    base: Experiment
    dimensions: Mapping[str, Dimension]
    shapes: tuple[Point, ...]
    refused: Mapping[str, int]

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
                yield {**shape, **dict(zip(rest, values, strict=True))}

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
        chosen |= {_frozen(point): point for point in drawn if _frozen(self._shape_of(point)) in valid}
        tried = frozenset[tuple[str, Any]]().union(*chosen)
        untried = {item: None for item in self._values() if item not in tried}  # a dict, since a set has no order
        while len(chosen) < count:
            fresh = [p for _ in range(_DRAWS) if _frozen(p := self._with_one_of([*untried], generator)) not in chosen]
            if not fresh:  # so dense that drawing mostly repeats: the rest comes from the shuffled grid
                rest = [point for point in self.grid() if _frozen(point) not in chosen]
                return [*chosen.values(), *(rest[i] for i in generator.permutation(len(rest))[: count - len(chosen)])]
            best = max(fresh, key=lambda p: len(untried.keys() & p.items()))
            chosen[_frozen(best)] = best
            for item in best.items():
                untried.pop(item, None)
        return list(chosen.values())

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
    dimensions = {name: _dimension(name, raw) for name, raw in search_of(experiment).space.items()}
    shape_keys = [name for name, dimension in dimensions.items() if _is_shape(name, dimension)]
    for name, dimension in dimensions.items():
        if not (name in shape_keys and name.startswith("model.")):
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
    shapes, refused = [], Counter[str]()
    model = experiment.model.model_dump()
    for values in itertools.product(*(c.values for c in choices if isinstance(c, Choice))):
        shape = dict(zip(shape_keys, values, strict=True))
        try:
            trial = {
                "model": ModelConfig(**model | _section_of(shape, "model.")),
                "train": experiment.train.model_copy(update=_section_of(shape, "train.")),
            }
        except ConfigError as error:
            refused[error.what.split(";")[0]] += 1
            continue
        if (why := over(experiment.model_copy(update=trial), rank_memory)) is not None:
            refused[why] += 1
            continue
        shapes.append(shape)
    if not shapes:
        reason, _ = refused.most_common(1)[0]
        raise ConfigError(
            f"holds no valid point: {reason}", where="search.space", remedy="change the values so that some fit"
        )
    return Space(experiment, dimensions, tuple(shapes), dict(refused))


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
    """Whether its values are valid or not in combination: they make the model, or what of it fits into memory."""
    return isinstance(dimension, Choice) and (name.startswith("model.") or name in _MEMORY_KEYS)


def _section_of(shape: Point, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in shape.items() if name.startswith(prefix)}


def _dimension(name: str, raw: Any) -> Dimension:
    where = f"search.space.{name}"
    section, _, field = name.rpartition(".")
    owner = section_at(Experiment, tuple(section.split(".")))
    if section in ("", "search", "cluster", "tracking") or owner is None or field not in owner.model_fields:
        known = [f"{s}.{f}" for s in ("model", "data", "train", "optim") for f in _fields(s)]
        raise ConfigError(f"unknown key {name!r}", where="search.space", remedy=nearest(name, known))
    if name in _DECIDED:
        raise ConfigError("is the same for every trial", where=where, remedy=_DECIDED[name])
    if isinstance(raw, list):
        if not raw:
            raise ConfigError("lists no value", where=where, remedy="give at least one")
        with suppress(TypeError):  # a mapping is no value
            return Choice(tuple(dict.fromkeys(tuple(v) if isinstance(v, list) else v for v in raw)))
    if isinstance(raw, dict) and len(raw) == 1:
        kind, bounds = next(iter(raw.items()))
        numeric = isinstance(bounds, list) and all(isinstance(b, int | float) for b in bounds)
        if kind == "int" and numeric and len(bounds) in (2, 3) and all(isinstance(b, int) for b in bounds):
            low, high, step = (*bounds, 1)[:3]
            if low <= high and step > 0:
                values = range(low, high + 1, step)
                if len(values) > _MOST_SHAPES:
                    raise ConfigError(f"has {len(values):,} values", where=where, remedy="take larger steps")
                return Choice(tuple(values))
        if kind in ("uniform", "log") and numeric and len(bounds) == 2:
            low, high = bounds
            if low < high and (kind == "uniform" or low > 0):
                return Range(float(low), float(high), log=kind == "log")
    raise ConfigError(
        f"is not a dimension: {raw!r}",
        where=where,
        remedy="write a list of values, {int: [low, high, step]}, {uniform: [low, high]} or {log: [low, high]}",
    )


def _fields(section: str) -> list[str]:
    owner = section_at(Experiment, (section,))
    return list(owner.model_fields) if owner else []


def _try(experiment: Experiment, values: Point) -> None:
    try:
        experiment.with_values(dict(values))
    except ConfigError as error:
        name = next(iter(values))
        raise ConfigError(error.what, where=f"search.space.{name}", remedy=error.remedy) from None


def _frozen(point: Point) -> frozenset[tuple[str, Any]]:
    return frozenset(point.items())
