"""How versions of registered models are shown in a terminal and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitray.cli.output import age, grid
from vitray.tracking.card_text import without_pictures

if TYPE_CHECKING:
    from vitray.tracking.registry import ModelVersion


def _shape(version: ModelVersion) -> dict[str, Any]:
    keys = {"patch": "patch_size", "depth": "depth", "heads": "num_heads", "encoding": "pos_encoding"}
    texts = {short: version.model.get(key) for short, key in keys.items()}
    return {short: int(text) if text and text.isdigit() else text for short, text in texts.items()}


def as_dict(version: ModelVersion) -> dict[str, Any]:
    """What a list shows of a version."""
    parameters, size = version.tags.get("vitray.parameters"), version.tags.get("vitray.bytes")
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "test_accuracy": version.metrics.get("test/accuracy"),
        "parameters": int(parameters) if parameters else None,
        "bytes": int(size) if size else None,
        **_shape(version),
        "dataset": _dataset(version),
        "created_ms": version.created_ms,
        "uri": version.uri,
    }


def details(version: ModelVersion) -> dict[str, Any]:
    """What else there is to say of it."""
    return {
        "description": version.description,
        "metrics": version.metrics,
        "run": version.run,
        "mlflow_run_id": version.run_id,
        "tags": dict(version.tags),
        "source": version.source,
    }


def _dataset(version: ModelVersion) -> str:
    return version.tags.get("vitray.dataset") or version.tags.get("vitray.dataset_fingerprint", "?")[:12]


def models_table(found: list[ModelVersion]) -> str:
    """One line a version."""
    rows = []
    for version in found:
        facts = as_dict(version)
        rows.append(
            [
                version.name,
                version.version,
                ", ".join(version.aliases),
                "" if facts["test_accuracy"] is None else f"{facts['test_accuracy']:.4f}",
                "" if facts["parameters"] is None else f"{facts['parameters']:,}",
                "/".join(str(value or "?") for value in _shape(version).values()),
                _dataset(version),
                age(version.created_ms / 1000),
            ]
        )
    headers = ["name", "version", "aliases", "test accuracy", "parameters", "patch/depth/heads/encoding"]
    return grid(rows, [*headers, "dataset", "age"])


def model_page(version: ModelVersion, uri: str, moves: dict[str, list[str]]) -> str:
    """All that is known of a version; ``moves``: the history of each of its aliases."""
    facts = {k: v for k, v in as_dict(version).items() if k not in ("created_ms", "aliases", "test_accuracy")}
    rows: list[tuple[str, Any]] = [*facts.items()]
    rows.insert(2, ("aliases", ", ".join(version.aliases)))
    rows += [("age", age(version.created_ms / 1000)), ("run", version.run), ("registry", uri)]
    rows += [(name, f"{value:.6g}") for name, value in sorted(version.metrics.items())]
    rows += [(f"@{alias}", "; ".join(history)) for alias, history in moves.items()]
    shown = ("vitray.metric.", "vitray.model.", "vitray.parameters", "vitray.complete", "vitray.run", "vitray.bytes")
    rows += [item for item in sorted(version.tags.items()) if not item[0].startswith(shown)]
    text = grid([[key, "" if value is None else value] for key, value in rows], [version.uri, ""])
    return f"{text}\n\n{without_pictures(version.description)}" if version.description else text
