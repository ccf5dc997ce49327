"""Bytes to pixels: exact, honest about damage, safe against bombs."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image as Pil

from vitray.data.decode import decode, encode_png, fit, header_size, read_header, sniff
from vitray.errors import DataError

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]))
IMAGES = SHAPES.flatmap(lambda shape: hnp.arrays(np.uint8, shape))


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture that JPEG keeps well: a colour gradient."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    return ((y * rng.uniform(size=3) + x * rng.uniform(size=3)) * 127).astype(np.uint8)


def encoded(image: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = Pil.fromarray(image)
    (picture.convert(mode) if mode else picture).save(file, kind, **options)
    return file.getvalue()


def without_quantisation(height: int, width: int) -> bytes:
    """A PNG that only claims its size: a bomb's header on a small file."""
    data = encoded(np.zeros((4, 4, 3), np.uint8), "PNG")
    return data[:16] + struct.pack(">II", width, height) + data[24:]


@given(IMAGES)
@settings(max_examples=60, deadline=None)
def test_png_round_trip_is_exact_and_agrees_with_pil(image: np.ndarray) -> None:
    data = encode_png(image)
    channels = image.shape[2]
    back = decode(data, channels)
    assert np.array_equal(back, image)
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous
    assert header_size(data) == (image.shape[1], image.shape[0])
    assert read_header(data).channels == channels
    pil = np.asarray(Pil.open(io.BytesIO(data)))
    assert np.array_equal(pil.reshape(image.shape), image)  # RGB order, as everybody else reads it
    assert encode_png(image) == data


def test_a_grayscale_image_is_repeated_for_three_channels() -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    assert np.array_equal(decode(encode_png(gray), 3), np.repeat(gray, 3, axis=2))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}])
def test_jpeg_is_close_to_pil_and_its_header_tells_its_size(options: dict[str, Any]) -> None:
    data = encoded(smooth(50, 70), "JPEG", **options)
    mine, pil = decode(data, 3), np.asarray(Pil.open(io.BytesIO(data)))
    assert mine.shape == (50, 70, 3)
    assert np.abs(mine.astype(int) - pil).max() <= 3  # two libraries' colour rounding
    assert header_size(data) == (70, 50)


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "1", "I;16"])
def test_every_kind_of_png_becomes_eight_bit_rgb(mode: str) -> None:
    image = smooth(9, 7)
    picture = (
        Pil.fromarray(np.full((9, 7), 40_000, np.uint16)) if mode == "I;16" else Pil.fromarray(image).convert(mode)
    )
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert decode(file.getvalue(), 3).shape == (9, 7, 3)
    assert decode(file.getvalue(), 1).shape == (9, 7, 1)


def test_cmyk_jpeg_becomes_rgb() -> None:
    data = encoded(smooth(32, 32), "JPEG", mode="CMYK")
    assert np.abs(decode(data, 3).astype(int) - smooth(32, 32)).mean() < 4


def test_exif_rotation_is_applied() -> None:
    exif = Pil.Exif()
    exif[0x112] = 6
    assert decode(encoded(smooth(20, 30), "JPEG", exif=exif.tobytes()), 3).shape == (30, 20, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>404</html>", "not a JPEG or PNG, but HTML"),
        (b"GIF89a" + bytes(40), "not a JPEG or PNG, but GIF"),
        (b"hello, world", "not a JPEG or PNG"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError) as error:
        decode(data, 3)
    assert error.value.what == reason


@given(st.sampled_from(["JPEG", "PNG"]), st.integers(1, 800))
@settings(max_examples=60, deadline=None)
def test_a_truncated_image_is_refused_wherever_it_is_cut(kind: str, missing: int) -> None:
    data = encoded(smooth(64, 64), kind)
    # A PNG's last 12 bytes are its end mark; a JPEG's are 2.
    with pytest.raises(DataError, match=r"truncated|empty|not a JPEG"):
        decode(data[: max(0, len(data) - missing)], 3)


def test_truncation_is_seen_behind_an_embedded_thumbnail() -> None:
    thumbnail = encoded(smooth(8, 8), "JPEG")
    data = encoded(smooth(64, 64), "JPEG")
    app = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + app + data[2:]
    assert decode(whole, 3).shape == (64, 64, 3)
    with pytest.raises(DataError, match="truncated JPEG"):
        decode(whole[:-40], 3)


def test_a_bomb_is_refused_from_its_header() -> None:
    with pytest.raises(DataError, match=r"100000x100000 pixels by its header"):
        decode(without_quantisation(100_000, 100_000), 3)
    with pytest.raises(DataError, match="more than 99"):
        decode(encode_png(np.zeros((10, 10, 3), np.uint8)), 3, max_pixels=99)


def test_a_flipped_byte_in_a_png_is_damage() -> None:
    data = bytearray(encode_png(smooth(40, 40)))
    data[len(data) // 2] ^= 1
    with pytest.raises(DataError, match="damaged PNG"):
        decode(bytes(data), 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_sniff_tells_formats_by_content(kind: str) -> None:
    assert sniff(encoded(smooth(8, 8), kind)) == kind.lower()


@given(IMAGES, st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_fit_gives_the_size_asked_for(image: np.ndarray, height: int, width: int) -> None:
    fitted = fit(image, (height, width))
    assert fitted.shape == (height, width, image.shape[2])
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    assert image.min() <= fitted.min()
    assert fitted.max() <= image.max()


def test_fit_of_the_right_size_is_no_copy() -> None:
    image = smooth(8, 8)
    assert fit(image, (8, 8)) is image


def test_fit_halves_by_averaging_and_crops_the_centre() -> None:
    image = smooth(16, 24)
    centre = image[:, 4:20].astype(int)
    mean = (centre[::2, ::2] + centre[1::2, ::2] + centre[::2, 1::2] + centre[1::2, 1::2]) / 4
    assert np.abs(fit(image, (8, 8)) - mean).max() <= 0.5


def test_fit_of_a_strip_needs_no_giant_image() -> None:
    assert fit(np.full((1, 100_000, 3), 7, np.uint8), (224, 224)).max() == 7
