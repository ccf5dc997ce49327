"""Encoded bytes to pixels and back, with OpenCV alone: data tasks never import torch.

H: height, W: width, C: channels (1 or 3, RGB order). Every image is uint8 and C-contiguous.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vitray.errors import DataError

# Parallelism comes from the tasks and threads that call these functions; a pool inside each would only fight them.
cv2.setNumThreads(0)
# What cannot be decoded is raised with its reason, so OpenCV need not warn of it as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

Image = npt.NDArray[np.uint8]

MAX_PIXELS = 64_000_000
_AVERAGED_FROM = 4 / 3

_SIGNATURES = {
    "jpeg": (b"\xff\xd8\xff",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "gif": (b"GIF87a", b"GIF89a"),
    "bmp": (b"BM",),
    "tiff": (b"II*\x00", b"MM\x00*"),
    "svg": (b"<svg", b"<!doctype svg"),
    "html": (b"<!doctype html", b"<html", b"<head", b"<!--"),
    "xml": (b"<?xml",),
}
_MARKUP = frozenset({"svg", "html", "xml"})
_BRANDS = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"heix": "heic", b"mif1": "heic"}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC


@dataclass(frozen=True, slots=True)
class Header:
    """What an encoded image says before any pixel is decoded; ``channels`` is 1 for grayscale, else 3."""

    format: str
    width: int
    height: int
    channels: int


def sniff(data: bytes) -> str | None:
    """The format that the first bytes show: jpeg, png, gif, bmp, tiff, webp, avif, heic, svg, html or xml, or None."""
    head = data[:64]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for name, starts in _SIGNATURES.items():
        if (text if name in _MARKUP else head).startswith(starts):
            return "svg" if name == "xml" and b"<svg" in data[:4096] else name
    return None


def read_header(data: bytes) -> Header:
    """Size and channels of a JPEG or PNG from its header alone, the end of the file checked for truncation.

    Raises:
        DataError: empty, another format, or cut off; ``what`` is the reason.
    """
    if not data:
        raise DataError("empty file")
    kind = sniff(data)
    if kind == "jpeg":
        return _jpeg_header(data)
    if kind == "png":
        return _png_header(data)
    raise DataError(f"not a JPEG or PNG, but {kind.upper()}" if kind else "not a JPEG or PNG")


def header_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a JPEG or PNG as stored (before any EXIF rotation). Raises as :func:`read_header`."""
    header = read_header(data)
    return header.width, header.height


def _jpeg_header(data: bytes) -> Header:
    found: Header | None = None
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise DataError("damaged JPEG: no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _JPEG_FRAMES and at + 10 <= len(data):
            height, width, components = struct.unpack_from(">HHB", data, at + 5)
            found = Header("jpeg", width, height, 1 if components == 1 else 3)
        if marker == 0xDA:
            # An end marker before here belongs to a thumbnail; only one after the scan shows that all is there.
            if found and (data.endswith(b"\xff\xd9") or data.find(b"\xff\xd9", at) >= 0):
                return found
            break
        at += 2 + length
    raise DataError("truncated JPEG")


def _png_header(data: bytes) -> Header:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise DataError("truncated PNG")
    width, height, _, colour = struct.unpack_from(">IIBB", data, 16)
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return Header("png", width, height, 1 if colour in (0, 4) else 3)
        (length,) = struct.unpack_from(">I", data, at)
        at += 12 + length
    raise DataError("truncated PNG")


def decode(data: bytes, channels: int, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a JPEG or PNG to (H, W, channels) uint8, RGB, upright (EXIF rotation applied).

    Colour becomes grayscale by luma when ``channels`` is 1; gray is repeated when it is 3; 16 bits become 8.

    Raises:
        DataError: empty, another format, cut off, damaged, or more than ``max_pixels`` by its header (then no pixel
            is allocated); ``what`` is the reason, the caller knows the place.
    """
    header = read_header(data)
    if header.width * header.height > max_pixels:
        raise DataError(f"{header.width}x{header.height} pixels by its header, more than {max_pixels:,}")
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        image = None
    if image is None:
        raise DataError(f"damaged {header.format.upper()}: cannot be decoded")
    return image.reshape(image.shape[0], image.shape[1], channels)


def encode_png(image: Image) -> bytes:
    """PNG bytes of (H, W), (H, W, 1) or (H, W, 3) RGB uint8; the same pixels always give the same bytes."""
    if image.ndim == 3 and image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", image)
    assert done, image.shape
    return bytes(data)


def encode_jpeg(image: Image, quality: int, *, full_colour: bool = False) -> bytes:
    """JPEG bytes of (H, W), (H, W, 1) or (H, W, 3) RGB uint8, no side above 65,535 pixels.

    ``full_colour`` keeps colours at full resolution (4:4:4), where half of it (4:2:0) is usual.
    """
    if image.ndim == 3 and image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full_colour else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    done, data = cv2.imencode(".jpg", image, options)
    assert done, image.shape
    return bytes(data)


def interpolation(image: Image, size: tuple[int, int]) -> int:
    """OpenCV's best interpolation for resizing ``image`` to ``size`` (height, width).

    Averaging where it shrinks; but by less than a third nothing aliases yet, and averaging costs five times as much.
    """
    down, across = image.shape[0] / size[0], image.shape[1] / size[1]
    averages = min(down, across) >= 1 and max(down, across) >= _AVERAGED_FROM
    return int(cv2.INTER_AREA if averages else cv2.INTER_LINEAR)


def fit(image: Image, size: tuple[int, int]) -> Image:
    """The evaluation transform: the largest centred part with the shape of ``size``, resized to it.

    The same picture as resizing until ``size`` is covered and cropping the centre, but cropping first never makes the
    intermediate image, which for a 1 x 10,000 strip would be gigantic.

    Args:
        image: (H, W, C) uint8.
        size: (height, width) wanted.

    Returns:
        (height, width, C) uint8, contiguous; ``image`` itself, uncopied, when it already has that size.
    """
    (height, width), (old_height, old_width) = size, image.shape[:2]
    if (old_height, old_width) == (height, width):
        return image
    # Integers all the way: a float here could differ between machines by a pixel.
    crop_height = min(old_height, max(1, (2 * old_width * height + width) // (2 * width)))
    crop_width = min(old_width, max(1, (2 * old_height * width + height) // (2 * height)))
    top, left = (old_height - crop_height) // 2, (old_width - crop_width) // 2
    crop = image[top : top + crop_height, left : left + crop_width]
    if (crop_height, crop_width) == (height, width):
        return np.ascontiguousarray(crop)
    resized = cv2.resize(crop, (width, height), interpolation=interpolation(crop, size))
    return resized.reshape(height, width, image.shape[2])
