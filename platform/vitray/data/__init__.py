"""Datasets: shards on disk, an exact order, and the stream that feeds the ranks."""

from typing import Any

__all__ = ["Batch", "Order", "ShardedImages"]


def __getattr__(name: str) -> Any:  # lazily, so that `vitray.data.order` alone costs no pyarrow
    if name == "Order":
        from vitray.data.order import Order

        return Order
    if name in ("Batch", "ShardedImages"):
        from vitray.data import images

        return getattr(images, name)
    raise AttributeError(name)
