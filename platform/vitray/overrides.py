"""From a YAML file and ``section.key=value`` words to the mapping an :class:`Experiment` is built from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vitray.config_base import Section, section_at
from vitray.errors import ConfigError, nearest

_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a number (YAML 1.1 wants ``1.0e-3``) and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"the key {key!r} is given twice", where=f"line {line}", remedy="remove one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_mapping(path: str | Path, overrides: Sequence[str], *, root: type[Section]) -> dict[str, Any]:
    """The raw mapping of a config file with overrides applied; relative data paths count from the file."""
    file = Path(path)
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError("there is no such config file", where=str(path), remedy="check the path") from None
    except UnicodeDecodeError:
        raise ConfigError("is not a text file", where=str(path), remedy="give a YAML config") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"is not valid YAML: {problem}", where=f"{path}{line}", remedy="mend the YAML") from None
    if not isinstance(raw, dict):
        raise ConfigError("must be a mapping of sections", where=str(path), remedy="see configs/quickstart.yaml")
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError("is not an override", where=repr(word), remedy="write section.key=value")
        assign(raw, key.strip(), parse_value(text), root=root)
    data = raw.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = resolve_path(data["path"], base=file.parent)
    return raw


def parse_value(text: str) -> Any:
    """A YAML scalar or flow value: ``6``, ``1e-3``, ``true``, ``[1, 2]``, ``rope_2d``."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise ConfigError("is not a YAML value", where=repr(text), remedy="quote it for the shell") from None


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
