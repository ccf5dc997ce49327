"""Dimensions of a search space: what a person writes for a key, and how values are drawn from it."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitray.config_base import section_at
from vitray.errors import ConfigError, nearest
from vitray.experiment import Experiment

_MOST_VALUES = 20_000
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


def parse_dimension(name: str, raw: Any) -> Dimension:
    """The dimension written for a config key.

    Raises:
        ConfigError: an unknown key, one that cannot be searched, or nothing that is a dimension.
    """
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
                if len(values) > _MOST_VALUES:
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
