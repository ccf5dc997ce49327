"""Every image as it was found, decoded once and turned into the bytes that are stored.

A JPEG or PNG that :func:`~vitray.data.decode.decode` reads as everybody else does keeps its bytes. The rest is decoded
here, by Pillow, and stored as JPEG or PNG, so that training never meets another format.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np

from vitray.data.decode import MAX_PIXELS, Image, decode, encode_jpeg, encode_png, read_header, sniff
from vitray.data.headers import pixel_size, traits, webp_is_lossless
from vitray.errors import DataError

RESIZED_QUALITY = 90
CONVERTED_QUALITY = 95  # of what was lossy before: a PNG of it would be many times as large, and no better
_JPEG_SIDE = 65_535
_BY_PILLOW = ("gif", "bmp", "tiff", "webp")


@dataclass(frozen=True, slots=True)
class Normalised:
    """An image ready to be stored.

    Attributes:
        data: JPEG or PNG bytes that ``decode()`` reads.
        width: pixels of what ``decode()`` returns (upright).
        height: as ``width``.
        channels: 1 or 3.
        conversions: what was unusual about the image as found, each a thing a count is kept of: "cmyk", "16-bit",
            "palette", "alpha", "animated" (more frames or pages than the first, which is taken), "exif-rotated",
            "gif", "bmp", "tiff", "webp", "resized".
        mean: of each RGB channel of what ``decode()`` returns, in [0, 1] units; three equal ones when gray.
        square: the mean of squares, likewise.
        changed: ``data`` are not the bytes that were found.
    """

    data: bytes
    width: int
    height: int
    channels: int
    conversions: tuple[str, ...]
    mean: tuple[float, ...]
    square: tuple[float, ...]
    changed: bool


def normalise(data: bytes, *, max_pixels: int = MAX_PIXELS, size: int | None = None) -> Normalised:
    """Decode an image once; make its bytes ones that training can read.

    JPEG and PNG keep their bytes, but for transparency (composited on white) and animation. 16 bits become 8 by their
    upper half, palettes colours, CMYK RGB, and EXIF rotation is applied, all by ``decode()``. GIF, BMP, TIFF and WebP
    become PNG, a lossy WebP JPEG of quality 95.

    Args:
        data: a JPEG, PNG, GIF, BMP, TIFF or WebP file.
        max_pixels: an image whose header says more is refused before any pixel is allocated.
        size: what the shorter side becomes, in pixels, by averaging, as JPEG of quality 90; never enlarged. None keeps
            every image as large as it is.

    Raises:
        DataError: empty, no image, cut off, damaged, too large; ``what`` is the reason, the caller knows the place.
    """
    kind = sniff(data)
    if kind in ("jpeg", "png") or not data:
        header = read_header(data)
        found = traits(header.format, data)
        if "animated" in found:
            _check_pixels(header.width, header.height, max_pixels)
            return _finish(None, *_by_pillow("png", data, max_pixels, found), False, size)
        image = decode(data, header.channels, max_pixels=max_pixels)
        if "alpha" in found:
            composed, _ = _by_pillow("png", data, max_pixels, found)
            # Opaque everywhere: leaving alpha out is exact then, and the bytes can stay.
            return _finish(data if np.array_equal(composed, image) else None, composed, found, False, size)
        return _finish(data, image, found, False, size)
    if kind not in _BY_PILLOW:
        raise DataError(f"not an image of a kind that can be used, but {kind.upper()}" if kind else "not an image")
    _check_pixels(*pixel_size(kind, data), max_pixels)
    image, found = _by_pillow(kind, data, max_pixels, ())
    return _finish(None, image, (kind, *found), kind == "webp" and not webp_is_lossless(data), size)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DataError(f"{width}x{height} pixels by its header, more than {max_pixels:,}")


def _finish(stored: bytes | None, image: Image, found: tuple[str, ...], lossy: bool, size: int | None) -> Normalised:
    """``stored`` are the found bytes, where they can stay."""
    quality = CONVERTED_QUALITY if lossy else None
    if size is not None and min(image.shape[:2]) > size:
        stored, image, quality, found = None, _shrink(image, size), RESIZED_QUALITY, (*found, "resized")
    changed = stored is None
    height, width, channels = image.shape
    if stored is None and quality is not None and max(height, width) <= _JPEG_SIDE:
        stored = encode_jpeg(image, quality, full_colour=quality == CONVERTED_QUALITY)
        image = decode(stored, channels, max_pixels=height * width)
    elif stored is None:
        stored = encode_png(image)
    mean, std = (moment.ravel() / 255 for moment in cv2.meanStdDev(image))
    means, squares = mean.tolist() * (3 // channels), (std**2 + mean**2).tolist() * (3 // channels)
    return Normalised(stored, width, height, channels, found, tuple(means), tuple(squares), changed)


def _shrink(image: Image, size: int) -> Image:
    height, width, channels = image.shape
    short = min(height, width)
    # Integers all the way: a float here could differ between machines by a pixel.
    new = tuple((2 * side * size + short) // (2 * short) for side in (width, height))
    return cv2.resize(image, new, interpolation=cv2.INTER_AREA).reshape(new[1], new[0], channels)


@cache
def _pillow() -> Any:
    from PIL import Image as pillow  # noqa: N813  # few images need it, so few processes load it

    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with an image is raised with its reason
    return pillow


def _by_pillow(kind: str, data: bytes, max_pixels: int, found: tuple[str, ...]) -> tuple[Image, tuple[str, ...]]:
    """The first frame, upright and opaque, and ``found`` with what else is unusual about it."""
    from PIL.ImageOps import exif_transpose

    try:
        with _pillow().open(io.BytesIO(data), formats=[kind.upper()]) as picture:
            width, height = picture.size
            _check_pixels(width, height, max_pixels)  # a GIF's first frame may be larger than its header says
            seen = _traits_by_pillow(picture)
            picture.load()
            image = _opaque(exif_transpose(picture))
    except DataError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged files, and one image must not stop the others
        name = kind.upper()
        cut = "truncated" in str(error)
        raise DataError(f"truncated {name}" if cut else f"damaged {name}: cannot be decoded") from None
    return image, (*found, *(name for name in seen if name not in found))


def _traits_by_pillow(picture: Any) -> list[str]:
    """As :func:`~vitray.data.headers.traits`, for what Pillow has opened and not yet loaded."""
    checks: dict[str, Callable[[], bool]] = {
        "cmyk": lambda: picture.mode == "CMYK",
        "16-bit": lambda: max(getattr(picture, "tag_v2", {}).get(258, (8,))) > 8,
        "palette": lambda: picture.mode in ("P", "PA") and picture.format != "GIF",  # a GIF has no choice
        "alpha": lambda: picture.has_transparency_data,
        "animated": lambda: getattr(picture, "is_animated", False),
        "exif-rotated": lambda: picture.getexif().get(0x0112, 1) in range(2, 9),
    }
    return [name for name, holds in checks.items() if holds()]


def _opaque(picture: Any) -> Image:
    """(H, W, C) uint8 of a loaded picture: gray stays gray, transparent parts lie on white."""
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        image = (values >> 8).astype(np.uint8)  # as decode() does; Pillow's own conversion cuts off above 255
        image[values == picture.info.get("transparency", -1)] = 255
        return image[:, :, None]
    if picture.mode in ("I", "F"):
        raise DataError("pixels are 32-bit numbers, of no known range")
    gray = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = _pillow().alpha_composite(_pillow().new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        picture = picture.getchannel(0) if gray else picture
    image = np.asarray(picture.convert("L" if gray else "RGB"))
    return np.ascontiguousarray(image.reshape(*image.shape[:2], -1))
