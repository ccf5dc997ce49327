"""Models to serve: tiny, untrained, different from each other, with class names that would run if they were markup."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vitray.data.decode import encode_jpeg, encode_png
from vitray.experiment import ModelConfig
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package
from vitray.tracking import MlflowTracker, registry

CLASSES = ("<img src=x onerror=\"document.title='taken'\">", "</script><b>bee</b>", "cat & 'dog'", "d" * 90, "elk")


def save_model(folder: Path, seed: int) -> Path:
    """A package of 8x12 RGB images and five classes; every seed answers differently."""
    torch.manual_seed(seed)
    config = ModelConfig(
        image_size=(8, 12), patch_size=4, in_chans=3, num_classes=5, embed_dim=16, depth=2, num_heads=2
    )
    model = VisionTransformer(config)
    torch.nn.init.normal_(model.head.weight, std=2.0)  # answers that differ from picture to picture
    info = PackageInfo(
        model=config, classes=CLASSES, mean=(0.3,) * 3, std=(0.4,) * 3, dataset_fingerprint=f"{seed:064x}"
    )
    return save_package(folder, model.state_dict(), info)


def encoded(count: int = 12) -> list[bytes]:
    """PNG and JPEG files in turn, of many sizes."""
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (8 + 3 * i, 12 + i, 3), dtype=np.uint8) for i in range(count)]
    return [encode_jpeg(image, 95) if i % 2 else encode_png(image) for i, image in enumerate(images)]


class Models:
    """A registry of its own below ``home``, with versions of the model ``signs``."""

    def __init__(self, home: Path) -> None:
        self.home, self.uri = home, f"sqlite:///{home}/mlflow.db"
        self.packages: dict[str, Path] = {}  # by label, as in signs/1

    def add(self, *, alias: str | None = None) -> int:
        """Register another version, and let ``alias`` mean it."""
        number = len(self.packages) + 1
        package = save_model(self.home / "made" / str(number), seed=number)
        tracker = MlflowTracker(self.uri, self.home / "spool", self.home / "artifacts")
        tracker.start_run(f"r{number}", name="r", experiment="e", params={}, tags={})
        tracker.end_run(f"r{number}", "FINISHED")
        assert tracker.flush(60)
        tracker.close()
        registry.register_model(
            self.uri, name="signs", package=package, run=f"r{number}", tags={}, description="", alias=alias,
            metrics={"test/accuracy": 0.75},
        )  # fmt: skip
        self.packages[f"signs/{number}"] = package
        return number

    def promote(self, number: int) -> None:
        registry.set_alias(self.uri, "signs", number, "champion")

    def stored(self, number: int) -> Path:
        """The weights' file that the registry hands out."""
        return registry.download(f"models:/signs/{number}", tracking_uri=self.uri) / "model.safetensors"
