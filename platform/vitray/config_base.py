"""The base of every config section: frozen, no unknown keys, errors a person can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from vitray.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # not a public name, but a public fact

Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
ImageSize = Positive | tuple[Positive, Positive]  # a side, or (height, width)


class _Friendly(ModelMetaclass):
    """Turns pydantic's report of a whole object into one ConfigError, whoever constructs it."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - a metaclass's instance is a class
        try:
            return super().__call__(*args, **kwargs)
        except ValidationError as error:
            raise _explain(error, cls) from None


class Section(BaseModel, metaclass=_Friendly):
    """A frozen group of config keys. Construction raises :class:`ConfigError` (a ``ValueError``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic reads True as 1, and YAML reads `on` as True: `model.depth=on` must not become depth 1.
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and not {bool, Any} & {annotation, *getattr(annotation, "__args__", ())}:
            raise ValueError(f"should not be {str(value).lower()}")
        return value


def section_at(cls: Any, path: tuple[str | int, ...]) -> type[Section] | None:
    """The config class found by following field names from ``cls``; None where the path leaves the sections."""
    for name in path:
        field = cls.model_fields.get(str(name)) if isinstance(cls, type) and issubclass(cls, Section) else None
        if field is None:
            return None
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        cls = next((c for c in options if isinstance(c, type) and issubclass(c, Section)), None)
    return cls if isinstance(cls, type) and issubclass(cls, Section) else None


def _key_path(cls: Any, loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The part of pydantic's location that a user wrote: what follows a plain value names union members."""
    for depth in range(len(loc)):
        if section_at(cls, loc[:depth]) is None:
            return loc[:depth]
    return loc


def _explain(error: ValidationError, cls: Any) -> ConfigError:
    """One ConfigError for the first thing wrong; the number of others is mentioned."""
    errors = error.errors(include_url=False)
    loc = _key_path(cls, errors[0]["loc"])
    # A union answers once a member; the member that a value got furthest into is the one that was meant.
    first = max((e for e in errors if _key_path(cls, e["loc"]) == loc), key=lambda e: len(e["loc"]))
    where = ".".join(str(part) for part in loc) or None
    remedy = None
    if first["type"] == "extra_forbidden":
        owner = section_at(cls, loc[:-1])
        what = f"unknown key {loc[-1]!r}"
        remedy = nearest(str(loc[-1]), owner.model_fields if owner else ())
    elif first["type"] == "missing":
        what, remedy = "is required and not set", f"set {where} in the config file or as an override"
    else:
        what = first["msg"].removeprefix("Value error, ")
        what = what[0].lower() + what[1:]
        if first["type"] != "value_error":
            what += f", got {first['input']!r}"
    if len(errors) > 1:
        others = {".".join(map(str, _key_path(cls, e["loc"]))) for e in errors[1:]} - {where}
        what += f" (also wrong: {', '.join(sorted(others))})" if others else ""
    return ConfigError(what, where=where, remedy=remedy)
