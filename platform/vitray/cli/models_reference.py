"""A model that a person named on the command line: of the registry, or a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitray.home import Home


@dataclass(frozen=True)
class Referred:
    """``label`` is short, for tables; ``facts`` are config keys and metrics as texts; ``package`` is the folder."""

    label: str
    facts: dict[str, str]
    package: Path

    @classmethod
    def of(cls, reference: str) -> Referred:
        """``NAME@alias``, ``NAME/version``, ``NAME`` (its champion), each also as ``models:/...``, or a folder.

        Raises:
            TrackingError, DataError: there is no such model.
        """
        import json

        from vitray.tracking.registry import download, show_model

        folder = Path(reference)
        if (folder / "model.json").is_file():
            info: dict[str, Any] = json.loads((folder / "model.json").read_text())
            facts = {f"model.{key}": str(value) for key, value in info["model"].items()}
            facts |= {"classes": str(len(info["classes"])), "dataset": str(info["dataset_fingerprint"])[:12]}
            return cls(folder.name, facts, folder)
        uri = Home.find().tracking_uri
        version = show_model(uri, reference)
        facts = {
            **{f"model.{key}": value for key, value in version.model.items()},
            "parameters": version.tags.get("vitray.parameters", ""),
            "bytes": version.tags.get("vitray.bytes", ""),
            "classes": version.tags.get("vitray.classes", ""),
            "dataset": version.tags.get("vitray.dataset_fingerprint", "")[:12],
            "seed": version.tags.get("vitray.seed", ""),
            "trial": "/".join(version.tags.get(f"vitray.{key}", "") for key in ("sweep", "trial")),
            **{key: f"{value:.4f}" for key, value in sorted(version.metrics.items())},
        }
        return cls(f"{version.name}/{version.version}", facts, download(version.uri, tracking_uri=uri))

    def as_json(self) -> dict[str, Any]:
        return {"label": self.label, "package": str(self.package), **self.facts}
