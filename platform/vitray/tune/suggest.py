"""A search space as Optuna sees it: places among listed values, and ranges; asked for one key after the other."""

from __future__ import annotations

from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from vitray.tune.dimensions import Choice, Dimension
from vitray.tune.keys import Point
from vitray.tune.space import Space


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """What Optuna draws for each key: the place of a number among the others has neighbours, any other's has none."""
    return {name: _distribution(dimension) for name, dimension in space.dimensions.items()}


def internal(dimension: Dimension, value: Any) -> float:
    """How Optuna's storage holds a value."""
    return float(dimension.places[value]) if isinstance(dimension, Choice) else float(value)


def suggested(space: Space, trial: Trial) -> Point:
    """The point that a trial asks for, valid or not; a key whose condition does not hold is not asked for."""
    point: dict[str, Any] = {}
    for name in space.order:
        if space.conditions.active(name, point):
            point[name] = _suggest(trial, name, space.dimensions[name])
    return space.canonical(point)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if not isinstance(dimension, Choice):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    places = len(dimension.values)
    return IntDistribution(0, places - 1) if dimension.numeric else CategoricalDistribution(range(places))


def _suggest(trial: Trial, name: str, dimension: Dimension) -> Any:
    if not isinstance(dimension, Choice):
        return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    places = len(dimension.values)
    if dimension.numeric:
        return dimension.ordered[trial.suggest_int(name, 0, places - 1)]
    return dimension.ordered[trial.suggest_categorical(name, range(places))]
