"""What a source of images is: chunks that tasks read, and the items in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Splits = Literal["fractions", "folders"]
"""Where train, val and test come from: shares of all images, or the source's own folders, columns or file names."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a source that one task reads in one go (some files of a folder, a Parquet row group, a tar file).

    Attributes:
        number: position among the chunks of the source, the same on every machine.
        place: picklable; whatever the source needs to find the piece.
        images: how many items it holds, where that is known without reading it.
    """

    number: int
    place: Any
    images: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One image as it was found.

    Attributes:
        key: names it within its source, unique and the same on every machine; a quarantined image is known by it.
        label: class name, or an integer class. A source uses one kind throughout.
        data: its encoded bytes.
        problem: why it could not be read at all (missing file, refused tar member); ``data`` is then empty, and the
            label too may be missing (``""``).
        split: train, val or test where the source says so, and its splits were asked for.
        place: for ``reread()``; None when the source cannot reread.
    """

    key: str
    label: str | int
    data: bytes
    problem: str | None = None
    split: str | None = None
    place: Any = None


class Source(Protocol):
    """Images in chunks. Picklable and cheap to pickle, since chunks are read in other processes.

    Attributes:
        name: goes into the manifest; there are no credentials in it.
        rereads: ``reread()`` is cheap random access, so nobody need keep a copy of the bytes.
        class_names: where the source knows them; labels are then integers into it.
    """

    @property
    def name(self) -> str: ...

    @property
    def rereads(self) -> bool: ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    def chunks(self) -> Sequence[Chunk]:
        """All pieces, listed in the driver. Raises DataError for what cannot be a source."""
        ...

    def items(self, chunk: Chunk) -> Iterator[Item]:
        """Read one piece, in a task. Never raises for one bad image; DataError when the chunk is broken as a whole."""
        ...

    def reread(self, place: Any) -> bytes:
        """The bytes of one image again. Raises OSError or DataError when they cannot be read any more."""
        ...
