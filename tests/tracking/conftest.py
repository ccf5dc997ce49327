"""A real MLflow store for every test: the embedded SQLite one, copied from a template that is set up once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vitray.experiment import ModelConfig
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package
from vitray.tracking import MlflowTracker, registry
from vitray.tracking.mlflow_client import prepare_store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in them."""
    folder = tmp_path_factory.mktemp("mlflow")
    prepare_store(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> Path:
    """A state folder with a blank in its name, which holds an empty store."""
    folder = tmp_path / "my home"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def uri(home: Path) -> str:
    return f"sqlite:///{home}/mlflow.db"


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model on disk: 8x8 grayscale digits."""
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=8,
        patch_size=4,
        in_chans=1,
        num_classes=10,
        embed_dim=16,
        depth=2,
        num_heads=2,
        pos_encoding="rope_2d",
    )
    info = PackageInfo(model=config, classes=tuple("0123456789"), mean=(0.3,), std=(0.4,), dataset_fingerprint="f" * 64)
    return save_package(tmp_path_factory.mktemp("model") / "package", VisionTransformer(config).state_dict(), info)


@pytest.fixture
def new_tracker(home: Path, uri: str) -> Iterator[Callable[..., MlflowTracker]]:
    """Makes trackers on this store (or on another address), closed when the test ends."""
    made: list[MlflowTracker] = []

    def make(address: str = uri) -> MlflowTracker:
        made.append(MlflowTracker(address, home / "spool", home / "artifacts", interval_s=0.05))
        return made[-1]

    yield make
    for tracker in made:
        tracker.close()


@pytest.fixture
def register(uri: str, package: Path, new_tracker: Callable[..., MlflowTracker]) -> Callable[..., int]:
    """Tracks a run and registers the package as its model; returns the version."""
    tracker = new_tracker()

    def go(run: str = "sweep-a", **changes: Any) -> int:
        tracker.start_run(run, name="winner", experiment="digits", params={"model.depth": 2}, tags={})
        tracker.log_metrics(run, {"test/accuracy": 0.97}, step=12)
        tracker.end_run(run, "FINISHED")
        assert tracker.flush(30)
        given: dict[str, Any] = {"name": "digits", "package": package, "run": run, "tags": {"vitray.sweep": "a"}}
        given |= {"description": "Digits, 8x8.", "metrics": {"test/accuracy": 0.97}}
        return registry.register_model(uri, **{**given, **changes})

    return go
