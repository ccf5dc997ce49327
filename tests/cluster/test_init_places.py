"""Fine-tuning at another size: computed places stay those that the weights know, in a training and in every trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vitray.cli import main
from vitray.cluster import sweeps
from vitray.cluster.launch import Prepared
from vitray.errors import CheckpointError, ConfigError
from vitray.experiment import Experiment, ModelConfig
from vitray.models import VisionTransformer
from vitray.models.export import export
from vitray.models.package import PackageInfo, load_package, save_package
from vitray.train.checkpoint import TrainState
from vitray.train.optim import make_optimizer
from vitray.train.pretrained import begin_with_pretrained

pytestmark = pytest.mark.slow

TEN = tuple("0123456789")


@pytest.fixture
def folder(project: Path) -> Path:
    """A project with a config for digits of 8 x 8 pixels, and a machine that can hold a sweep."""
    with (project / "c.yaml").open("a") as config:
        config.write(
            "model: {patch_size: 2, embed_dim: 16, depth: 2, num_heads: 2, pos_encoding: rope_2d}\n"
            "train: {init_from: model}\n"
        )
    return project


def package(folder: Path, **changes: Any) -> Path:
    """Of 4 x 4 patches, every parameter random."""
    shape = {"image_size": 8, "in_chans": 1, "num_classes": 10, "patch_size": 2, "embed_dim": 16, "depth": 2}
    config = ModelConfig(**shape | {"num_heads": 2, "pos_encoding": "rope_2d"} | changes)
    model = VisionTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    info = PackageInfo(model=config, classes=TEN, mean=(0.3,), std=(0.4,), dataset_fingerprint="f" * 64)
    return save_package(folder / "model", model.state_dict(), info)


def prepared(*words: str) -> Prepared:
    return Prepared.load("c.yaml", words)


def begun(experiment: Experiment) -> VisionTransformer:
    """The model as a worker begins to train it."""
    model = VisionTransformer(experiment.model)
    begin_with_pretrained(TrainState(model, make_optimizer(model, experiment.optim)), experiment, TEN)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "as_file"),
    [
        ("sinusoidal", False),
        ("sinusoidal_2d", False),
        ("rope_2d", False),
        pytest.param("rope_2d", True, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_training_begins_with_what_the_weights_answer_at_that_size(folder: Path, kind: str, as_file: bool) -> None:
    old = load_package(package(folder, pos_encoding=kind))[0]
    start = str(export(folder / "model", folder / "vit.safetensors").path) if as_file else "model"
    words = (f"train.init_from={start}", "data.image_size=12", f"model.pos_encoding={kind}")
    experiment = prepared(*words).experiment
    assert (experiment.model.grid, experiment.model.pos_grid) == ((6, 6), (4, 4))
    x = torch.randn(3, 1, 12, 12)
    assert torch.equal(begun(experiment)(x), old(x))
    counts_its_own = prepared(*words, "model.pos_grid=[6, 6]").experiment
    assert counts_its_own.model.pos_grid == (6, 6)
    assert not torch.allclose(begun(counts_its_own)(x), old(x), atol=1e-3)


def test_a_start_that_counts_in_an_earlier_grid_hands_it_on(folder: Path) -> None:
    package(folder, image_size=12, pos_grid=(3, 5))
    assert prepared().experiment.model.pos_grid == (3, 5)
    saved = prepared().experiment
    (folder / "saved.yaml").write_text(
        (folder / "c.yaml").read_text().replace("rope_2d}", "rope_2d, pos_grid: [3, 5]}")
    )
    assert Prepared.load("saved.yaml", ()).experiment.identity == saved.identity


@pytest.mark.parametrize("kind", ["none", "learned", "relative"])
def test_encodings_that_compute_no_places_get_no_grid(folder: Path, kind: str) -> None:
    package(folder, pos_encoding=kind)
    words = (f"model.pos_encoding={kind}", "data.image_size=12")
    assert prepared(*words).experiment.model.pos_grid is None
    with pytest.raises(ConfigError, match=f"pos_grid means nothing to pos_encoding {kind}"):
        prepared(*words, "model.pos_grid=[4, 4]")


def test_every_trial_counts_in_the_grid_of_the_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package(folder)
    space = "search.space={model.image_size: [8, 12, [16, 8]], model.patch_size: [2, 4]}"
    plan = sweeps.plan(prepared(space, "search.algorithm=grid"))
    trials = [plan.trial(index).model for index in range(len(plan.points))]
    assert {trial.grid for trial in trials} == {(4, 4), (2, 2), (6, 6), (3, 3), (8, 4), (4, 2)}
    assert {trial.pos_grid for trial in trials} == {(4, 4)}
    with pytest.raises(SystemExit) as left:
        main(["sweep", "plan", "c.yaml", space])
    table = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0
    assert "positions: rope_2d places 6 x 6 patches on the grid of 4 x 4 that the weights know" in table
    assert "places 4 x 4 patches" not in table


def test_a_search_for_the_encoding_is_refused_as_before(folder: Path) -> None:
    package(folder)
    with pytest.raises(ConfigError, match=r"trial cannot begin .* model\.pos_encoding was rope_2d, is learned"):
        sweeps.plan(prepared("search.space={model.pos_encoding: [rope_2d, learned]}", "search.algorithm=grid"))


def test_another_encoding_than_that_of_the_weights_is_refused_as_before(folder: Path) -> None:
    package(folder, pos_encoding="sinusoidal")
    with pytest.raises(ConfigError, match=r"model\.pos_encoding was sinusoidal, is rope_2d"):
        sweeps.plan(prepared())


def test_a_damaged_file_is_told_before_anything_starts(folder: Path) -> None:
    package(folder)
    file = export(folder / "model", folder / "vit.safetensors").path
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is damaged"):
        prepared(f"train.init_from={file}")
