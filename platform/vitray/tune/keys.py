"""Config keys as a search uses them: what values a key takes, what it holds, and a config with others in place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vitray.config_base import Section, section_at
from vitray.errors import ConfigError, nearest
from vitray.experiment import Experiment

Point = Mapping[str, Any]
_SEARCHED = ("model", "data", "train", "optim")


def check_key(name: str, *, where: str, sections: tuple[str, ...] = _SEARCHED) -> None:
    """Refuse a dotted name that is no key of these sections.

    Raises:
        ConfigError: with the nearest names.
    """
    section, _, field = name.rpartition(".")
    owner = section_at(Experiment, tuple(section.split(".")))
    if section.split(".")[0] not in sections or owner is None or field not in owner.model_fields:
        known = [f"{s}.{f}" for s in sections for f in _fields(s)]
        raise ConfigError(f"unknown key {name!r}", where=where, remedy=nearest(name, known))


def coerced(name: str, value: Any) -> Any:
    """A value as the config would hold it: ``"64"`` and ``64.0`` are 64 to a whole number, a list is a tuple.

    Raises:
        ValueError: the key takes no such value, whatever the others are.
    """
    try:
        taken = _adapter(name).validate_python(value)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"{said[0].lower()}{said[1:]}, got {value!r}") from None
    if isinstance(value, bool) and not isinstance(taken, bool):
        raise ValueError(f"should not be {str(value).lower()}")  # as every section of a config has it
    return taken


def value_at(experiment: Experiment, name: str) -> Any:
    """What a config holds at a dotted key; None below a section that is not set."""
    value: Any = experiment
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def changed(experiment: Experiment, values: Point) -> Experiment:
    """As :meth:`Experiment.with_values`, but several times faster: only the sections of these keys are built anew.

    Raises:
        ConfigError: a value that its section refuses, or sections that no longer fit each other.
    """
    if not values:
        return experiment
    built = _built(experiment, {tuple(name.split(".")): value for name, value in values.items()})
    assert isinstance(built, Experiment)
    return built


def _built(section: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    fields = dict(vars(section)) if isinstance(section, Section) else {}
    below: dict[str, dict[tuple[str, ...], Any]] = {}
    for (head, *rest), value in values.items():
        if rest:
            below.setdefault(head, {})[tuple(rest)] = value
        else:
            fields[head] = value
    for head, inner in below.items():
        fields[head] = _built(fields.get(head), inner)
    return type(section)(**fields) if isinstance(section, Section) else fields  # its owner knows what to make of it


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    section, _, field = name.rpartition(".")
    owner = section_at(Experiment, tuple(section.split(".")))
    assert owner is not None, "check_key comes first"
    info = owner.model_fields[field]
    kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    if isinstance(kind, type) and issubclass(kind, Section):
        return TypeAdapter(kind)
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def _fields(section: str) -> list[str]:
    owner = section_at(Experiment, (section,))
    return list(owner.model_fields) if owner else []
