"""Rows that cannot be decoded at run time: each costs itself alone, until there are too many of them."""

from __future__ import annotations

import numpy as np

from vitray.data.unit import Block, damaged_ids, pixels_of
from vitray.data.view import SplitView
from vitray.errors import DataError

_NAMED = 3


class DamageLimit:
    """Counts the damaged rows of a stream; a row that comes again in another epoch counts once."""

    def __init__(self, view: SplitView, max_fraction: float) -> None:
        self._view, self._seen = view, set[int]()
        self._most = int(max_fraction * view.rows)

    def count(self, block: Block) -> None:
        """Raises DataError: more than the limit; names the first of them."""
        self._seen.update(damaged_ids(block).tolist())
        if len(self._seen) > self._most:
            named = sorted(self._seen)[:_NAMED]
            shown = "; ".join(f"{self._view.place(row)}: {_reason(self._view, row)}" for row in named)
            images = "damaged image" if len(self._seen) == 1 else "damaged images"
            more = f"; and {len(self._seen) - _NAMED} more" if len(self._seen) > _NAMED else ""
            raise DataError(
                f"{len(self._seen)} {images}, and at most {self._most} may be passed over: {shown}{more}",
                where=self._view.store.shown,
                remedy="vitray data verify names all that is wrong; data.max_bad_fraction allows more",
            )


def _reason(view: SplitView, row: int) -> str:
    data = view.read(np.array([row]))[0][0]
    if data is None:
        return "its bytes are not those that were written"
    return "it decodes now" if pixels_of(data, view.store.manifest.channels) is not None else "it cannot be decoded"
