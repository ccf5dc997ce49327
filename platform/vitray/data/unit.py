"""The unit of work: some steps of one rank, read, decoded and augmented straight into one contiguous block.

``read_unit`` is pure: the same plan and steps give the same block in a Ray task, a thread or a test.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vitray.data.augment import Augmenter
from vitray.data.order import Order
from vitray.data.rng import I64
from vitray.data.view import SplitView
from vitray.experiment import AugmentConfig


@dataclass(frozen=True)
class Plan:
    """Everything that decides what one rank sees.

    Args:
        view: the rows.
        order: which rows make up a step.
        rank, world_size: the share of each step that is this rank's.
        size: (height, width) of the images handed out.
        augment: None for evaluation.
    """

    view: SplitView
    order: Order
    rank: int
    world_size: int
    size: tuple[int, int]
    augment: AugmentConfig | None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (*self.size, self.view.store.manifest.channels)

    @property
    def image_bytes(self) -> int:
        return int(np.prod(self.image_shape))

    def rows_of(self, first: int, count: int) -> tuple[I64, I64]:
        """Step and sample id of each row of some steps; a rank left without rows takes part with one row, id -1."""
        steps, ids = [], []
        for epoch in range(self.order.epoch_of(first), self.order.epoch_of(first + count - 1) + 1):
            start = max(first, epoch * self.order.steps_per_epoch)
            stop = min(first + count, (epoch + 1) * self.order.steps_per_epoch)
            spans = [self.order.rank_span(step, self.rank, self.world_size) for step in range(start, stop)]
            lengths = [max(1, high - low) for low, high in spans]
            positions = np.concatenate([np.arange(low, max(high, low + 1)) for low, high in spans])
            steps.append(np.repeat(np.arange(start, stop), lengths))
            empty = np.repeat([low == high for low, high in spans], lengths)
            in_range = np.where(empty, 0, positions)
            ids.append(np.where(empty, -1, self.order.samples(epoch, in_range)))
        return np.concatenate(steps), np.concatenate(ids)


@dataclass(frozen=True)
class Block:
    """Rows of consecutive steps of one rank, in the order they are consumed.

    ``image`` is uint8 (rows, H, W, C); ``step``, ``label``, ``sample_id`` int64 (rows,), a sample id of -1 where a rank
    has no row of its own; ``weight`` float32 (rows,), 0 for rows that must not count.
    """

    step: I64
    image: npt.NDArray[np.uint8]
    label: I64
    weight: npt.NDArray[np.float32]
    sample_id: I64


@dataclass(frozen=True)
class Batch:
    """What a rank consumes in one step: a view into a block. ``step_rows`` counts the rows of all ranks."""

    step: int
    epoch: int
    image: npt.NDArray[np.uint8]
    label: I64
    weight: npt.NDArray[np.float32]
    sample_id: I64
    step_rows: int

    @property
    def damaged(self) -> I64:
        """Sample ids of rows that could not be decoded."""
        return damaged_ids(self)


def damaged_ids(rows: Block | Batch) -> I64:
    """Sample ids of rows that could not be decoded: rows of the rank's own whose weight is 0."""
    return rows.sample_id[(rows.weight == 0) & (rows.sample_id >= 0)]


def read_unit(plan: Plan, first: int, count: int) -> Block:
    """The block of steps ``first .. first + count - 1``. A row that is damaged has weight 0 and a black image.

    Raises:
        DataError: a shard cannot be read at all; names it.
    """
    block, real = empty_block(plan, first, count)
    encoded, block.label[real] = plan.view.read(block.sample_id[real])
    channels = plan.view.store.manifest.channels
    augment_into(plan, block, real, (pixels_of(data, channels) for data in encoded))
    return block


def pixels_of(data: bytes | None, channels: int) -> npt.NDArray[np.uint8] | None:
    """Stored bytes to (H, W, channels) uint8; None where there are none, or they do not decode.

    What was decoded when it was prepared and whose checksum holds needs no second look at its header.
    """
    if data is None:
        return None
    try:
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
        )
    except cv2.error:
        return None
    return None if image is None else image.reshape(image.shape[0], image.shape[1], channels)


def empty_block(plan: Plan, first: int, count: int) -> tuple[Block, I64]:
    """A block whose images are yet to be written, and the positions of its real rows."""
    steps, ids = plan.rows_of(first, count)
    block = Block(
        step=steps,
        image=np.empty((len(ids), *plan.image_shape), dtype=np.uint8),
        label=np.zeros(len(ids), dtype=np.int64),
        weight=(ids >= 0).astype(np.float32),
        sample_id=ids,
    )
    block.image[ids < 0] = 0
    return block, np.nonzero(ids >= 0)[0]


def augment_into(plan: Plan, block: Block, real: I64, images: Iterable[npt.NDArray[np.uint8] | None]) -> None:
    """Write the transformed ``images`` into rows ``real`` of ``block``, each with its own sample's draws."""
    augmenter = Augmenter(plan.augment or AugmentConfig())
    epochs = block.step[real] // plan.order.steps_per_epoch
    drawn = itertools.chain.from_iterable(
        augmenter.draws(plan.order.seed, int(epoch), block.sample_id[real][epochs == epoch])
        for epoch in np.unique(epochs)  # sorted, as the steps are
    )
    for row, image, draws in zip(real.tolist(), images, drawn, strict=True):
        if image is None:
            block.weight[row], block.image[row] = 0, 0
        else:
            augmenter.apply(image, block.image[row], draws)


def batches_of(plan: Plan, block: Block) -> Iterator[Batch]:
    """Cut a block into its steps; the arrays are views."""
    edges = np.nonzero(np.diff(block.step))[0] + 1
    for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(block.step)], strict=True):
        step = int(block.step[start])
        low, high = plan.order.step_span(step)
        yield Batch(
            step=step,
            epoch=plan.order.epoch_of(step),
            image=block.image[start:stop],
            label=block.label[start:stop],
            weight=block.weight[start:stop],
            sample_id=block.sample_id[start:stop],
            step_rows=high - low,
        )
