"""Where images come from. Each source is one class: it lists its records, and reads the bytes of one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vitray.errors import DataError, nearest


@dataclass(frozen=True, slots=True)
class Record:
    """One image before it is read.

    Attributes:
        key: names it within its source, unique and the same on every machine; a quarantined image is known by it.
        label: class name.
        place: whatever the source needs to find the bytes (a row number, a tar offset).
    """

    key: str
    label: str
    place: Any = None


class Source(Protocol):
    """A list of records and the bytes behind them. Picklable, since readers run in other processes.

    ``name`` goes into the manifest. ``records()`` is sorted by key. ``read()`` may be called from many threads and
    raises ``OSError`` or :class:`DataError` for a record that cannot be read.
    """

    name: str

    def records(self) -> Sequence[Record]: ...

    def read(self, record: Record) -> bytes: ...


class Digits:
    """scikit-learn's 1,797 real handwritten digits, 8 x 8, grey values 0..16 scaled to 0..255, as PNG."""

    spec: ClassVar[str] = "builtin:digits"
    name = spec

    def records(self) -> list[Record]:
        target = self._data.target
        return [Record(f"digits/{row:04d}", str(target[row]), row) for row in range(len(target))]

    def read(self, record: Record) -> bytes:
        import numpy as np

        from vitray.data.decode import encode_png

        return encode_png(np.rint(self._data.images[record.place] * (255 / 16)).astype(np.uint8))

    @cached_property
    def _data(self) -> Any:
        from sklearn.datasets import load_digits

        return load_digits()

    def __reduce__(self) -> tuple[Any, ...]:
        return Digits, ()  # the images come with scikit-learn, wherever this goes


class ImageFolder:
    """A directory whose sub-folders are the classes; images may lie deeper inside.

    Every file counts whatever its name, since its content tells what it is: what is no JPEG or PNG is refused by name
    rather than passed over. Hidden files and folders are left out; linked folders are followed, but not in circles.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.name = str(self.root)

    def records(self) -> list[Record]:
        """Raises DataError: no class sub-folders, or one without files."""
        classes = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir() and _visible(entry.name))
        if not classes:
            raise DataError(
                "has no sub-folders; each must be a class that holds its images",
                where=self.name,
                remedy="lay it out as FOLDER/cat/1.jpg, FOLDER/dog/2.png",
            )
        records = []
        above = frozenset({_identity(self.root)})
        for label in classes:
            if not label.isprintable():
                raise DataError(
                    "has a class folder whose name cannot be printed",
                    where=f"{self.name}: {label!r}",
                    remedy="rename it; the name becomes the name of the class",
                )
            files = list(_files(self.root / label, above))
            if not files:
                raise DataError(
                    "this class folder holds no files",
                    where=str(self.root / label),
                    remedy="put its images there, or remove the folder",
                )
            records += [Record(file.relative_to(self.root).as_posix(), label) for file in files]
        return sorted(records, key=lambda record: record.key)

    def read(self, record: Record) -> bytes:
        path = self.root / record.key
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise DataError("not a regular file")
        return path.read_bytes()


def _visible(name: str) -> bool:
    return not name.startswith(".")


def _identity(folder: Path) -> tuple[int, int]:
    info = folder.stat()
    return info.st_dev, info.st_ino


def _files(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Visible files below ``folder``; a link back to a folder ``above`` (by device and inode) is not followed."""
    identity = _identity(folder)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        inside = [entry for entry in entries if _visible(entry.name)]
    for entry in inside:
        path = folder / entry.name
        if entry.is_dir():
            yield from _files(path, above | {identity})
        else:  # a dangling link, too: it is then refused by name
            yield path


BUILTIN = {Digits.spec: Digits}


def open_source(spec: str) -> Source:
    """The source that ``spec`` names.

    Raises:
        DataError: not a known built-in, nor a directory; lists what is known.
    """
    if spec.startswith("builtin:"):
        if spec not in BUILTIN:
            raise DataError("there is no such built-in source", where=spec, remedy=nearest(spec, BUILTIN))
        return BUILTIN[spec]()
    path = Path(spec).expanduser()
    if path.is_dir():
        return ImageFolder(path)
    known = f"a source is one of: {', '.join(BUILTIN)}, or a folder with one sub-folder of images a class"
    raise DataError("is a file" if path.exists() else "there is no such source", where=spec, remedy=known)
