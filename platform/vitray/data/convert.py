"""Every image as it was found, decoded once and turned into the bytes that are stored."""

from __future__ import annotations

from dataclasses import dataclass

from vitray.data.decode import MAX_PIXELS


@dataclass(frozen=True, slots=True)
class Normalised:
    """An image ready to be stored."""

    data: bytes
    width: int
    height: int
    channels: int
    conversions: tuple[str, ...]
    mean: tuple[float, float, float]
    square: tuple[float, float, float]
    changed: bool


def normalise(data: bytes, *, max_pixels: int = MAX_PIXELS, size: int | None = None) -> Normalised:
    raise NotImplementedError
