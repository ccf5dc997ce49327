"""The stream that a rank consumes: units sized to the work, fetched by an executor, handed over step by step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from vitray.data.cache import DecodedChunk, DecodedSplit, Wish, decode_chunk, held
from vitray.data.damage import DamageLimit
from vitray.data.pace import Pace, Unit
from vitray.data.prefetch import ahead
from vitray.data.stream_options import Executor, StreamOptions
from vitray.data.unit import Batch, Block, Plan, batches_of, read_unit
from vitray.errors import ConfigError

__all__ = ["Executor", "StreamOptions", "stream"]

_ALONE_SECONDS = 1.0  # of decoding: the two processes through which ranks would share it take twice that to start
_CACHED_UNIT_SECONDS = 0.05  # no task has to be started for it, so it may be short
log = logging.getLogger("vitray")


def stream(plan: Plan, start: int, stop: int, options: StreamOptions) -> Iterator[Batch]:
    """Batches of steps ``start .. stop - 1`` of one rank.

    Raises:
        ConfigError: the cache was asked for and cannot be had.
        DataError: a shard cannot be read, or too many rows are damaged; names them.
    """
    limit = DamageLimit(plan.view, options.max_bad_fraction)
    for block in _blocks(plan, start, stop, options):
        limit.count(block)
        yield from batches_of(plan, block)


def _blocks(plan: Plan, start: int, stop: int, options: StreamOptions) -> Iterator[Block]:
    split = _decoded(plan, options)
    if split is not None:
        pace = Pace(plan, unit_seconds=_CACHED_UNIT_SECONDS, cached=True)
        return _in_threads(lambda unit: split.block(plan, *unit), pace, start, stop, options)
    if options.executor == "ray":
        from vitray.data.pipeline import ray_blocks  # Ray only where it is asked for

        return ray_blocks(plan, start, stop, options)
    return _in_threads(lambda unit: read_unit(plan, *unit), Pace(plan), start, stop, options)


def _in_threads(
    make: Callable[[Unit], Block], pace: Pace, start: int, stop: int, options: StreamOptions
) -> Iterator[Block]:
    def timed(unit: Unit) -> Block:
        begun = time.thread_time()  # by the clock it would count the neighbours' work, too
        block = make(unit)
        pace.saw(len(block.step), time.thread_time() - begun)
        return block

    return ahead(timed, pace.run(start, stop), options.threads, options.prefetch)


def _decoded(plan: Plan, options: StreamOptions) -> DecodedSplit | None:
    """The plan's split from memory, decoded first if it has to be; None when every epoch is to read it."""
    wish = Wish.of(plan.view, plan.size, plan.augment)
    if not wish.allowed(options.cache, options.cache_bytes):
        return None
    key = (_session(options), *wish.key)
    split = held.find(key)
    if split is None:
        if options.executor == "local" or wish.seconds <= _ALONE_SECONDS:
            split = _decode_here(wish, options)
        else:
            from vitray.data.node_cache import shared_split

            split = shared_split(wish, options.task_cpus)
        if split is None:
            if options.cache == "decoded":
                raise ConfigError(
                    f"needs {wish.bytes / 2**20:.0f} MiB for split {plan.view.split}, more than half of this node's "
                    "object store",
                    where="data.cache: decoded",
                    remedy="set data.cache=none, or start Ray with a larger object store",
                )
            log.warning("the decoded images do not fit the object store: every epoch decodes them again")
            return None
        held.put(key, split)
    return split


def _session(options: StreamOptions) -> str:
    """Whose memory the split lies in: that of an object store must not be looked at once its Ray is left."""
    if options.executor == "local":
        return "here"
    import ray

    return str(ray.get_runtime_context().get_job_id())


def _decode_here(wish: Wish, options: StreamOptions) -> DecodedSplit:
    def decode(span: tuple[int, int]) -> DecodedChunk:
        return decode_chunk(wish, *span)

    chunks = list(ahead(decode, iter(wish.chunks()), options.threads, options.prefetch))
    return DecodedSplit(chunks, wish.view.store.manifest.channels)
