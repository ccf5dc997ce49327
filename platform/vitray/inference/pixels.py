"""Any image file as a prepared dataset would hold it, so that a model sees what it was trained on."""

from __future__ import annotations

from vitray.data.convert import normalise
from vitray.data.decode import Image, decode, sniff
from vitray.data.headers import traits

_CONVERTED = frozenset({"gif", "bmp", "tiff", "webp"})
_UNUSUAL = frozenset({"alpha", "animated"})  # what decoders do not agree on


def pixels_of(data: bytes, channels: int) -> Image:
    """Decode to (H, W, channels) uint8, RGB, upright: GIF, BMP, TIFF and WebP, too, transparent parts on white.

    Raises:
        DataError: no image, cut off, damaged or too large; ``what`` is the reason.
    """
    kind = sniff(data)
    # 33 bytes: what a PNG's header takes; of fewer decode() says what is wrong.
    if kind in _CONVERTED or (kind == "png" and len(data) >= 33 and _UNUSUAL & set(traits("png", data))):
        data = normalise(data).data
    return decode(data, channels)
