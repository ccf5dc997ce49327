"""Images as they come out of broken disks, downloads and programs: eight kinds, each with what must be said of it."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

Spoil = Callable[[Path, random.Random], str]


def good_image(number: int, kind: str) -> bytes:
    """A picture of its own for every number."""
    small = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return bytes(cv2.imencode(f".{kind}", cv2.resize(small, (32, 24)))[1])


def truncated(file: Path, chance: random.Random) -> str:
    data = file.read_bytes()
    file.write_bytes(data[: chance.randrange(40, len(data) - 12)])
    return "truncated JPEG" if data[0] == 0xFF else "truncated PNG"


def no_bytes(file: Path, chance: random.Random) -> str:
    file.write_bytes(b"")
    return "empty file"


def wrong_magic(file: Path, chance: random.Random) -> str:
    file.write_bytes(b"\0\0\0\0\0\0\0\0" + file.read_bytes()[8:])
    return "not an image"


def flipped_bits(file: Path, chance: random.Random) -> str:
    """In the compressed pixels of a PNG, which has checksums. Those of a JPEG say nothing: see the README."""
    data = bytearray(good_image(chance.randrange(2**31), "png"))
    start = data.index(b"IDAT") + 6
    length = int.from_bytes(data[start - 10 : start - 6], "big") - 6  # without zlib's own header and checksum
    for _ in range(chance.choice((1, 1, 3))):
        data[start + chance.randrange(length)] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    return "damaged PNG: cannot be decoded"


def wrong_size(file: Path, chance: random.Random) -> str:
    """More rows by the header, whose checksum is right, than there are."""
    data = bytearray(good_image(chance.randrange(2**31), "png"))
    data[20:24] = struct.pack(">I", chance.randrange(30, 3000))
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    file.write_bytes(data)
    return "damaged PNG: cannot be decoded"


def no_image(file: Path, chance: random.Random) -> str:
    file.write_bytes(b"<!DOCTYPE html><title>404 Not Found</title>")
    return "not an image of a kind that can be used, but HTML"


def bomb(file: Path, chance: random.Random) -> str:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    file.write_bytes(header + struct.pack(">I", zlib.crc32(chunk)) + end)
    return "100000x100000 pixels by its header, more than 64,000,000"


def unreadable(file: Path, chance: random.Random) -> str:
    file.unlink()
    file.symlink_to("nowhere")  # whoever runs the tests as root can read all else
    return "cannot be read: No such file or directory"


KINDS: tuple[Spoil, ...] = (truncated, no_bytes, wrong_magic, flipped_bits, wrong_size, no_image, bomb, unreadable)
