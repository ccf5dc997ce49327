"""Units through Ray Data: a rank's own pipeline, in order, a block a unit, never merged, split or copied.

The work is cut into segments, so that a run of any length keeps a bounded list of tasks, and the next segment's tasks
are under way before the current one ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from vitray.data.prefetch import Prefetch
from vitray.data.unit import Block, Plan, read_unit
from vitray.errors import DataError

SEGMENT_UNITS = 64
_AHEAD = 2  # blocks waiting in the rank, beside those under way in tasks


def ray_blocks(plan: Plan, units: range, stop: int, *, task_cpus: float) -> Iterator[Block]:
    """The blocks of the units that begin at ``units`` (its step is the unit's length; the last ends at ``stop``)."""
    spans = [(first, min(units.step, stop - first)) for first in units[:SEGMENT_UNITS]]
    if not spans:
        return
    upcoming: Prefetch[Block] | None = _start(plan, spans, task_cpus)
    rest = units[SEGMENT_UNITS:]
    try:
        while upcoming is not None:
            current, upcoming, length = upcoming, None, len(spans)
            for i, block in enumerate(current):
                if i >= length - _AHEAD - 1 and upcoming is None and rest:
                    spans = [(first, min(units.step, stop - first)) for first in rest[:SEGMENT_UNITS]]
                    rest = rest[SEGMENT_UNITS:]
                    upcoming = _start(plan, spans, task_cpus)
                yield block
    finally:
        if upcoming is not None:
            upcoming.close()


def _start(plan: Plan, spans: list[tuple[int, int]], task_cpus: float) -> Prefetch[Block]:
    return Prefetch(lambda: _segment(plan, spans, task_cpus), depth=_AHEAD)


def _segment(plan: Plan, spans: list[tuple[int, int]], task_cpus: float) -> Iterator[Block]:
    with _context():
        dataset = ray.data.read_datasource(
            _Units(plan, spans),
            override_num_blocks=len(spans),
            num_cpus=task_cpus,
        )
        tables = iter(dataset.iterator().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        for table in tables:
            yield from_arrow(table, plan)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, DataError) else error) from None
    finally:
        close = getattr(tables, "close", None)
        if close is not None:
            close()


class _Units(Datasource):
    """A read task a unit."""

    def __init__(self, plan: Plan, spans: list[tuple[int, int]]) -> None:
        super().__init__()
        self._plan, self._spans = plan, spans

    def get_name(self) -> str:
        return "VitrayUnits"

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(self._rows(count) for _, count in self._spans) * self._plan.image_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [self._task(first, count) for first, count in self._spans]

    def _rows(self, count: int) -> int:
        return count * -(-self._plan.order.global_batch // self._plan.world_size)

    def _task(self, first: int, count: int) -> ReadTask:
        plan, rows = self._plan, self._rows(count)
        size = rows * plan.image_bytes
        metadata = BlockMetadata(num_rows=rows, size_bytes=size, exec_stats=None, input_files=None)
        return ReadTask(lambda: [to_arrow(read_unit(plan, first, count))], metadata)


def to_arrow(block: Block) -> pa.Table:
    """A block as a table whose image column is the block's own memory."""
    rows = len(block.step)
    width = int(np.prod(block.image.shape[1:]))
    image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(block.image)])
    columns = {name: pa.array(getattr(block, name)) for name in ("step", "label", "weight", "sample_id")}
    return pa.table({**columns, "image": image})


def from_arrow(table: pa.Table, plan: Plan) -> Block:
    """The block in a table, as views of the object store's memory (read-only)."""
    assert all(column.num_chunks == 1 for column in table.columns), "Ray merged blocks that were to stay apart"
    image = table.column("image").chunk(0)
    pixels = np.frombuffer(image.buffers()[1], dtype=np.uint8).reshape(-1, *plan.image_shape)
    arrays = {name: table.column(name).chunk(0).to_numpy() for name in ("step", "label", "weight", "sample_id")}
    return Block(image=pixels[image.offset : image.offset + len(image)], **arrays)


@contextmanager
def _context() -> Iterator[None]:
    """Ray Data as the stream wants it: ordered, quiet, blocks as they are; the process's own context comes back."""
    before = DataContext.get_current()
    context = before.copy()
    context.target_max_block_size = None  # else Ray merges small blocks and slices large ones
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    DataContext._set_current(context)
    try:
        yield
    finally:
        DataContext._set_current(before)
