"""A folder whose sub-folders are the classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vitray.data.sources.files import Files, printable, read_all
from vitray.data.sources.source import Chunk, Item, Splits
from vitray.data.sources.splits import all_are_splits, split_named
from vitray.errors import DataError

_FILES = 32  # a chunk


class ClassFolder:
    """A folder whose sub-folders are the classes; images may lie deeper inside.

    ``pictures``, ``s3://bucket/pictures``::

        pictures/cat/1.jpg               with splits="folders"   pictures/train/cat/1.jpg
        pictures/cat/more/2.png                                  pictures/val/cat/2.png
        pictures/dog/3.webp                                      pictures/test/dog/3.webp

    Every file counts whatever its name, since its content tells what it is: what is no image is refused by name rather
    than passed over. Hidden files and folders are left out; linked folders are followed, but not in circles.
    """

    rereads = True
    class_names = None

    def __init__(self, files: Files, splits: Splits = "fractions") -> None:
        self.name, self._files, self._by_folder = files.name, files, splits == "folders"

    def chunks(self) -> list[Chunk]:
        """Some files each. Raises DataError: no class folders, one without files, or splits not as asked for."""
        top, _ = self._files.entries()
        self._check_top(top)
        if self._by_folder:
            classes = {f"{name}/{inner}" for name in top for inner in self._files.entries(name)[0]}
        else:
            classes = set(top)
        depth = 2 if self._by_folder else 1
        paths = [path for path in self._files.below() if path.count("/") >= depth]  # not what lies beside the classes
        for folder in sorted(classes - {"/".join(path.split("/")[:depth]) for path in paths}):
            raise DataError(
                "this class folder holds no files",
                where=self._files.show(folder),
                remedy="put its images there, or remove the folder",
            )
        for folder in sorted(classes):
            if not (label := folder.split("/")[-1]).isprintable():
                raise DataError(
                    "has a class folder whose name cannot be printed",
                    where=f"{self.name}: {label!r}",
                    remedy="rename it; the name becomes the name of the class",
                )
        places = [tuple(paths[start : start + _FILES]) for start in range(0, len(paths), _FILES)]
        return [Chunk(number, place, len(place)) for number, place in enumerate(places)]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        for path, (data, problem) in zip(chunk.place, read_all(self._files, chunk.place), strict=True):
            first, second, *_ = path.split("/")
            split, label = (split_named(first), second) if self._by_folder else (None, first)
            yield Item(printable(path), label, data, problem, split, path)

    def reread(self, place: Any) -> bytes:
        return self._files.read(place)

    def _check_top(self, top: list[str]) -> None:
        if not top:
            raise DataError(
                "has no sub-folders; each must be a class that holds its images",
                where=self.name,
                remedy="lay it out as FOLDER/cat/1.jpg, FOLDER/dog/2.png",
            )
        if all_are_splits(top) and not self._by_folder:
            raise DataError(
                f"its sub-folders are called {', '.join(top)}: those are splits, not classes",
                where=self.name,
                remedy="pass --splits folders to use them as they are",
            )
        if not self._by_folder:
            return
        names = [split_named(name) for name in top]
        if not all_are_splits(top) or "train" not in names or len(set(names)) < len(names):
            raise DataError(
                f"its sub-folders are called {', '.join(map(printable, top[:5]))}{', ...' * (len(top) > 5)}; with "
                "--splits folders they must be train and, if there are any, val and test",
                where=self.name,
                remedy="lay it out as FOLDER/train/cat/1.jpg, FOLDER/test/cat/2.jpg, or leave out --splits folders",
            )
        for name in top:
            if not self._files.entries(name)[0]:
                raise DataError(
                    "has no sub-folders; each must be a class that holds its images",
                    where=self._files.show(name),
                    remedy=f"lay it out as {name}/cat/1.jpg, {name}/dog/2.png, or remove it",
                )
