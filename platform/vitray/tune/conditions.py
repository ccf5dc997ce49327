"""Conditions of a search space: a key that is searched only where another key has certain values.

``{log: [1e-4, 1e-2], when: model.pos_encoding == relative}``. Where the condition does not hold, the key keeps the
config's value and is no part of the point, so that two points never differ in something that has no meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.overrides import parse_value
from vitray.tune.dimensions import Choice, Dimension
from vitray.tune.keys import Point, check_key, coerced, value_at

_FORM = re.compile(r"\s*([\w.]+)\s*(==|!=|\bin\b)\s*(.*?)\s*", re.DOTALL)
_REMEDY = (
    "write KEY == VALUE, KEY != VALUE or KEY in [VALUE, ...], for example model.pos_encoding == relative; "
    "within braces in quotes, as {values: [0, 4], when: 'KEY in [A, B]'}"
)


@dataclass(frozen=True)
class Condition:
    """Holds where ``key`` has one of ``values``, or (``negated``) none of them."""

    key: str
    values: tuple[Any, ...]
    negated: bool = False

    def holds(self, value: Any) -> bool:
        return (value in self.values) != self.negated


@dataclass(frozen=True)
class Conditions:
    """The conditions of a space by the key that has one; ``defaults``: what the config holds at the keys they name."""

    by_key: Mapping[str, Condition]
    defaults: Point

    def active(self, name: str, point: Point) -> bool:
        """Whether a key is part of a point that has the keys before it in :func:`in_order`."""
        condition = self.by_key.get(name)
        return condition is None or condition.holds(point.get(condition.key, self.defaults[condition.key]))

    @property
    def deciding(self) -> frozenset[str]:
        """Keys that conditions name."""
        return frozenset(condition.key for condition in self.by_key.values())


def parse_condition(name: str, text: Any) -> Condition:
    """The condition written in the ``when`` of a key.

    Raises:
        ConfigError: it is malformed, names no config key, or a value that the key cannot have.
    """
    where = f"search.space.{name}.when"
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None or not found[3]:
        raise ConfigError(f"is not a condition: {text!r}", where=where, remedy=_REMEDY)
    key, relation, written = found.groups()
    check_key(key, where=where, sections=tuple(s for s in Experiment.model_fields if s not in ("name", "search")))
    try:
        value = parse_value(written)
        if relation == "in" and not (isinstance(value, list) and value):
            raise ConfigError(f"is not a condition: {text!r}", where=where, remedy=_REMEDY)
        values = tuple(coerced(key, v) for v in (value if relation == "in" else [value]))
    except ConfigError as error:
        raise ConfigError(error.what, where=where, remedy=_REMEDY) from None
    except ValueError as error:
        raise ConfigError(f"{key} {error}", where=where, remedy="compare it with a value that it can have") from None
    return Condition(key, values, negated=relation == "!=")


def settle(
    experiment: Experiment, dimensions: Mapping[str, Dimension], conditions: Mapping[str, Condition]
) -> tuple[dict[str, Dimension], Conditions]:
    """The dimensions that are part of some point, with what decides between points; the config decides the rest.

    Raises:
        ConfigError: a condition names a range, or keys wait for each other.
    """
    for name, condition in conditions.items():
        if condition.key in dimensions and not isinstance(dimensions[condition.key], Choice):
            raise ConfigError(
                f"names {condition.key}, which is searched as a range",
                where=f"search.space.{name}.when",
                remedy=f"list the values of {condition.key}, or write them as quant",
            )
    kept, deciding = dict(dimensions), dict(conditions)
    for name in in_order(dimensions, conditions):
        decides = deciding.get(name)
        if decides is not None and decides.key not in kept:
            del deciding[name]
            if not decides.holds(value_at(experiment, decides.key)):
                del kept[name]
        elif decides is not None:
            values = kept[decides.key].values if isinstance(kept[decides.key], Choice) else ()  # type: ignore[union-attr]
            if not any(decides.holds(value) for value in (*values, value_at(experiment, decides.key))):
                raise ConfigError(
                    f"never holds: {decides.key} is only searched over {', '.join(map(str, values))}",
                    where=f"search.space.{name}.when",
                    remedy=f"list the value under {decides.key}, or leave {name} out",
                )
    defaults = {c.key: value_at(experiment, c.key) for c in deciding.values()}
    return kept, Conditions(deciding, defaults)


def in_order(dimensions: Mapping[str, Dimension], conditions: Mapping[str, Condition]) -> list[str]:
    """Searched keys, each after the one that its condition names; else as they are written.

    Raises:
        ConfigError: keys wait for each other.
    """
    placed: dict[str, None] = {}
    for name in dimensions:
        chain = [name]
        while (condition := conditions.get(chain[-1])) and condition.key in dimensions and condition.key not in placed:
            if condition.key in chain:
                circle = " -> ".join([*chain[chain.index(condition.key) :], condition.key])
                raise ConfigError(
                    f"waits for itself: {circle}",
                    where=f"search.space.{name}.when",
                    remedy="let one of these keys be searched without a condition",
                )
            chain.append(condition.key)
        placed |= dict.fromkeys(reversed(chain))
    return list(placed)
