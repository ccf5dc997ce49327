"""Tiny untrained models on disk: their answers are arbitrary, but always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vitray.data.decode import Image
from vitray.experiment import ModelConfig
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package


def save_model(folder: Path, channels: int) -> Path:
    torch.manual_seed(channels)
    shape = {"image_size": (8, 12), "patch_size": 4, "in_chans": channels, "num_classes": 5}
    config = ModelConfig(**shape, embed_dim=16, depth=2, num_heads=2)
    model = VisionTransformer(config)
    torch.nn.init.normal_(model.head.weight, std=2.0)  # answers that differ from picture to picture
    info = PackageInfo(
        model=config,
        classes=("ant", "bee", "cat", "dog", "elk"),
        mean=(0.3,) * channels,
        std=(0.4,) * channels,
        dataset_fingerprint="f" * 64,
    )
    return save_package(folder, model.state_dict(), info)


@pytest.fixture(scope="session")
def gray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 8x12 grayscale images, five classes."""
    return save_model(tmp_path_factory.mktemp("gray") / "package", 1)


@pytest.fixture(scope="session")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for RGB images."""
    return save_model(tmp_path_factory.mktemp("colour") / "package", 3)


@pytest.fixture(scope="session")
def pictures() -> list[Image]:
    """150 images of many sizes, gray and RGB, more than one batch of them."""
    noise = np.random.default_rng(0)
    sizes = [(8, 12), (8, 8), (40, 13), (5, 60), (1, 1)]
    return [noise.integers(0, 256, (*sizes[i % 5], 3 if i % 2 else 1), dtype=np.uint8) for i in range(150)]
