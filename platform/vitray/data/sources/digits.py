"""The digits that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

import numpy as np

from vitray.data.decode import encode_png
from vitray.data.sources.source import Chunk, Item

_ROWS = 256  # a chunk


class Digits:
    """``builtin:digits``: 1,797 real handwritten digits, 8 x 8, grey values 0..16 scaled to 0..255, as PNG."""

    spec: ClassVar[str] = "builtin:digits"
    name = spec
    rereads = True
    class_names = tuple("0123456789")

    def chunks(self) -> list[Chunk]:
        count = len(_digits().target)
        spans = [(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS)]
        return [Chunk(number, span, span[1] - span[0]) for number, span in enumerate(spans)]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        for row in range(*chunk.place):
            yield Item(f"digits/{row:04d}", int(_digits().target[row]), self.reread(row), place=row)

    def reread(self, place: Any) -> bytes:
        return encode_png(np.rint(_digits().images[place] * (255 / 16)).astype(np.uint8))


@cache
def _digits() -> Any:
    from sklearn.datasets import load_digits

    return load_digits()
