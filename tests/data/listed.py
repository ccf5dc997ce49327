"""A source of items at hand, cut into chunks of any size: what preparing makes of it must not depend on the cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitray.data.sources import Chunk, Item, Source


@dataclass(frozen=True)
class Listed:
    found: tuple[Item, ...]
    per_chunk: int = 32
    rereads: bool = True
    counted: bool = True
    name: str = "listed"
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, source: Source, **options: Any) -> Listed:
        items = [item for chunk in source.chunks() for item in source.items(chunk)]
        return cls(tuple(items), name=source.name, class_names=source.class_names, **options)

    def chunks(self) -> Sequence[Chunk]:
        starts = range(0, len(self.found), self.per_chunk)
        sizes = [min(self.per_chunk, len(self.found) - start) for start in starts]
        return [
            Chunk(number, start, size if self.counted else None)
            for number, (start, size) in enumerate(zip(starts, sizes, strict=True))
        ]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        for position in range(chunk.place, min(chunk.place + self.per_chunk, len(self.found))):
            yield replace(self.found[position], place=position)

    def reread(self, place: Any) -> bytes:
        return self.found[place].data


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
