"""What becomes of an image as it was found: Pillow's pixels, or a reason."""

from __future__ import annotations

import io
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pil
from PIL import ImageOps

from vitray.data.convert import normalise
from vitray.data.decode import decode, sniff
from vitray.errors import DataError

RNG = np.random.default_rng(0)
RGB = cv2.resize(RNG.integers(0, 255, (5, 4, 3), dtype=np.uint8), (40, 30))
ALPHA = cv2.resize(RNG.integers(0, 255, (5, 4), dtype=np.uint8), (40, 30))
DEEP = cv2.resize(RNG.integers(0, 65535, (5, 4), dtype=np.uint16), (40, 30))
FRAMES = [Pil.fromarray(np.roll(RGB, 9 * i, 0)) for i in range(3)]
COLOUR, GRAY = Pil.fromarray(RGB), Pil.fromarray(RGB).convert("L")
SEE_THROUGH = COLOUR.copy()
SEE_THROUGH.putalpha(Pil.fromarray(ALPHA))


def encoded(picture: Pil.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def rotated(kind: str, orientation: int) -> bytes:
    exif = Pil.Exif()
    exif[0x112] = orientation
    return encoded(COLOUR, kind, exif=exif if kind == "TIFF" else exif.tobytes())


def animated(kind: str, **options: Any) -> bytes:
    return encoded(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:], **options)


def opened(data: bytes) -> Pil.Image:
    return ImageOps.exif_transpose(Pil.open(io.BytesIO(data)))


def pixels(data: bytes, channels: int) -> np.ndarray:
    return np.asarray(opened(data).convert("L" if channels == 1 else "RGB")).reshape(*opened(data).size[::-1], channels)


def close(image: np.ndarray, expected: np.ndarray, *, again: bool, exact: bool) -> None:
    """The same pixels; but for two libraries' rounding where a JPEG was kept, or what a JPEG made ``again`` costs."""
    difference = np.abs(image.astype(int) - expected)
    assert difference.max() <= (12 if again else 0 if exact else 2)
    assert difference.mean() <= 2


EVERY = {
    "jpeg": encoded(COLOUR, "JPEG"),
    "gray jpeg": encoded(GRAY, "JPEG"),
    "cmyk jpeg": encoded(COLOUR.convert("CMYK"), "JPEG"),
    "png": encoded(COLOUR, "PNG"),
    "gray png": encoded(GRAY, "PNG"),
    "bilevel png": encoded(GRAY.convert("1"), "PNG"),
    "palette png": encoded(COLOUR.quantize(16), "PNG"),
    "alpha png": encoded(SEE_THROUGH, "PNG"),
    "animated png": animated("PNG", default_image=True),
    "gif": encoded(COLOUR, "GIF"),
    "animated gif": animated("GIF"),
    "bmp": encoded(COLOUR, "BMP"),
    "tiff": encoded(COLOUR, "TIFF"),
    "lzw tiff": encoded(COLOUR, "TIFF", compression="tiff_lzw"),
    "cmyk tiff": encoded(COLOUR.convert("CMYK"), "TIFF"),
    "webp": encoded(COLOUR, "WEBP"),
    "lossless webp": encoded(COLOUR, "WEBP", lossless=True),
    "animated webp": animated("WEBP", lossless=True),
}


@pytest.mark.parametrize(
    ("name", "conversions", "stored"),
    [
        ("jpeg", (), None),
        ("gray jpeg", (), None),
        ("cmyk jpeg", ("cmyk",), None),
        ("png", (), None),
        ("gray png", (), None),
        ("bilevel png", (), None),
        ("palette png", ("palette",), None),
        ("animated png", ("animated",), "png"),
        ("gif", ("gif",), "png"),
        ("animated gif", ("gif", "animated"), "png"),
        ("bmp", ("bmp",), "png"),
        ("tiff", ("tiff",), "png"),
        ("lzw tiff", ("tiff",), "png"),
        ("cmyk tiff", ("tiff", "cmyk"), "png"),
        ("webp", ("webp",), "jpeg"),
        ("lossless webp", ("webp",), "png"),
        ("animated webp", ("webp", "animated"), "png"),
    ],
)
def test_what_is_stored_shows_pillows_pixels(name: str, conversions: tuple[str, ...], stored: str | None) -> None:
    data = EVERY[name]
    found = normalise(data)
    assert found.conversions == conversions
    assert found.changed == (stored is not None)
    assert found.data == data if stored is None else sniff(found.data) == stored
    image = decode(found.data, found.channels)
    assert (
        image.shape
        == (found.height, found.width, found.channels)
        == (30, 40, 1 if "gray" in name or "bi" in name else 3)
    )
    close(image, pixels(data, found.channels), again=stored == "jpeg", exact="jpeg" not in name)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [None, 20])
def test_the_moments_are_those_of_what_is_stored(name: str, size: int | None) -> None:
    found = normalise(EVERY[name], size=size)
    image = decode(found.data, 3) / 255
    assert np.allclose(found.mean, image.mean((0, 1)))
    assert np.allclose(found.square, (image**2).mean((0, 1)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_stored_upright(kind: str, orientation: int) -> None:
    data = rotated(kind, orientation)
    found = normalise(data)
    assert found.changed == (kind in ("WEBP", "TIFF"))
    assert ("exif-rotated" in found.conversions) == (orientation > 1)
    expected = pixels(data, 3)
    assert (found.height, found.width) == expected.shape[:2] == ((40, 30) if orientation > 4 else (30, 40))
    close(decode(found.data, 3), expected, again=kind == "WEBP", exact=kind != "JPEG")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparent_parts_lie_on_white(kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = normalise(encoded(SEE_THROUGH, kind, **options))
    share = ALPHA[:, :, None] / 255
    assert found.changed
    assert "alpha" in found.conversions
    assert np.abs(decode(found.data, 3) - (RGB * share + 255 * (1 - share))).max() <= 1


def test_transparency_that_hides_nothing_changes_nothing() -> None:
    opaque = COLOUR.copy()
    opaque.putalpha(255)
    data = encoded(opaque, "PNG")
    found = normalise(data)
    assert found.data == data
    assert np.array_equal(decode(found.data, 3), RGB)
    assert found.conversions == ("alpha",)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "I;16"])
def test_a_transparent_colour_of_a_png_becomes_white(mode: str) -> None:
    picture = Pil.fromarray(DEEP) if mode == "I;16" else COLOUR.quantize(8) if mode == "P" else COLOUR.convert(mode)
    colour = picture.getpixel((3, 4))
    found = normalise(encoded(picture, "PNG", transparency=colour))
    hidden = np.all(np.asarray(picture).reshape(30, 40, -1) == np.reshape(colour, -1), axis=2)
    image = decode(found.data, found.channels)
    assert hidden.any()
    assert (image[hidden] == 255).all()
    solid = decode(encoded(picture, "PNG"), found.channels)
    assert np.array_equal(image[~hidden], solid[~hidden])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_their_upper_eight(kind: str) -> None:
    found = normalise(encoded(Pil.fromarray(DEEP), kind))
    assert "16-bit" in found.conversions
    assert np.array_equal(decode(found.data, 1)[:, :, 0], DEEP >> 8)
    deep = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=2)
    found = normalise(bytes(cv2.imencode(f".{kind.lower()}", deep)[1]))
    assert "16-bit" in found.conversions
    assert np.array_equal(decode(found.data, 3)[:, :, ::-1], deep >> 8)


@pytest.mark.parametrize("name", ["jpeg", "gray png", "gif", "alpha png"])
def test_the_shorter_side_shrinks_to_size_by_averaging(name: str) -> None:
    found = normalise(EVERY[name], size=15)
    assert (found.height, found.width) == (15, 20)
    assert found.conversions[-1] == "resized"
    assert sniff(found.data) == "jpeg"
    whole = normalise(EVERY[name])
    halves = decode(whole.data, 1).reshape(15, 2, 20, 2).mean((1, 3))  # of the luma: JPEG halves the colours again
    assert np.abs(decode(found.data, 1)[:, :, 0] - halves).max() <= 8
    assert Pil.open(io.BytesIO(found.data)).quantization[0][0] == 3  # JPEG's table at quality 90


def test_nothing_is_enlarged_and_nothing_vanishes() -> None:
    for size in (30, 31, 500):
        assert normalise(EVERY["jpeg"], size=size).data == EVERY["jpeg"]
    strip = normalise(encoded(Pil.new("L", (4, 3000)), "PNG"), size=1)
    assert (strip.width, strip.height) == (1, 750)


def test_what_is_too_long_for_a_jpeg_stays_a_png() -> None:
    found = normalise(encoded(Pil.new("L", (140_000, 2), 7), "PNG"), size=1)
    assert (sniff(found.data), found.width, found.height) == ("png", 70_000, 1)


def bomb(kind: str) -> bytes:
    data = bytearray(encoded(Pil.new("RGB", (4, 4)), kind, **({"lossless": True} if kind == "WEBP" else {})))
    if kind == "PNG":
        struct.pack_into(">II", data, 16, 60_000, 60_000)
    if kind == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 60_000, 60_000)
    if kind == "GIF":
        struct.pack_into("<HH", data, 6, 60_000, 60_000)
    if kind == "BMP":
        struct.pack_into("<ii", data, 18, 60_000, -60_000)
    if kind == "WEBP":
        struct.pack_into("<I", data, 21, 16_383 | 16_383 << 14)
    if kind == "TIFF":
        (at,) = struct.unpack_from("<I", data, 4)
        for entry in range(at + 2, at + 2 + 12 * data[at], 12):
            if struct.unpack_from("<H", data, entry)[0] in (256, 257):
                struct.pack_into("<HII", data, entry + 2, 4, 1, 60_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_bomb_is_refused_from_its_header(kind: str) -> None:
    with pytest.raises(DataError, match=r"pixels by its header, more than 64,000,000"):
        normalise(bomb(kind))
    with pytest.raises(DataError, match=r"40x30 pixels by its header, more than 1,199"):
        normalise(encoded(COLOUR, kind), max_pixels=1199)
    assert normalise(encoded(COLOUR, kind), max_pixels=1200).width == 40


def test_a_tiff_with_giant_tiles_is_a_bomb() -> None:
    tags = [(256, 4), (257, 4), (322, 60_000), (323, 60_000)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4)
    with pytest.raises(DataError, match="60000x60000 pixels"):
        normalise(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"my dogs", "not an image"),
        (b"<!DOCTYPE html><title>404</title>", "not an image of a kind that can be used, but HTML"),
        (b"\xef\xbb\xbf\n <html>", "not an image of a kind that can be used, but HTML"),
        (b'<?xml version="1.0"?><!-- x --><svg/>', "not an image of a kind that can be used, but SVG"),
        (b'<svg xmlns="">', "not an image of a kind that can be used, but SVG"),
        (b"\0\0\0 ftypavif" + bytes(20), "not an image of a kind that can be used, but AVIF"),
        (EVERY["jpeg"][:-30], "truncated JPEG"),
        (EVERY["png"][:-30], "truncated PNG"),
        (EVERY["gif"][:-30], "truncated GIF"),
        (EVERY["bmp"][:-30], "truncated BMP"),
        (EVERY["tiff"][:500], "truncated TIFF"),
        (EVERY["webp"][:20], "truncated WEBP"),
        (EVERY["webp"][:-30], "damaged WEBP: cannot be decoded"),
        (encoded(Pil.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "pixels are 32-bit numbers, of no known range"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError) as error:
        normalise(data)
    assert error.value.what == reason


@given(st.sampled_from(sorted(EVERY)), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_what_is_cut_off_is_refused_or_was_not_needed(name: str, share: float) -> None:
    data = EVERY[name]
    try:
        found = normalise(data[: int(share * len(data))])
    except DataError:
        pass
    else:  # later frames, or an end mark
        assert np.array_equal(decode(found.data, 3), decode(normalise(data).data, 3))


@given(st.sampled_from(sorted(EVERY)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_flipped_bits_give_an_image_or_a_reason_never_anything_else(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(EVERY[name])
    for place, bit in flips:
        data[int(place**3 * (len(data) - 1))] ^= 1 << bit  # headers are hit more often
    try:
        found = normalise(bytes(data), max_pixels=10_000)
    except DataError:
        pass
    else:
        assert decode(found.data, found.channels).shape == (found.height, found.width, found.channels)
