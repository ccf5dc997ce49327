"""How many steps make a unit: as many as keep one task busy for about a third of a second, by the clock."""

from __future__ import annotations

from collections.abc import Iterator

from vitray.data.unit import Plan

Unit = tuple[int, int]  # first step, steps

_UNIT_SECONDS = 0.3  # a task costs about 20 ms whatever it does
_UNIT_BYTES = 96 * 2**20
_UNIT_STEPS = 256
_BLOCK_BYTES = 4 * 2**20
_ROW_BYTES = 28  # what a row has beside its image
_BLOCK_ROWS = 24
# On one core, measured at 8 and 256 pixels: OpenCV's decode and crop, and the crop alone.
_SECONDS_A_ROW, _SECONDS_A_PIXEL, _SECONDS_A_CACHED_PIXEL = 20e-6, 6e-9, 2e-9
_TRUST = 0.5  # in the newest measurement, against all earlier ones


def decode_seconds(rows: int, pixels: float) -> float:
    """What reading and decoding takes one core, about."""
    return rows * _SECONDS_A_ROW + pixels * _SECONDS_A_PIXEL


class Pace:
    """The length of a plan's units: estimated at first, then measured task by task.

    Args:
        unit_seconds: how long a unit is to last.
        cached: the images are decoded already.
    """

    def __init__(self, plan: Plan, *, unit_seconds: float = _UNIT_SECONDS, cached: bool = False) -> None:
        self._unit_seconds = unit_seconds
        self._rows = max(1, plan.order.global_batch // plan.world_size)
        self._most = _UNIT_BYTES // max(1, self._rows * plan.image_bytes)
        height, width = plan.view.store.manifest.image_size or plan.size
        a_pixel = _SECONDS_A_CACHED_PIXEL if cached else _SECONDS_A_PIXEL
        self._seconds_a_row = _SECONDS_A_ROW + height * width * a_pixel
        self.measured = False
        self._short = plan.order.rows % plan.order.global_batch > 0  # an epoch's last step
        self._per_epoch = plan.order.steps_per_epoch
        step_bytes = self._rows * (plan.image_bytes + _ROW_BYTES)
        self._step_bytes = step_bytes
        self.block_bytes = step_bytes if step_bytes >= _BLOCK_BYTES and self._rows >= _BLOCK_ROWS else None
        """Bytes of a block where each step of a unit is one of its own: large ones are copied while they are still in
        the processor's cache. None where a unit is one block."""

    @property
    def steps(self) -> int:
        """Steps of the next unit, at least 1; its block stays under 96 MiB where one step does."""
        return max(1, min(int(self._unit_seconds / (self._rows * self._seconds_a_row)), self._most, _UNIT_STEPS))

    @property
    def unit_bytes(self) -> int:
        """Of the largest unit there can be."""
        return self._step_bytes * max(1, min(self._most, _UNIT_STEPS))

    def saw(self, rows: int, seconds: float) -> None:
        """A task worked ``seconds`` on ``rows`` rows."""
        newest = max(seconds, 1e-6) / max(1, rows)
        trust = _TRUST if self.measured else 1.0
        self._seconds_a_row += trust * (newest - self._seconds_a_row)
        self.measured = True

    def run(self, start: int, stop: int) -> Iterator[Unit]:
        """The units of steps ``start .. stop - 1``, each as long as is known when it is asked for.

        Before anything is measured they begin with a single step, so that the first batch comes soon.
        """
        number = 0
        while start < stop:
            count = min(self.steps if self.measured or number > 1 else 1, stop - start)
            if self.block_bytes and self._short:  # a block that is short comes last in its unit
                count = min(count, self._per_epoch - start % self._per_epoch)
            yield start, count
            start, number = start + count, number + 1
