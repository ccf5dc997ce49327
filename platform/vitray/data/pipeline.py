"""Units through Ray Data: a rank's own pipeline, in order, a block a unit, never merged, split or copied.

The work is cut into segments, so that a run of any length keeps a bounded list of tasks, and the next segment's tasks
are under way before the current one ends.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from vitray.data import spilling
from vitray.data.lookahead import Lookahead
from vitray.data.pace import Pace, Unit
from vitray.data.prefetch import Prefetch
from vitray.data.ray_context import check_room, object_store_bytes, read_in_order
from vitray.data.recent import Recent
from vitray.data.stream_options import StreamOptions
from vitray.data.unit import Block, Plan, read_unit
from vitray.errors import DataError

SEGMENT_UNITS = 128
FIRST_SEGMENT_UNITS = 16  # then the units' true cost is known
_STORE_SHARE = 0.4  # of a node's object store for all blocks under way; half of it is for decoded splits
_TARGET = 0.9  # of a block's bytes: ranks' shares of a step differ by a row or three
_PATIENCE_S = 60.0  # without a block before somebody looks whether there will be one
_AGAIN_S = 1.0  # between two looks whether there is room
_SECONDS = b"vitray.seconds"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

Made = tuple[Block, float]


def ray_blocks(plan: Plan, start: int, stop: int, options: StreamOptions) -> Iterator[Block]:
    """The blocks of steps ``start .. stop - 1``, in order. Where there is no room for them, which is told once, they
    come when there is."""
    waits = False
    while True:
        try:
            for block in _blocks(plan, start, stop, options):
                if waits:
                    options.tell("there is room for data again")
                waits, start = False, int(block.step[-1]) + 1
                yield block
            return
        except ray.exceptions.RayError as error:
            if not spilling.is_full(error):
                raise
        if not waits:
            needed = plan.image_bytes * -(-plan.order.global_batch // plan.world_size)
            options.tell(f"training waits: {spilling.full(needed)}")
        waits = True
        time.sleep(_AGAIN_S)


def _blocks(plan: Plan, start: int, stop: int, options: StreamOptions) -> Iterator[Block]:
    pace = Pace(plan)
    store = object_store_bytes(ray.get_runtime_context().get_node_id())
    fitting = int(_STORE_SHARE * store / options.ranks_here / pace.unit_bytes)
    shared = ray.put(plan)  # once for all tasks: the manifest of a large dataset is large
    lookahead = Lookahead(max(2, min(options.workers + options.prefetch, fitting)))

    def begin(first: int, most: int) -> tuple[Prefetch[Made] | None, list[Unit], int]:
        units = list(itertools.islice(pace.run(first, stop), most))
        if not units:
            return None, units, stop
        running = Prefetch(
            lambda: _segment(plan, shared, units, options, lookahead, pace.block_bytes),
            depth=1,
            patience=_PATIENCE_S,
            out_of_patience=lambda: _check_room(options),
        )
        return running, units, units[-1][0] + units[-1][1]

    upcoming, units, following = begin(start, FIRST_SEGMENT_UNITS)
    try:
        while upcoming is not None:
            current, upcoming, left = upcoming, None, len(units)
            ends = {first + count - 1 for first, count in units}
            for block, seconds in current:
                pace.saw(len(block.step), seconds)
                if int(block.step[-1]) in ends:
                    lookahead.take()
                    left -= 1
                if left <= lookahead.limit and upcoming is None and following < stop:
                    upcoming, units, following = begin(following, SEGMENT_UNITS)
                yield block
    finally:
        if upcoming is not None:
            upcoming.close()
        lookahead.close()


def _segment(
    plan: Plan, shared: Any, units: list[Unit], options: StreamOptions, lookahead: Lookahead, block_bytes: int | None
) -> Iterator[Made]:
    def change(context: DataContext) -> None:
        lookahead.govern(context)
        if block_bytes:  # Ray hands over what has grown beyond this, and slices what is half as large again
            context.target_max_block_size = int(_TARGET * block_bytes)

    dataset = read_in_order(
        _Units(plan, shared, units, stepwise=block_bytes is not None),
        len(units),
        num_cpus=options.task_cpus,
        label_selector=_place(options),
        change=change,
    )
    bundles = iter(dataset.iter_internal_ref_bundles())
    try:
        for bundle in bundles:
            for reference in bundle.block_refs:
                yield from_arrow(ray.get(reference), plan)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, DataError) else error) from None


def _place(options: StreamOptions) -> dict[str, str] | None:
    """Where tasks may run: on this node, or anywhere."""
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()} if options.near else None


def _check_room(options: StreamOptions) -> None:
    check_room(
        options.task_cpus,
        what="the tasks that read data",
        where="data.workers",
        remedy="end what else runs there, add a node, or lower cluster.workers",
        patience=_PATIENCE_S,
        label_selector=_place(options),
    )


class _Units(Datasource):
    """A read task a unit."""

    def __init__(self, plan: Plan, shared: Any, units: list[Unit], *, stepwise: bool) -> None:
        super().__init__()
        self._shared, self._units, self._stepwise = shared, units, stepwise
        self._rows = -(-plan.order.global_batch // plan.world_size)
        self._row_bytes = plan.image_bytes

    def get_name(self) -> str:
        return "VitrayUnits"

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(count for _, count in self._units) * self._rows * self._row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [self._task(first, count) for first, count in self._units]

    def _task(self, first: int, count: int) -> ReadTask:
        shared, parts, rows = self._shared, [(first, count)], count * self._rows
        if self._stepwise:
            parts = [(step, 1) for step in range(first, first + count)]
        metadata = BlockMetadata(num_rows=rows, size_bytes=rows * self._row_bytes, exec_stats=None, input_files=None)
        return ReadTask(lambda: _make(shared, parts), metadata)


_plans: Recent[Plan] = Recent(limit=8)


def _make(shared: Any, parts: list[Unit]) -> Iterator[pa.Table]:
    """What a task does: the blocks of the steps in ``parts``, each handed over before the next is begun."""
    _settle_in()
    plan = _plans.get(shared.hex(), lambda: ray.get(shared))
    for first, count in parts:
        start = time.thread_time()
        table = to_arrow(read_unit(plan, first, count))
        yield table.replace_schema_metadata({_SECONDS: str(time.thread_time() - start)})


@cache
def _settle_in() -> None:
    """Make this process fit for many units.

    It keeps the memory of one block for the next, since fresh pages cost a sixth of a task's time; and what is imported
    by now is no longer searched for garbage, which cost a twentieth.
    """
    gc.collect()
    gc.freeze()
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):  # no glibc
        return


def to_arrow(block: Block) -> pa.Table:
    """A block as a table whose image column is the block's own memory."""
    rows = len(block.step)
    width = int(np.prod(block.image.shape[1:]))
    image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(block.image)])
    columns = {name: pa.array(getattr(block, name)) for name in ("step", "label", "weight", "sample_id")}
    return pa.table({**columns, "image": image})


def from_arrow(table: pa.Table, plan: Plan) -> Made:
    """The block in a table, as views of the object store's memory (read-only), and the seconds that it took."""
    assert all(column.num_chunks == 1 for column in table.columns), "Ray merged blocks that were to stay apart"
    image = table.column("image").chunk(0)
    pixels = np.frombuffer(image.buffers()[1], dtype=np.uint8).reshape(-1, *plan.image_shape)
    arrays = {name: table.column(name).chunk(0).to_numpy() for name in ("step", "label", "weight", "sample_id")}
    block = Block(image=pixels[image.offset : image.offset + len(image)], **arrays)
    return block, float((table.schema.metadata or {}).get(_SECONDS, b"0"))
