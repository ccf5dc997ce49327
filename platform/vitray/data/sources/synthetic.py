"""Procedural images in any number, for load tests."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from vitray.data.decode import Image, encode_jpeg, encode_png
from vitray.data.sources.query import parse_query, positive
from vitray.data.sources.source import Chunk, Item
from vitray.errors import DataError

_ROWS = 128  # a chunk
_QUALITY = 85
_NOISE = 24
_SHIFT = 256
_SEED = 20_260


@dataclass(frozen=True)
class Synthetic:
    """``builtin:synthetic?classes=10&count=1000&size=256x320&channels=3&format=jpeg``; what is left out is as below.

    A class is an angle, a fineness, a hue and a shape; an image has its own phase, contrast, place of the shape, and
    noise. Image ``i`` is of class ``i % classes`` and always the same bytes.

    Attributes:
        classes: 1 to 9,999.
        count: images in all, at least one a class.
        size: pixels, ``256`` for a square or ``256x320`` for a height and a width.
        channels: 1 or 3.
        format: jpeg (quality 85: 256 x 256 in about 20 kB) or png.
    """

    name: str
    classes: int
    count: int
    height: int
    width: int
    channels: int
    format: str
    rereads: ClassVar[bool] = True

    @classmethod
    def parse(cls, spec: str) -> Synthetic:
        """Raises DataError: an unknown option, or a value out of range."""
        options = {"classes": "10", "count": "1000", "size": "64", "channels": "3", "format": "jpeg"}
        options |= parse_query(spec, options)
        sides = options["size"].split("x")
        height, width = (positive(spec, "size", side) for side in (sides if len(sides) == 2 else sides * 2)[:2])
        classes, count = (positive(spec, key, options[key]) for key in ("classes", "count"))
        problems = {
            f"size must be 64 or 64x96 (height and width), not {options['size']}": len(sides) > 2,
            f"size must be at most 4096, not {options['size']}": max(height, width) > 4096,
            f"channels must be 1 or 3, not {options['channels']}": options["channels"] not in ("1", "3"),
            f"format must be jpeg or png, not {options['format']}": options["format"] not in ("jpeg", "png"),
            f"classes must be at most 9999, not {classes}": classes > 9999,
            f"count must be at least classes, {classes}, not {count}": count < classes,
        }
        for what in (what for what, holds in problems.items() if holds):
            raise DataError(what, where=spec, remedy="for one, builtin:synthetic?classes=10&count=1000&size=64")
        options["size"] = f"{height}x{width}"
        name = "builtin:synthetic?" + "&".join(f"{key}={value}" for key, value in options.items())
        return cls(name, classes, count, height, width, int(options["channels"]), options["format"])

    @property
    def class_names(self) -> tuple[str, ...]:
        digits = len(str(self.classes - 1))  # so that the names sort as the numbers do
        return tuple(f"class-{label:0{digits}d}" for label in range(self.classes))

    def chunks(self) -> list[Chunk]:
        spans = [(start, min(start + _ROWS, self.count)) for start in range(0, self.count, _ROWS)]
        return [Chunk(number, span, span[1] - span[0]) for number, span in enumerate(spans)]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        for index in range(*chunk.place):
            yield Item(f"synthetic/{index:08d}", index % self.classes, self.reread(index), place=index)

    def reread(self, place: Any) -> bytes:
        image = self.draw(place)
        return encode_png(image) if self.format == "png" else encode_jpeg(image, _QUALITY)

    def draw(self, index: int) -> Image:
        """(height, width, channels) uint8 of one image."""
        label, own = index % self.classes, np.random.default_rng([index, _SEED])
        phase, contrast = own.uniform(0, 2 * math.pi), int(own.integers(128, 257))
        field = _grating(self.height, self.width, math.pi * label / self.classes, 3 + label % 7, phase)
        side = max(1, min(self.height, self.width) // 4)
        shape = _shape(label % 3, side)
        y, x = own.integers(0, (self.height - side + 1, self.width - side + 1))
        field[y : y + side, x : x + side] += shape
        noise_y, noise_x = own.integers(0, _SHIFT, 2)
        noise = _noise(self.height, self.width)[noise_y : noise_y + self.height, noise_x : noise_x + self.width]
        values = np.clip(((field * contrast) >> 8) + noise + 128, 0, 255).astype(np.uint8)
        if self.channels == 1:
            return values[:, :, None]
        return cv2.merge([cv2.LUT(values, table) for table in _tables(label)])


@cache
def _tables(label: int) -> list[Image]:
    """For each colour channel, what a value becomes: light has the hue of the class, shadow its opposite."""
    hue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.9, 1)
    return [np.clip(128 + np.arange(-128, 128) * (0.3 + 0.7 * part), 0, 255).astype(np.uint8) for part in hue]


def _grating(height: int, width: int, angle: float, cycles: float, phase: float) -> npt.NDArray[np.int32]:
    """A wave of -99..99. Whole numbers, since sums of floats could differ in a pixel between machines."""
    x = np.arange(width) * (2 * math.pi * cycles * math.cos(angle) / width) + phase
    y = np.arange(height) * (2 * math.pi * cycles * math.sin(angle) / height)
    waves = np.sin(x), np.cos(x), np.sin(y), np.cos(y)
    sin_x, cos_x, sin_y, cos_y = (np.rint(127 * wave).astype(np.int32) for wave in waves)
    return (sin_x[None, :] * cos_y[:, None] + cos_x[None, :] * sin_y[:, None]) * 99 // (127 * 127)


@cache
def _shape(kind: int, side: int) -> npt.NDArray[np.int32]:
    """A square, a disc or a cross to lay on an image: (side, side), 120 inside and 0 outside."""
    y, x = np.ogrid[1 - side : side : 2, 1 - side : side : 2]
    inside = [(x == x) & (y == y), x * x + y * y <= side * side, (3 * abs(x) <= side) | (3 * abs(y) <= side)]
    return inside[kind].astype(np.int32) * 120


@cache
def _noise(height: int, width: int) -> npt.NDArray[np.int8]:
    shape = height + _SHIFT, width + _SHIFT  # every image cuts its own part out of it
    return np.random.default_rng(_SEED).integers(-_NOISE, _NOISE + 1, shape, dtype=np.int8)
