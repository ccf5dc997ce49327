"""Photographs for the benchmarks: crops of scikit-learn's two sample photos, the same for the same number every time.

``large``: 256 x 256 JPEG, quality 90, 4:2:0, 15-30 kB, as a photo set prepared at one size. ``small``: 32 x 32 PNG.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

CLASSES = 10


def write_photos(folder: Path, count: int, *, small: bool = False) -> Path:
    """Write ``count`` photos as a class folder (``class3/000013.jpg``); returns the folder."""
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
    chunks = [range(start, min(start + 250, count)) for start in range(0, count, 250)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write, [folder] * len(chunks), chunks, [small] * len(chunks)))
    return folder


def repeat_photos(photos: Path, folder: Path, times: int) -> Path:
    """A class folder that holds every photo ``times`` times over, without taking more of the disk."""
    for file in photos_of(photos):
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        for number in range(times):
            os.link(file, folder / file.parent.name / f"{file.stem}-{number}{file.suffix}")
    return folder


def write_parquet(photos: Path, folder: Path, *, rows_per_file: int) -> Path:
    """The same photos as plain Parquet files of (image: encoded bytes, label), row groups of 64; returns the folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    files = photos_of(photos)
    files = sorted(files, key=lambda file: file.name)  # classes mixed, as a shuffled writer leaves them
    for number, start in enumerate(range(0, len(files), rows_per_file)):
        part = files[start : start + rows_per_file]
        labels = pa.array([label_of(file) for file in part], pa.int64())
        table = pa.table({"image": pa.array([file.read_bytes() for file in part], pa.binary()), "label": labels})
        pq.write_table(table, folder / f"{number:05d}.parquet", compression="none", row_group_size=64)
    return folder


def photos_of(photos: Path) -> list[Path]:
    return sorted(photos.glob("*/*.*"))


def label_of(file: Path) -> int:
    return int(file.parent.name.removeprefix("class"))


def photo(index: int, *, small: bool = False) -> bytes:
    """The encoded bytes of photo ``index``: a random part of a sample photo at a random scale, colours a little off."""
    import cv2
    import numpy as np

    rng = np.random.default_rng([2026, index])
    source = _sources()[index % 2]
    height, width = source.shape[:2]
    side = int(rng.integers(200, height + 1))
    top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    size = 32 if small else 256
    shrinks = side >= size
    part = source[top : top + side, left : left + side]
    part = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    colours = part.astype(np.float32) * rng.uniform(0.85, 1.15, 3) + rng.uniform(-12, 12, 3)
    # A little grain, as a sensor leaves it: enlarged parts would be smoother than photographs are.
    pixels = np.clip(colours + rng.normal(0, 2, colours.shape), 0, 255).astype(np.uint8)
    if small:
        return cv2.imencode(".png", pixels)[1].tobytes()
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling])[
        1
    ].tobytes()


@lru_cache(maxsize=1)
def _sources() -> list[Any]:
    from sklearn.datasets import load_sample_image

    return [load_sample_image(name)[:, :, ::-1] for name in ("china.jpg", "flower.jpg")]


def _write(folder: Path, indices: Sequence[int], small: bool) -> None:
    import cv2

    cv2.setNumThreads(0)
    for index in indices:
        file = folder / f"class{index * 7 % CLASSES}" / f"{index:06d}{'.png' if small else '.jpg'}"
        file.write_bytes(photo(index, small=small))
