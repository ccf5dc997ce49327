"""Where state lives: one folder, ``$VITRAY_HOME``, that holds everything vitray writes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The folders under ``$VITRAY_HOME``. Nothing is created until it is needed."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Home:
        """``$VITRAY_HOME`` if set, else the nearest ``.vitray`` upwards from ``start``, else a new one there."""
        if named := os.environ.get("VITRAY_HOME"):
            return cls(Path(named).expanduser().resolve())
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / ".vitray").is_dir():
                return cls(folder / ".vitray")
        return cls(here / ".vitray")

    @property
    def database(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def tracking_uri(self) -> str:
        """``$MLFLOW_TRACKING_URI`` if set, else the embedded SQLite store."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.database}"
