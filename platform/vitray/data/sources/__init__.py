"""Where images come from; one file a kind of source, one function that opens any of them."""

from __future__ import annotations

from vitray.data.sources.open import open_source
from vitray.data.sources.source import Chunk, Item, Source, Splits

__all__ = ["Chunk", "Item", "Source", "Splits", "open_source"]
