"""From a YAML file and ``section.key=value`` words to the mapping an :class:`Experiment` is built from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vitray.config_base import Section, section_at
from vitray.errors import ConfigError, nearest

_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a number (YAML 1.1 wants ``1.0e-3``) and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key_node, _ in node.value:
            # Scalars alone, by tag and text: "<<" merges another mapping, and a list as a key is refused below.
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key = key_node.tag, key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # in C, where libyaml is there
    """Writes what :class:`_Loader` reads back: a text that looks like ``1e-3`` is quoted."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


PATHS = (("data", "path"), ("train", "init_from"), ("train", "checkpoints"))  # keys of a config that may hold a path


def load_mapping(
    path: str | Path, overrides: Sequence[str], *, root: type[Section], resolve: bool = True
) -> dict[str, Any]:
    """The raw mapping of a config file with overrides applied.

    Relative paths count from the file, those of overrides from the current folder, as anything typed there. Without
    ``resolve`` they are left as they are.
    """
    file = Path(path)
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError("there is no such config file", where=str(path), remedy="check the path") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the file") from None
    except UnicodeDecodeError:
        raise ConfigError("is not a text file", where=str(path), remedy="give a YAML config") from None
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = f"is not valid YAML: {_problem(error)}"
        raise ConfigError(what, where=f"{path}{line}", remedy=_remedy(error, "mend the YAML")) from None
    if not isinstance(raw, dict):
        raise ConfigError("must be a mapping of sections", where=str(path), remedy="see configs/quickstart.yaml")
    for name in raw:
        if not isinstance(name, str):
            raise ConfigError(f"unknown key {name!r}", where=str(path), remedy=nearest(str(name), root.model_fields))
    if resolve:
        _resolve_paths(raw, base=file.parent)
    for word in overrides:
        assign(raw, *parse_override(word), root=root)
    if resolve:
        _resolve_paths(raw, base=Path.cwd())  # what the file said is absolute by now
    return raw


def _resolve_paths(raw: dict[str, Any], *, base: Path) -> None:
    for section, key in PATHS:
        values = raw.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            values[key] = resolve_path(values[key], base=base)


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as the text of a config file, which loads to the same values."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_override(word: str) -> tuple[str, Any]:
    """The key and the value of ``section.key=value``."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ConfigError("is not an override", where=repr(word), remedy="write section.key=value")
    return key.strip(), parse_value(text)


def parse_value(text: str) -> Any:
    """A YAML scalar or flow value: ``6``, ``1e-3``, ``true``, ``[1, 2]``, ``rope_2d``."""
    try:
        return yaml.load(text, _Loader)
    except Exception as error:
        what = f"is not a YAML value: {_problem(error)}"
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise ConfigError(what, where=repr(shown), remedy=_remedy(error, "quote it for the shell")) from None


def _problem(error: Exception) -> str:
    """What a YAML error says in one line. PyYAML's constructors also let ValueError, KeyError and others through."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return getattr(error, "problem", None) or next(iter(str(error).splitlines()), type(error).__name__)


def _remedy(error: Exception, usual: str) -> str:
    if _problem(error).endswith(("but got '['", "but got '{'")):  # as in {values: [1, 2], when: KEY in [A, B]}
        return "within braces, put quotes around a text that has brackets: {..., when: 'KEY in [A, B]'}"
    return usual


def resolve_path(path: str, *, base: Path) -> str:
    """Absolute local path, counted from ``base``; URIs and ``builtin:`` names stay as they are."""
    return path if _URI.match(path) else str((base / Path(path).expanduser()).resolve())


def assign(raw: dict[str, Any], key: str, value: Any, *, root: type[Section]) -> None:
    """Set a dotted key in a raw mapping; a name the sections do not have is an error that offers the nearest.

    Below ``search.space`` the rest of the key is one name, since the space's own keys are dotted.
    """
    parts = key.split(".")
    if parts[:2] == ["search", "space"]:
        parts = [*parts[:2], ".".join(parts[2:])] if len(parts) > 2 else parts
    target: dict[str, Any] = raw
    for depth, name in enumerate(parts):
        owner = section_at(root, tuple(parts[:depth]))
        if owner is not None and name not in owner.model_fields:
            known = [".".join([*parts[:depth], field]) for field in owner.model_fields]
            raise ConfigError(f"unknown key {key!r}", remedy=nearest(".".join(parts[: depth + 1]), known))
        if depth == len(parts) - 1:
            target[name] = value
            return
        inner = target.get(name)
        if inner is None:
            inner = target[name] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{key!r} goes below {name!r}, which holds a value", remedy=f"set {name!r} itself")
        target = inner
