"""Which version a name means now, and its bytes: the blocking part, for a thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitray.errors import DataError
from vitray.home import Home
from vitray.inference.serving.contract import Package
from vitray.tracking.registry import download, is_model_uri, resolve

_FILES = ("model.json", "model.safetensors")  # all that a package is; the folder may hold a person's notes too


@dataclass(frozen=True)
class Version:
    """One version of a model, or a package folder (then ``number`` is None).

    Args:
        key: stands for its bytes: a registry that was made anew has other keys for the same numbers.
        alias: under which it was asked for.
        test_accuracy: 0..1, as the registry has it.
    """

    key: str
    name: str
    number: int | None
    alias: str | None
    test_accuracy: float | None
    uri: str

    @property
    def label(self) -> str:
        """For people: ``digits/3``, or the folder."""
        return self.name if self.number is None else f"{self.name}/{self.number}"


def find(model: str, tracking_uri: str | None = None) -> Version:
    """The version that ``models:/NAME@alias``, ``models:/NAME/3`` or a folder means.

    Raises:
        TrackingError: the registry has no such version, or does not answer.
    """
    if not is_model_uri(model):
        return Version(f"folder:{Path(model).resolve()}", Path(model).resolve().name, None, None, None, model)
    found = resolve(tracking_uri or Home.find().tracking_uri, model)
    alias = model.rpartition("@")[2] if "@" in model else None
    accuracy = found.metrics.get("test/accuracy")
    key = f"{found.name}/{found.version}:{found.created_ms}"
    return Version(key, found.name, found.version, alias, accuracy, found.uri)


def may_change(model: str) -> bool:
    """An alias can move to another version; a version and a folder stay what they are."""
    return is_model_uri(model) and "@" in model


def read(version: Version, tracking_uri: str | None = None) -> Package:
    """The files of its package.

    Raises:
        TrackingError: the registry does not answer.
        DataError: there is no package where it should be, or it cannot be read.
    """
    folder = download(version.uri, tracking_uri=tracking_uri)
    try:
        return {name: (folder / name).read_bytes() for name in _FILES}
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=error.filename or str(folder)) from error
