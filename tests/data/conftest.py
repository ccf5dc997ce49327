"""Image folders as people have them, and datasets prepared once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from vitray.data.prepare import prepare
from vitray.data.shards import ShardStore

MakeFolder = Callable[..., Path]


def _encoded(seed: int, kind: str) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return bytes(cv2.imencode(f".{kind}", cv2.resize(small, (32, 24)))[1])


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes a folder of classes: JPEG and PNG, some with the other's extension or none, some in sub-folders."""

    def make(name: str = "pictures", classes: tuple[str, ...] = ("cat", "dog"), per_class: int = 20) -> Path:
        names = [("jpg", "{}.jpg"), ("png", "{}.png"), ("jpg", "{}.png"), ("png", "in/side/{}.jpeg"), ("jpg", "{}")]
        for c, label in enumerate(classes):
            for i in range(per_class):
                kind, pattern = names[i % len(names)]
                file = tmp_path / name / label / pattern.format(i)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(_encoded(1000 * c + i, kind))
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in many small shards, row groups of 16. Only for reading."""
    folder = tmp_path_factory.mktemp("small") / "ds"
    prepare("builtin:digits", folder, rows_per_group=16, shard_mb=0.01)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty colour JPEG and PNG images, each of another size, in row groups of 8. Only for reading."""
    source = tmp_path_factory.mktemp("photos")
    for i in range(60):
        small = np.random.default_rng(i).integers(0, 255, (5, 4, 3), dtype=np.uint8)
        kind = "jpg" if i % 2 else "png"
        file = source / "in" / ("cat", "dog", "owl")[i % 3] / f"{i}.{kind}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(cv2.imencode(f".{kind}", cv2.resize(small, (20 + i, 50 - i // 2)))[1]))
    prepare(str(source / "in"), source / "ds", rows_per_group=8)
    return source / "ds"


@pytest.fixture
def sharded(small_shards: Path, tmp_path: Path) -> ShardStore:
    """A copy of ``small_shards``, free to be damaged."""
    shutil.copytree(small_shards, tmp_path / "sharded")
    return ShardStore.open(tmp_path / "sharded")
