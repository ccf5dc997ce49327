"""A folder on any file system that pyarrow knows: written, read in ranges, listed and emptied in one way."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from vitray.data.manifest import MANIFEST, MARKER, QUARANTINE, SPLITS
from vitray.masking import public

STAGING = ".staging"

_OURS = re.compile(
    rf"(?:{re.escape(MANIFEST)}|{re.escape(MARKER)})(?:\.draft)?|{re.escape(QUARANTINE)}|{re.escape(STAGING)}/\d+"
    rf"|(?:{'|'.join(SPLITS)})/\d+\.parquet"
)


@dataclass(frozen=True, slots=True)
class Folder:
    """Files below ``base``, named relative to it with ``/``. Picklable: a task on another machine opens its own."""

    filesystem: pafs.FileSystem
    base: str

    @classmethod
    def local(cls, path: Path) -> Folder:
        return cls(pafs.LocalFileSystem(), str(path))

    @property
    def on_disk(self) -> bool:
        """Whether it is a folder of this machine (or one that it sees as such)."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def make(self) -> None:
        """Make the folder itself, where that means anything: an object store would keep an empty object for it."""
        if self.on_disk:
            self.filesystem.create_dir(self.base, recursive=True)

    def create(self, name: str) -> pa.NativeFile:
        """A stream that writes ``name`` anew; what it was before is gone. Raises OSError.

        It fails where the folder itself is gone, so that a task which was given up does not bring it back.
        """
        inner = name.rpartition("/")[0]
        if inner and self.on_disk:
            self.filesystem.create_dir(f"{self.base}/{inner}", recursive=False)
        return self.filesystem.open_output_stream(f"{self.base}/{name}")

    def put(self, name: str, data: bytes) -> None:
        """Write a small file so that a reader sees all of it or none. Raises OSError."""
        draft = f"{name}.draft" if self.on_disk else name  # an object appears when it is complete
        with self.create(draft) as stream:
            stream.write(data)
        if draft != name:
            self.filesystem.move(f"{self.base}/{draft}", f"{self.base}/{name}")

    def read(self, name: str) -> bytes | None:
        """A whole file, or None where there is none. Raises OSError."""
        try:
            with self.filesystem.open_input_stream(f"{self.base}/{name}") as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError:
            return None

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Fewer than ``length`` bytes only where the file ends. Raises OSError."""
        with self.filesystem.open_input_file(f"{self.base}/{name}") as file:
            data: bytes = file.read_at(length, offset)
            return data

    def entries(self) -> list[str]:
        """Names of the files and folders directly in it; none where it does not exist. Raises OSError."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.base, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def files(self) -> list[str]:
        """All files at any depth. Raises OSError."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.base, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{self.base}/") for info in found if info.type == pafs.FileType.File)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises OSError."""
        if self.filesystem.get_file_info(f"{self.base}/{name}").type == pafs.FileType.File:
            self.filesystem.delete_file(f"{self.base}/{name}")

    def remove_tree(self, name: str) -> None:
        """Remove a folder and all in it, if it is there. Raises OSError."""
        if self.filesystem.get_file_info(f"{self.base}/{name}").type == pafs.FileType.Directory:
            self.filesystem.delete_dir(f"{self.base}/{name}")


def why(error: OSError) -> str:
    """What an error of a file system says, in a few words and without credentials."""
    return os.strerror(error.errno) if error.errno else public(str(error).partition("\n")[0])


def foreign(files: list[str]) -> list[str]:
    """Those of ``files`` that no preparation writes."""
    return [name for name in files if not _OURS.fullmatch(name)]
