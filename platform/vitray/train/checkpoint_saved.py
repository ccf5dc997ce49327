"""A checkpoint that is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitray.data.folder import Folder
from vitray.errors import CheckpointError
from vitray.train.checkpoint_files import shown
from vitray.train.checkpoint_names import Name


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint; a path where it is local."""

    folder: Folder
    at: Name

    @property
    def name(self) -> str:
        return self.at.text

    @property
    def step(self) -> int:
        return self.at.step

    def __str__(self) -> str:
        return f"{shown(self.folder)}/{self.name}"

    def __fspath__(self) -> str:
        if not self.folder.on_disk:
            raise CheckpointError("is not on this machine", where=str(self))
        return f"{self.folder.base}/{self.name}"

    def __truediv__(self, file: str) -> Path:
        return Path(self) / file
