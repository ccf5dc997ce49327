"""The space of a sweep, checked before anything starts: only valid points are ever scheduled, and none twice.

A list is a choice; ``{int: [low, high, step]}``, ``{quant: [low, high, step]}``, ``{uniform: [low, high]}`` and
``{log: [low, high]}`` are ranges; with ``when``, a key is searched only where another has certain values. Keys are
dotted config keys. Architecture keys restrict each other (heads must divide the width, a patch the image), and
conditions tie keys together, so the whole product of these is tried out on the config's own validation and on the
limits; other keys are valid or not by themselves.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.model_size import count_parameters, flops
from vitray.search_config import SearchConfig
from vitray.tune.conditions import Conditions, in_order, parse_condition, settle
from vitray.tune.dimensions import Choice, Dimension, Range, parse_dimension
from vitray.tune.keys import Point, changed
from vitray.tune.limits import MEMORY, Limits, Within
from vitray.tune.sampling import another_point, latin_hypercube

Frozen = frozenset[tuple[str, Any]]
_ABSENT = object()
_REGULARIZERS = ("model.dropout", "model.attn_dropout", "model.drop_path")  # no other value depends on them
_MOST_SHAPES = 20_000  # trying them all out takes two to four seconds


@dataclass(frozen=True)
class Architecture:
    """A valid one, by its part of a point, and what it costs; operations are those of training on one image."""

    point: Point
    parameters: int
    training_flops: int


@dataclass(frozen=True)
class Space:
    """Dimensions by config key, and the valid shapes: combinations of architecture values, and of what decides others.

    ``tight``: shapes that only some values of the other keys keep within the limits, with the number of those values.
    ``architectures`` counts all, valid or not; ``cheapest`` and ``dearest`` are so by their operations.
    """

    base: Experiment
    dimensions: Mapping[str, Dimension]
    conditions: Conditions
    limits: Limits
    shapes: tuple[Point, ...]
    refused: Mapping[str, int]
    tight: Mapping[Frozen, int]
    size: float  # points, valid or not; infinite with a range in it
    architectures: int
    cheapest: Architecture
    dearest: Architecture
    beyond: float = 0  # points of valid shapes whose batches are too large for the memory; infinite with a range

    @cached_property
    def free(self) -> Mapping[str, Dimension]:
        """Dimensions that restrict no other."""
        shape_keys = _shape_keys(self.dimensions, self.conditions)
        return {name: d for name, d in self.dimensions.items() if name not in shape_keys}

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Searched keys, each after the one that decides whether it is part of a point."""
        return tuple(in_order(self.dimensions, self.conditions.by_key))

    @cached_property
    def valid_shapes(self) -> frozenset[Frozen]:
        return frozenset(frozen(shape) for shape in self.shapes)

    @cached_property
    def valid_architectures(self) -> int:
        """Architectures of which some shape is valid."""
        return len({frozenset(item for item in shape.items() if item[0].startswith("model.")) for shape in self.shapes})

    @cached_property
    def valid_size(self) -> float:
        """Valid points; infinite with a range in one of them."""
        return sum(self._points_of(shape) for shape in self.shapes)

    def free_of(self, shape: Point) -> Mapping[str, Dimension]:
        """The other dimensions of points that have a shape."""
        return {name: d for name, d in self.free.items() if self.conditions.active(name, shape)}

    def grid(self) -> Iterator[Point]:
        """Every valid point.

        Raises:
            ConfigError: a range has no grid.
        """
        for name, dimension in self.free.items():
            if isinstance(dimension, Range) and any(self.conditions.active(name, shape) for shape in self.shapes):
                raise ConfigError(
                    "is a range, which has no grid",
                    where=f"search.space.{name}",
                    remedy="list its values, or set search.algorithm=random",
                )
        for shape in self.shapes:
            yield from self.points_with(shape)

    def points_with(self, shape: Point) -> Iterator[Point]:
        """Every valid point that has a shape; none where a range is part of it."""
        free = self.free_of(shape)
        if any(isinstance(d, Range) for d in free.values()):
            return
        for values in itertools.product(*(d.values for d in free.values() if isinstance(d, Choice))):
            if self.fits(point := {**shape, **dict(zip(free, values, strict=True))}):
                yield point

    def random(self, count: int, seed: int) -> list[Point]:
        """``count`` different valid points (fewer if there are not that many), spread evenly over every dimension."""
        return latin_hypercube(self, count, seed)

    def another(self, known: Iterable[Point], seed: int) -> Point | None:
        """A random valid point that is none of the known ones; None where there is none left."""
        return another_point(self, known, seed)

    def canonical(self, point: Point) -> Point:
        """A point without the keys that its own values make meaningless."""
        kept: dict[str, Any] = {}
        for name in self.order:
            if name in point and self.conditions.active(name, kept):
                kept[name] = point[name]
        return {name: kept[name] for name in self.dimensions if name in kept}

    def point_in(self, values: Mapping[str, Any]) -> Point | None:
        """The point of this space that config values are, by dotted key and as JSON may hold them; None if none is."""
        kept: dict[str, Any] = {}
        for name in self.order:
            if not self.conditions.active(name, kept):
                continue
            value = hashed(values.get(name, _ABSENT))
            if not self.dimensions[name].holds(value):
                return None
            kept[name] = value
        return self.canonical(kept) if self.holds(kept) else None

    def holds(self, point: Point) -> bool:
        """Whether a canonical point is valid."""
        return frozen(self.shape_of(point)) in self.valid_shapes and self.fits(point)

    def fits(self, point: Point) -> bool:
        """Whether a valid point is within the limits and may fit into the memory that a rank can have."""
        if not self.tight or frozen(self.shape_of(point)) not in self.tight:
            return True
        return self.limits.over(changed(self.base, point)) is None

    def shape_of(self, point: Point) -> Point:
        return {name: value for name, value in point.items() if name not in self.free}

    def _points_of(self, shape: Point) -> float:
        free = self.free_of(shape)
        if self.tight and (fitting := self.tight.get(frozen(shape))) is not None:
            return fitting * math.prod(d.size for name, d in free.items() if name not in MEMORY)
        return math.prod(d.size for d in free.values())


def compile_space(experiment: Experiment, rank_memory: float | None = None) -> Space:
    """Parse and check the space of a resolved experiment; what cannot fit into ``rank_memory`` bytes is not part of it.

    Raises:
        ConfigError: no search section, an unknown key, a malformed dimension or condition, a value that is invalid by
            itself, or no valid combination at all.
    """
    dimensions, conditions = _parse(experiment)
    keys = _shape_keys(dimensions, conditions)
    free = {name: d for name, d in dimensions.items() if name not in keys}
    for name, dimension in free.items():
        # A range is tried at its ends and, for the sake of keys that want whole numbers, in between.
        for value in dimension.values if isinstance(dimension, Choice) else map(dimension.at, (0.0, 0.382, 1.0)):
            _try(experiment, {name: value})
    limits = Limits.of(experiment, rank_memory)
    shapes, tight, refused = [], dict[Frozen, int](), Counter[str]()
    size: float = 0
    beyond: float = 0
    architectures = set[Frozen]()
    costs: list[Architecture] = []
    within = Within(limits)
    for shape in _combinations(dimensions, conditions, keys):
        free_here = {name: d for name, d in free.items() if conditions.active(name, shape)}
        size += math.prod(d.size for d in free_here.values())
        model = {name: value for name, value in shape.items() if name.startswith("model.")}
        architectures.add(frozen(model))
        try:
            made = changed(experiment, shape)
        except ConfigError as error:
            refused[error.what.split(";")[0]] += 1
            continue
        why, fitting = within.of(made, free_here)
        if why is not None:
            refused[why] += 1
            continue
        if fitting is not None:
            tight[frozen(shape)] = fitting
            every = math.prod(d.size for name, d in free_here.items() if name in MEMORY)
            beyond += (every - fitting) * math.prod(d.size for name, d in free_here.items() if name not in MEMORY)
        shapes.append(shape)
        costs.append(Architecture(model, count_parameters(made.model), flops(made.model).training))
    if not shapes:
        reason, _ = refused.most_common(1)[0]
        raise ConfigError(
            f"holds no valid point: {reason}", where="search.space", remedy="change the values so that some fit"
        )
    cheapest, dearest = (pick(costs, key=lambda a: (a.training_flops, a.parameters)) for pick in (min, max))
    valid, count = tuple(shapes), len(architectures)
    return Space(
        experiment, dimensions, conditions, limits, valid, dict(refused), tight, size, count, cheapest, dearest, beyond
    )


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


def frozen(point: Point) -> Frozen:
    return frozenset(point.items())


def hashed(value: Any) -> Any:
    """A value as a point holds it: JSON knows no tuples."""
    return tuple(map(hashed, value)) if isinstance(value, list | tuple) else value


def _parse(experiment: Experiment) -> tuple[dict[str, Dimension], Conditions]:
    dimensions, conditions = {}, {}
    for name, raw in search_of(experiment).space.items():
        written = raw
        if isinstance(raw, dict) and "when" in raw:
            written = {key: value for key, value in raw.items() if key != "when"}
        dimensions[name] = parse_dimension(name, written)
        if written is not raw:
            conditions[name] = parse_condition(name, raw["when"])
    kept, deciding = settle(experiment, dimensions, conditions)
    if not kept:
        raise ConfigError(
            "searches nothing: by the config's own values no condition holds",
            where="search.space",
            remedy="search the keys that the conditions name too, or change their values",
        )
    return kept, deciding


def _shape_keys(dimensions: Mapping[str, Dimension], conditions: Conditions) -> frozenset[str]:
    """Keys whose combinations are tried out. How many blocks are frozen depends on how many there are."""
    architecture = (
        n for n, d in dimensions.items() if isinstance(d, Choice) and n.startswith("model.") and n not in _REGULARIZERS
    )
    return frozenset(architecture) | (conditions.deciding | {"train.freeze"}) & dimensions.keys()


def _combinations(
    dimensions: Mapping[str, Dimension], conditions: Conditions, keys: frozenset[str]
) -> list[dict[str, Any]]:
    """Every combination of the shape's keys once, valid or not."""
    found: list[dict[str, Any]] = [{}]
    choices = {name: d for name, d in dimensions.items() if name in keys and isinstance(d, Choice)}
    for name in (name for name in in_order(dimensions, conditions.by_key) if name in choices):
        values = choices[name].values
        active = [conditions.active(name, shape) for shape in found]
        if sum(len(values) if a else 1 for a in active) > _MOST_SHAPES:
            upto = "up to " if conditions.by_key.keys() & keys else ""
            product = math.prod(len(choice.values) for choice in choices.values())
            raise ConfigError(
                f"has {upto}{product:,} combinations of {', '.join(choices)}, more than {_MOST_SHAPES:,}",
                where="search.space",
                remedy="list fewer of their values, or make two sweeps",
            )
        found = [
            {**shape, name: value} if a else shape
            for shape, a in zip(found, active, strict=True)
            for value in (values if a else values[:1])
        ]
    return [{name: shape[name] for name in choices if name in shape} for shape in found]


def _try(experiment: Experiment, values: Point) -> None:
    try:
        changed(experiment, values)
    except ConfigError as error:
        name = next(iter(values))
        raise ConfigError(error.what, where=f"search.space.{name}", remedy=error.remedy) from None
