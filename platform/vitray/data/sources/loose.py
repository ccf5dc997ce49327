"""Image files as they lie about: named one by one, or all below a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar

from vitray.data.sources.files import Files, join, printable, read_all, resolve
from vitray.data.sources.source import Chunk, Item

_FILES = 32  # a chunk


class LooseFiles:
    """Files that need no layout and no labels.

    Args:
        folder: what relative ``paths`` count from; absolute ones and URIs may be among them.
        shown: what the keys begin with: the folder as the user named it, or nothing.
        classes: names; a file below a folder of such a name has it as its label (``photos/cat/more/1.jpg``).
    """

    rereads: ClassVar[bool] = True
    class_names: ClassVar[None] = None

    def __init__(self, folder: Files, paths: list[str], shown: str = "", classes: Collection[str] = ()) -> None:
        self.name = shown or folder.name
        self._folder, self._paths, self._shown, self._classes = folder, paths, shown, frozenset(classes)

    def chunks(self) -> list[Chunk]:
        """Some files each."""
        places = [tuple(self._paths[start : start + _FILES]) for start in range(0, len(self._paths), _FILES)]
        return [Chunk(number, place, len(place)) for number, place in enumerate(places)]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        for path, (data, why) in zip(chunk.place, read_all(self._folder, chunk.place), strict=True):
            if why is not None:
                why = f"cannot read the file: {why.removeprefix('cannot be read: ')}"
            key = printable(join(self._shown, path) if self._shown else path)
            yield Item(key, self._label(path), data, why, None, path)

    def reread(self, place: Any) -> bytes:
        files, path = resolve(self._folder, place)
        return files.read(path)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_paths": []}  # a chunk says which are its own; a million others need not travel with it

    def _label(self, path: str) -> str:
        return next((part for part in PurePosixPath(path).parts[:-1] if part in self._classes), "")
