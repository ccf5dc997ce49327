"""A split decoded once: small enough to stay in memory, it is indexed instead of read and decoded every epoch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitray.data.rng import I64
from vitray.data.unit import Block, Plan, augment_into, empty_block

_KEEP = 8  # splits held by a process: train, val and test of a few datasets
_held: OrderedDict[tuple[str, str], DecodedSplit] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class DecodedSplit:
    """``image`` uint8 (rows, H, W, C) at the stored size; ``label`` int64 (rows,)."""

    image: npt.NDArray[np.uint8]
    label: I64

    @classmethod
    def from_blocks(cls, rows: int, blocks: Iterable[Block]) -> DecodedSplit:
        images: npt.NDArray[np.uint8] | None = None
        labels = np.empty(rows, dtype=np.int64)
        seen = 0
        for block in blocks:
            if images is None:
                images = np.empty((rows, *block.image.shape[1:]), dtype=np.uint8)
            real = block.sample_id >= 0
            images[block.sample_id[real]] = block.image[real]
            labels[block.sample_id[real]] = block.label[real]
            seen += int(real.sum())
        assert images is not None
        assert seen == rows, "a pass over a split brings every row"
        return cls(images, labels)


def held(plan: Plan) -> DecodedSplit | None:
    """The decoded split of this plan, if this process has it."""
    with _lock:
        split = _held.get(_name(plan))
        if split is not None:
            _held.move_to_end(_name(plan))
        return split


def hold(plan: Plan, split: DecodedSplit) -> DecodedSplit:
    """Keep a decoded split for the process's later experiments; the longest unused make room."""
    with _lock:
        _held[_name(plan)] = split
        while len(_held) > _KEEP:
            _held.popitem(last=False)
    return split


def _name(plan: Plan) -> tuple[str, str]:
    return plan.view.store.fingerprint, plan.view.split


def decoded_blocks(plan: Plan, split: DecodedSplit, units: range, stop: int) -> Iterator[Block]:
    """The blocks that reading would give, from memory."""
    for first in units:
        block, real = empty_block(plan, first, min(units.step, stop - first))
        ids = block.sample_id[real]
        block.label[real] = split.label[ids]
        augment_into(plan, block, real, iter(split.image[ids]))
        yield block
