"""What image files say about themselves before any pixel is decoded: sizes, and what is unusual about them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vitray.errors import DataError

_ORIENTATION = 0x0112
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323


def pixel_size(kind: str, data: bytes) -> tuple[int, int]:
    """(width, height) of a GIF, BMP, TIFF or WebP as its header says, without a decoder that would make room for it.

    Raises:
        DataError: cut off within the header, or none to be found.
    """
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, KeyError, IndexError):
        raise DataError(f"truncated {kind.upper()}") from None
    if width < 1 or height < 1:
        raise DataError(f"damaged {kind.upper()}: {width}x{height} pixels by its header")
    return width, height


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return width, abs(height)  # a negative height only says that the top row comes first


def _tiff(data: bytes) -> tuple[int, int]:
    tags = _tags(data)
    # A tile is decoded whole, however little of it the image needs.
    return max(tags[_WIDTH], tags.get(_TILE_WIDTH, 0)), max(tags[_HEIGHT], tags.get(_TILE_HEIGHT, 0))


def _webp(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + _u24(data, 24), 1 + _u24(data, 27)
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


_SIZES = {"gif": _gif, "bmp": _bmp, "tiff": _tiff, "webp": _webp}


def _u24(data: bytes, at: int) -> int:
    low, high = struct.unpack_from("<HB", data, at)
    return low | high << 16


def _tags(data: bytes) -> dict[int, int]:
    """The whole numbers among the tags of a TIFF's first directory; EXIF data are a TIFF without pixels."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    tags = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", data, entry)
        if kind in (3, 4):  # SHORT, LONG
            (tags[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)
    return tags


def webp_is_lossless(data: bytes) -> bool:
    """Whether the (first) picture in a WebP file was kept exactly."""
    at = 12
    while at + 8 <= len(data):
        chunk, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        if chunk == b"ANMF":  # a frame: its own chunks follow 16 bytes about its place
            chunk = data[at + 24 : at + 28]
        if chunk in (b"VP8 ", b"VP8L", b"ALPH"):  # what has its alpha beside it has lossy colours
            return chunk == b"VP8L"
        at += 8 + length + length % 2
    return False


def traits(kind: str, data: bytes) -> tuple[str, ...]:
    """What is unusual about a whole JPEG or PNG: of "cmyk", "16-bit", "palette", "alpha", "animated", "exif-rotated".

    "alpha" says that there is transparency to look for, be it that every pixel turns out opaque.
    """
    return tuple(_png_traits(data) if kind == "png" else _jpeg_traits(data))


def _jpeg_traits(data: bytes) -> Iterator[str]:
    at, rotated = 2, False
    while at + 4 <= len(data) and data[at + 1] != 0xDA:
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker == 0xFF:
            at += 1
            continue
        body = data[at + 4 : at + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) > 5 and body[5] == 4:
            yield "cmyk"
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            rotated |= _rotates(body[6:])
        at += 2 + length
    if rotated:
        yield "exif-rotated"


def _png_traits(data: bytes) -> Iterator[str]:
    depth, colour = data[24], data[25]
    chunks = dict(_png_chunks(data))
    if depth == 16:
        yield "16-bit"
    if colour == 3:
        yield "palette"
    if colour in (4, 6) or b"tRNS" in chunks:
        yield "alpha"
    if b"acTL" in chunks:
        yield "animated"
    if _rotates(chunks.get(b"eXIf", b"")):
        yield "exif-rotated"


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(data):
        name, (length,) = data[at + 4 : at + 8], struct.unpack_from(">I", data, at)
        yield name, b"" if name == b"IDAT" else data[at + 8 : at + 8 + length]
        if name == b"IEND":
            return
        at += 12 + length


def _rotates(exif: bytes) -> bool:
    try:
        return 2 <= _tags(exif).get(_ORIENTATION, 1) <= 8
    except (struct.error, KeyError):  # damaged metadata: decoders pass over them as well
        return False
