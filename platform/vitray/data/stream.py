"""The stream that a rank consumes: units sized to the work, fetched by an executor, handed over step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from vitray.data import cache
from vitray.data.order import Order
from vitray.data.prefetch import Prefetch
from vitray.data.unit import Batch, Block, Plan, batches_of, read_unit
from vitray.errors import ConfigError

Executor = Literal["local", "ray"]
_UNIT_SECONDS = 0.3  # a task costs about 20 ms whatever it does
_UNIT_BYTES = 64 * 2**20
_SECONDS_A_ROW, _SECONDS_A_PIXEL = 20e-6, 6e-9  # OpenCV's decode and crop on one core, measured at 8 and 256 pixels


@dataclass(frozen=True)
class StreamOptions:
    """How the bytes are fetched; never what is seen.

    Args:
        executor: "local" works in this process, "ray" in Ray Data tasks.
        cache: "decoded" keeps the split's decoded pixels, "none" never, "auto" when they fit ``cache_bytes``.
        task_cpus: CPUs that a data task reserves.
    """

    executor: Executor = "local"
    cache: Literal["auto", "none", "decoded"] = "auto"
    cache_bytes: int = 2**30
    task_cpus: float = 1.0


def stream(plan: Plan, start: int, stop: int, options: StreamOptions) -> Iterator[Batch]:
    """Batches of steps ``start .. stop - 1`` of one rank."""
    for block in _blocks(plan, start, stop, options):
        yield from batches_of(plan, block)


def _blocks(plan: Plan, start: int, stop: int, options: StreamOptions) -> Iterator[Block]:
    units = range(start, stop, unit_steps(plan))
    if _caches(plan, options):
        yield from cache.decoded_blocks(plan, cache.held(plan) or _decode(plan, options), units, stop)
    elif options.executor == "ray":
        yield from _through_ray(plan, units, stop, options)
    else:
        yield from Prefetch(lambda: _locally(plan, units, stop), depth=2)


def unit_steps(plan: Plan) -> int:
    """Steps in a unit, such that its task lasts about 0.3 s and its block stays under 64 MiB."""
    rows = max(1, plan.order.global_batch // plan.world_size)
    height, width = plan.view.store.manifest.image_size or plan.size
    seconds = rows * (_SECONDS_A_ROW + height * width * _SECONDS_A_PIXEL)
    return max(1, int(min(_UNIT_SECONDS / seconds, _UNIT_BYTES / (rows * plan.image_bytes), 64)))


def _caches(plan: Plan, options: StreamOptions) -> bool:
    stored = plan.view.store.manifest.image_size
    if stored is None or options.cache == "none":
        if options.cache == "decoded":
            raise ConfigError(
                "cannot hold images of different sizes",
                where="data.cache: decoded",
                remedy="prepare the data at one size, or set data.cache=none",
            )
        return False
    need = plan.view.rows * stored[0] * stored[1] * plan.view.store.manifest.channels
    if need > options.cache_bytes and options.cache == "decoded":
        raise ConfigError(
            f"needs {need / 2**20:.0f} MiB for split {plan.view.split}, more than data.cache_bytes allows",
            where="data.cache: decoded",
            remedy=f"set data.cache_bytes={need} or data.cache=none",
        )
    return need <= options.cache_bytes


def _decode(plan: Plan, options: StreamOptions) -> cache.DecodedSplit:
    """One pass over the split in its stored order, at its stored size, by whichever executor."""
    view = plan.view
    size = view.store.manifest.image_size
    assert size is not None, "only images of one size are cached"
    order = Order(view.store.fingerprint, view.split, view.rows, view.store.rows_per_group, 4096, shuffle=False)
    whole = Plan(view, order, rank=0, world_size=1, size=size, augment=None)
    blocks = _blocks(whole, 0, order.steps_per_epoch, replace(options, cache="none"))
    return cache.hold(plan, cache.DecodedSplit.from_blocks(view.rows, blocks))


def _locally(plan: Plan, units: range, stop: int) -> Iterator[Block]:
    for first in units:
        yield read_unit(plan, first, min(units.step, stop - first))


def _through_ray(plan: Plan, units: range, stop: int, options: StreamOptions) -> Iterator[Block]:
    from vitray.data.pipeline import ray_blocks  # Ray only where it is asked for

    return ray_blocks(plan, units, stop, task_cpus=options.task_cpus)
