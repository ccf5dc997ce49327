"""Dimensions of a search space: what a person writes for a key, and how values are drawn from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np

from vitray.errors import ConfigError
from vitray.experiment import FETCHED, KEPT
from vitray.tune.keys import check_key, coerced

_MOST_VALUES = 20_000
_LARGEST = 1e300  # below which a float's product with a factor is one
_REMEDY = (
    "write a list of values, {int: [low, high, step]}, {quant: [low, high, step]}, {uniform: [low, high]} "
    "or {log: [low, high]}"
)
_DECIDED = {
    "data.path": "make a sweep for each dataset",
    "data.image_size": "search model.image_size instead",
    "model.in_chans": "the data decide it",
    "model.num_classes": "the data decide it",
    **dict.fromkeys(
        (*(f"data.{key}" for key in FETCHED), *(f"train.{key}" for key in KEPT)),
        "it changes no result; set it for all trials",
    ),
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

    @cached_property
    def numeric(self) -> bool:
        """Whether the values have an order and a distance."""
        return all(_is_number(value) for value in self.values)

    @cached_property
    def ordered(self) -> tuple[Any, ...]:
        """Numbers in rising order; other values as they are written."""
        return tuple(sorted(self.values)) if self.numeric else self.values

    @cached_property
    def places(self) -> Mapping[Any, int]:
        """Where each value is in :attr:`ordered`."""
        return {value: place for place, value in enumerate(self.ordered)}

    def holds(self, value: Any) -> bool:
        return value in self.places

    def spread(self, count: int, generator: np.random.Generator) -> list[Any]:
        """``count`` values in random order: each as often as any other (but for one), or in even steps."""
        n = len(self.values)
        if count < n:
            chosen = ((np.arange(count) + generator.random()) * n / count).astype(int) % n
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

    def holds(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def spread(self, count: int, generator: np.random.Generator) -> list[float]:
        """``count`` values in random order, one in each ``count``-th of the range."""
        return [self.at(u) for u in generator.permutation((np.arange(count) + generator.random(count)) / count)]

    def at(self, u: float) -> float:
        if self.log:
            return float(self.low * (self.high / self.low) ** u)
        return float(self.low + (self.high - self.low) * u)


Dimension = Choice | Range


def parse_dimension(name: str, raw: Any) -> Dimension:
    """The dimension written for a config key. Values are those that the config makes of them, each once.

    Raises:
        ConfigError: an unknown key, one that cannot be searched, or nothing that is a dimension.
    """
    where = f"search.space.{name}"
    check_key(name, where="search.space")
    if name in _DECIDED:
        raise ConfigError("is the same for every trial", where=where, remedy=_DECIDED[name])
    if isinstance(raw, dict) and list(raw) == ["values"]:
        raw = raw["values"]
    if isinstance(raw, list):
        if not raw:
            raise ConfigError("lists no value", where=where, remedy="give at least one")
        values = [tuple(v) if isinstance(v, list) else v for v in raw]
        if all(map(_hashable, values)):  # a mapping is no value
            return Choice(_distinct(name, values))
    if isinstance(raw, dict) and len(raw) == 1:
        kind, bounds = next(iter(raw.items()))
        if isinstance(kind, str) and kind in _KINDS and isinstance(bounds, list) and all(map(_is_number, bounds)):
            _check_bounds(where, kind, raw, bounds)
            dimension = _KINDS[kind](where, *bounds) if len(bounds) in (2, 3) else None
            if dimension is not None:
                return Choice(_distinct(name, dimension.values)) if isinstance(dimension, Choice) else dimension
    # What a comma cuts off a text within braces is a key without a value.
    cut = isinstance(raw, dict) and None in raw.values()
    remedy = "put quotes around a condition that has commas: when: 'KEY in [A, B]'" if cut else _REMEDY
    raise ConfigError(f"is not a dimension: {raw!r}", where=where, remedy=remedy)


def _check_bounds(where: str, kind: str, raw: Any, bounds: list[float]) -> None:
    what = None
    if not all(abs(b) < _LARGEST for b in bounds):
        what = f"has a bound that is not finite: {str(raw)[:60]}"
    elif len(bounds) > 1 and bounds[0] > bounds[1]:
        what = f"has its bounds the wrong way round: {raw!r}"
    elif kind == "log" and bounds and bounds[0] < 1 / _LARGEST:
        what = f"has no logarithm at {bounds[0]}"
    if what is not None:
        low = "low above 0 and" if kind == "log" else "low"
        raise ConfigError(what, where=where, remedy=f"write {{{kind}: [low, high]}} with {low} below high")


def _int(where: str, low: float, high: float, step: float = 1) -> Choice | None:
    if not all(isinstance(b, int) for b in (low, high, step)) or low > high or step <= 0:
        return None
    return Choice(tuple(range(int(low), int(high) + 1, int(step)))) if _few((high - low) // step + 1, where) else None


def _quant(where: str, low: float, high: float, step: float | None = None) -> Choice | None:
    if step is None or not all(map(math.isfinite, (low, high, step))) or low > high or step <= 0:
        return None
    _few((high - low) / step, where)  # before it is counted exactly, which has no end for the smallest steps
    # In decimals as they were written: 0.1 + 2 * 0.1 is 0.3, and the grid ends where it is said to.
    first, last, width = (Decimal(str(b)) for b in (low, high, step))
    count = (last - first) // width + 1
    return Choice(tuple(float(first + i * width) for i in range(int(count)))) if _few(count, where) else None


def _uniform(where: str, low: float, high: float, step: float | None = None) -> Range | None:
    return Range(float(low), float(high)) if low < high and step is None else None


def _log(where: str, low: float, high: float, step: float | None = None) -> Range | None:
    return Range(float(low), float(high), log=True) if 0 < low < high and step is None else None


_KINDS: dict[str, Callable[..., Dimension | None]] = {"int": _int, "quant": _quant, "uniform": _uniform, "log": _log}


def _few(count: float | Decimal, where: str) -> bool:
    if count > _MOST_VALUES:
        raise ConfigError(f"has {count:,.0f} values", where=where, remedy="take larger steps")
    return True


def _distinct(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """Values as the config holds them, each once.

    Raises:
        ConfigError: one that the key does not take, whatever the other keys are.
    """
    try:
        return tuple(dict.fromkeys(coerced(name, value) for value in values))
    except ValueError as error:
        raise ConfigError(str(error), where=f"search.space.{name}") from None


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
