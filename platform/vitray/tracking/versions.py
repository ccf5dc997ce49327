"""One version of a registered model, and the quick way to read all of them from an embedded store."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

METRIC_TAG = "vitray.metric."  # version tags, so that a list needs no request for every version
MODEL_TAG = "vitray.model."


@dataclass(frozen=True)
class ModelVersion:
    """What the registry says of one version.

    Args:
        created_ms: Unix time in milliseconds.
        source: where MLflow says its files are.
        run_id: MLflow's id of the run it came from; :attr:`run` is our key of it.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    description: str
    created_ms: int
    source: str
    run_id: str | None

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def run(self) -> str | None:
        return self.tags.get("vitray.run")

    @property
    def metrics(self) -> dict[str, float]:
        """What it was registered with, e.g. ``test/accuracy``."""
        found = {}
        for key, text in self.tags.items():
            if key.startswith(METRIC_TAG):
                with contextlib.suppress(ValueError):  # somebody edited the tag
                    found[key.removeprefix(METRIC_TAG)] = float(text)
        return found

    @property
    def model(self) -> dict[str, str]:
        """The model's config as texts, e.g. ``{"patch_size": "4"}``."""
        return {k.removeprefix(MODEL_TAG): v for k, v in self.tags.items() if k.startswith(MODEL_TAG)}


def read_versions(database: Path) -> list[ModelVersion] | None:
    """All versions in an embedded SQLite store, read directly: importing MLflow for this takes longer than a person
    likes to wait for a misspelt name. None when the tables are not those we know; then MLflow must be asked.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=5)
        ) as connection:
            where = "workspace = 'default'"
            aliases = _grouped(
                connection.execute(f"SELECT name, version, alias, '' FROM registered_model_aliases WHERE {where}")
            )
            tags = _grouped(
                connection.execute(f"SELECT name, version, key, value FROM model_version_tags WHERE {where}")
            )
            rows = connection.execute(
                "SELECT name, version, description, creation_time, coalesce(storage_location, source), run_id"
                f" FROM model_versions WHERE {where} AND current_stage != 'Deleted_Internal'"
            ).fetchall()
    except sqlite3.Error:
        return None
    return [
        ModelVersion(
            name=name,
            version=version,
            aliases=tuple(sorted(aliases.get((name, version), {}))),
            tags=tags.get((name, version), {}),
            description=description or "",
            created_ms=created_ms,
            source=source,
            run_id=run_id,
        )
        for name, version, description, created_ms, source, run_id in rows
    ]


def read_model_tags(database: Path, name: str) -> dict[str, str] | None:
    """The tags of a registered model in an embedded store; None when MLflow must be asked."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=5)
        ) as connection:
            question = "SELECT key, value FROM registered_model_tags WHERE workspace = 'default' AND name = ?"
            return dict(connection.execute(question, (name,)).fetchall())
    except sqlite3.Error:
        return None


def _grouped(rows: Iterable[tuple[str, int, str, str]]) -> dict[tuple[str, int], dict[str, str]]:
    groups: dict[tuple[str, int], dict[str, str]] = {}
    for name, version, key, value in rows:
        groups.setdefault((name, version), {})[key] = value
    return groups
